"""The same kernels in CUDA C++, compiled on first use by NVRTC through CuPy.

``*.cuh`` are pieces, ``*.cu`` kernels, ``launch`` allocates and launches, ``device`` is CuPy.
Importing this package imports none of them, and so no CuPy.
"""
