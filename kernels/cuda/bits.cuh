// The primitives every noise formula is written in: twin of kernels/bits.py.
//
// Only operations whose rounding IEEE 754 fixes, so that NumPy, Numba and CUDA return the same
// bits. Sources are compiled with --fmad=false: the only fused multiply-adds are those written as
// fma. (CuPy also forces -ftz=true: subnormal float32 numbers, below 1.2e-38, are zero on the
// device.)
#pragma once

using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

namespace bits {

__device__ inline float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fma(double a, double b, double c) { return __fma_rn(a, b, c); }

__device__ inline int float_bits(float x) { return __float_as_int(x); }
__device__ inline i64 float_bits(double x) { return __double_as_longlong(x); }
__device__ inline float bits_float(int i) { return __int_as_float(i); }
__device__ inline double bits_float(i64 i) { return __longlong_as_double(i); }

template <class T>
__device__ inline T select(bool condition, T if_true, T if_false) {
    return condition ? if_true : if_false;
}

template <class Real>
__device__ inline Real infinity() {
    return Real(__int_as_float(0x7F800000));
}

}  // namespace bits
