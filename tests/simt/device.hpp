// CUDA C++ for g++: what a kernel takes for granted. Included before the unmodified kernel source.
//
// Only what the kernels use is here. What must not be used is missing, so that it does not compile:
// atomics on floats (their order is not fixed), inline assembly, dynamic shared memory.
//
// Hundreds of instances are compiled, so headers are few: <cmath> alone would double the time.
#pragma once
#include <type_traits>

#include "runtime.hpp"

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
// Blocks run one after another, so a static variable is a block's. The runtime takes all that a
// kernel's library can write to for its shared memory: kernels have no other static variables.
#define __shared__ static

#define threadIdx (simt::thread_index())
#define blockIdx (simt::block_index())
#define blockDim (simt::block_size())
#define gridDim (simt::grid_size())

// -------------------------------------------------------------------------- meeting other threads

inline void __syncthreads(int line = __builtin_LINE()) { simt::count_block(false, line); }
inline int __syncthreads_or(int x, int line = __builtin_LINE()) {
    return simt::count_block(x != 0, line) > 0;
}
inline int __syncthreads_count(int x, int line = __builtin_LINE()) {
    return simt::count_block(x != 0, line);
}
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
    simt::meet(simt::Meeting::WARP_BARRIER, mask, 0, -1, line);
}
inline unsigned __ballot_sync(unsigned mask, int x, int line = __builtin_LINE()) {
    return simt::vote(mask, x != 0, line);
}
inline int __any_sync(unsigned mask, int x, int line = __builtin_LINE()) {
    return simt::vote(mask, x != 0, line) != 0;
}
inline int __all_sync(unsigned mask, int x, int line = __builtin_LINE()) {
    return simt::vote(mask, x == 0, line) == 0;
}

template <class T>
inline T __shfl_sync(unsigned mask, T x, int source, int line = __builtin_LINE()) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &x, sizeof x);
    bits = simt::meet(simt::Meeting::EXCHANGE, mask, bits, source & 31, line);
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T x, int distance, int line = __builtin_LINE()) {
    return __shfl_sync(mask, x, int(threadIdx.x % 32) ^ distance, line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T x, int distance, int line = __builtin_LINE()) {
    const int lane = threadIdx.x % 32;
    return __shfl_sync(mask, x, lane >= distance ? lane - distance : lane, line);
}

// --------------------------------------------------------------------------------------- atomics

template <class T, class Update>
__attribute__((noinline, no_sanitize("thread"))) T simt_atomic(T* p, Update update) {
    static_assert(std::is_integral_v<T>, "atomics on floats have no fixed order");
    simt::note_atomic(p, sizeof(T));
    const T old = *p;
    *p = update(old);
    return old;
}
template <class T>
inline T atomicAdd(T* p, std::common_type_t<T> x) {
    return simt_atomic(p, [x](T old) { return T(old + x); });
}
template <class T>
inline T atomicMax(T* p, std::common_type_t<T> x) {
    return simt_atomic(p, [x](T old) { return old < x ? x : old; });
}
template <class T>
inline T atomicOr(T* p, std::common_type_t<T> x) {
    return simt_atomic(p, [x](T old) { return T(old | x); });
}

// ------------------------------------------------------------------------------------- arithmetic

template <class T>
inline T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
    return a < b ? b : a;
}
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline double sqrt(double x) { return __builtin_sqrt(x); }
inline float sqrtf(float x) { return __builtin_sqrtf(x); }
inline double ceil(double x) { return __builtin_ceil(x); }
inline double floor(double x) { return __builtin_floor(x); }
inline float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }

// The special-function units are not simulated to the bit.
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return __builtin_expf(x); }
inline float __log2f(float x) { return __builtin_log2f(x); }
inline float __sinf(float x) { return __builtin_sinf(x); }
inline float __cosf(float x) { return __builtin_cosf(x); }
inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }

template <class To, class From>
inline To simt_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
inline int __float_as_int(float x) { return simt_bits<int>(x); }
inline float __int_as_float(int x) { return simt_bits<float>(x); }
inline long long __double_as_longlong(double x) { return simt_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return simt_bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
