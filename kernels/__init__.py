"""What must be fast: raw arrays, sizes and seeds, no framework and no autograd.

``philox`` and ``noise`` define the random numbers, ``reference`` every kernel in plain NumPy, and
``cpu`` the fused Numba kernels that equal it bit for bit. Importing this package imports none.
"""
