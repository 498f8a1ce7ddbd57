// Pieces of the noise laws: exponential of either sign, logarithm, Mills' ratio. Twin of
// kernels/exact/tails32.py (for float) and tails64.py (for double): same polynomials, same order.
#pragma once
#include "noise64.cuh"

namespace tails {

using bits::bits_float;
using bits::float_bits;
using bits::fma;
using bits::select;

// The polynomial with an even number of coefficients, the highest power first; two at a time.
template <int N, class Real>
__device__ inline Real polynomial(const Real (&c)[N], Real x) {
    static_assert(N % 2 == 0);
    const Real square = x * x;
    Real p = fma(c[0], x, c[1]);
#pragma unroll
    for (int i = 2; i < N; i += 2) p = fma(p, square, fma(c[i], x, c[i + 1]));
    return p;
}

// exp(x) for |x| <= 87, and the value at the nearer end beyond: 1.6e-38, 6.1e37.
__device__ inline float exp(float x) {
    constexpr float EXP[8] = {float(1.0 / 5040),
                              float(1.0 / 720),
                              float(1.0 / 120),
                              float(1.0 / 24),
                              float(1.0 / 6),
                              0.5f,
                              1.0f,
                              1.0f};
    constexpr float LN2_HIGH = 0.693359375f;  // 9 bits, so n * high is exact
    constexpr float LN2_LOW = -2.12194440054690583e-4f;
    x = select(x > 87.0f, 87.0f, x);
    x = select(x < -87.0f, -87.0f, x);
    const int n = int(fma(x, 1.4426950408889634f, 128.5f)) - 128;  // to nearest
    const float k = float(n);
    const float r = fma(k, -LN2_LOW, fma(k, -LN2_HIGH, x));
    return polynomial(EXP, r) * bits_float((n + 127) << 23);
}

// exp(x) for |x| <= 700, and the value at the nearer end beyond: 1e-304, 1e304.
__device__ inline double exp(double x) {
    constexpr double EXP[14] = {
        1.0 / 6227020800,
        1.0 / 479001600,
        1.0 / 39916800,
        1.0 / 3628800,
        1.0 / 362880,
        1.0 / 40320,
        1.0 / 5040,
        1.0 / 720,
        1.0 / 120,
        1.0 / 24,
        1.0 / 6,
        0.5,
        1.0,
        1.0,
    };
    constexpr double LN2_HIGH = 0.6931471803691238;  // 33 bits, so n * high is exact
    constexpr double LN2_LOW = 1.9082149292705877e-10;
    x = select(x > 700.0, 700.0, x);
    x = select(x < -700.0, -700.0, x);
    const i64 n = i64(fma(x, 1.4426950408889634, 1024.5)) - 1024;  // to nearest
    const double k = double(n);
    const double r = fma(k, -LN2_LOW, fma(k, -LN2_HIGH, x));
    return polynomial(EXP, r) * bits_float((n + 1023) << 52);
}

// log x of x > 0, given 1 - x to full relative precision (it rules near 1).
__device__ inline float log1m(float x, float one_minus_x) {
    constexpr float LOG[8] = {
        0.0f,
        -0.10082381218671799f,
        0.16180501878261566f,
        -0.17243224382400513f,
        0.1990688294172287f,
        -0.2497122883796692f,
        0.3333471417427063f,
        -0.5000032186508179f,
    };
    constexpr int MAGIC = 0x3F3504F3;  // bits of sqrt(1/2): where the significand's range is cut
    const int e = (float_bits(x) - MAGIC) >> 23;
    const float m = bits_float(float_bits(x) - int(u32(e) << 23));
    const float f = select(e == 0, -one_minus_x, m - 1.0f);
    return fma(float(e), 0.6931471805599453f, fma(polynomial(LOG, f), f * f, f));
}

__device__ inline double log1m(double x, double one_minus_x) {
    return noise64::log1m(x, one_minus_x);
}

template <class Real>
struct Ratio {
    Real p, r;
};

// Numerator and denominator of (1 - Phi(a)) exp(a^2 / 2) for a in [0, 20] (float), [0, 40]
// (double). All coefficients are positive: nothing cancels.
__device__ inline Ratio<float> mills(float a) {
    constexpr float P[6] = {
        0.0f,
        0.0041535859457861630f,
        0.040884446505765760f,
        0.18397975824717041f,
        0.43929862866297809f,
        0.50000000299960184f,
    };
    constexpr float R[6] = {
        0.010411384350411505f, 0.10248822323031518f, 0.47143628128652581f,
        1.2055938549669190f,   1.6764822493305778f,  1.0f,
    };
    return {polynomial(P, a), polynomial(R, a)};
}

__device__ inline Ratio<double> mills(double a) {
    constexpr double P[10] = {
        1.3936394871259049439e-6, 0.000037436771052912171822, 0.00049246373044194398212,
        0.0041036657030653750894, 0.023690805988855890188,    0.097925505391455010742,
        0.28984126543335753037,   0.59476478579650708671,     0.77537465438985674361,
        0.49999999999999997547,
    };
    constexpr double R[12] = {
        0.0,
        3.4933361430813942913e-6,
        0.000093840068830151608368,
        0.0012379168472850211816,
        0.010380204539210232928,
        0.060611481384792120802,
        0.25556151369436273802,
        0.78347467810506339008,
        1.7166788751588503959,
        2.5634682751119532737,
        2.3486338695825690541,
        1.0,
    };
    return {polynomial(P, a), polynomial(R, a)};
}

}  // namespace tails
