// Noise that is data, its quantile and score tabulated: twin of kernels/noise_table.py.
#pragma once
#include "noise32.cuh"
#include "noise64.cuh"

namespace noise_table {

constexpr int BITS = 4;  // of the significand, that name a row

template <class Real>
struct Layout;

template <>
struct Layout<float> {
    static constexpr int degree = 3, rows = (32 << BITS) + 1, mantissa = 23;
    static constexpr int first = (127 - 33) << BITS;
};

template <>
struct Layout<double> {
    static constexpr int degree = 7, rows = (64 << BITS) + 1, mantissa = 52;
    static constexpr int first = (1023 - 65) << BITS;
};

// Of a whole table, in u32.
template <class Real>
constexpr int WORDS = 4 * Layout<Real>::rows * (Layout<Real>::degree + 1) * int(sizeof(Real) / 4);

// The polynomial of a word, from the rows of z (begin = 0) or of s (begin = 2 rows).
template <class Real>
__device__ inline Real polynomial(const Real* table, Real t, bool upper, int begin) {
    using L = Layout<Real>;
    constexpr int shift = L::mantissa - BITS;
    const auto bits = bits::float_bits(t);
    const int row = begin + int(bits >> shift) - L::first + (upper ? L::rows : 0);
    const auto mask = (decltype(bits)(1) << shift) - 1;
    const Real place = Real(bits & mask) * (Real(1) / Real(i64(1) << shift));
    const Real* c = table + row * (L::degree + 1);
    Real p = c[L::degree];
#pragma unroll
    for (int k = L::degree - 1; k >= 0; --k) p = bits::fma(p, place, c[k]);
    return p;
}

__device__ inline float look_up(const float* table, u32 w, u32, int begin) {
    const auto [t, upper] = noise32::tail(w);
    return polynomial(table, t, upper, begin);
}

__device__ inline double look_up(const double* table, u32 w, u32 v, int begin) {
    const auto [t, upper] = noise64::tail(w, v);
    return polynomial(table, t, upper, begin);
}

// z of a word (two, in float64).
template <class Real>
__device__ inline Real quantile(const Real* table, u32 w, u32 v) {
    return look_up(table, w, v, 0);
}

// s(z) of a word (two, in float64).
template <class Real>
__device__ inline Real score(const Real* table, u32 w, u32 v) {
    return look_up(table, w, v, 2 * Layout<Real>::rows);
}

}  // namespace noise_table
