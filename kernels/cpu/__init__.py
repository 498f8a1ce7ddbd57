"""Fused kernels for the CPU, in Numba: ``perturb``, then solve (``argmax``), then ``accumulate``.

``simd`` is the vector type they are written in, ``launch`` allocates and splits the work, and
``threads`` runs it. Importing this package imports none of them, and so no Numba.
"""
