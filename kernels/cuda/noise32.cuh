// The noise formulas in float32, from one word x: twin of kernels/noise32.py, line by line.
#pragma once
#include "bits.cuh"

namespace noise32 {

using bits::bits_float;
using bits::float_bits;
using bits::fma;
using bits::select;

constexpr float LN2 = 0.6931471805599453f;
constexpr int MAGIC = 0x3F3504F3;  // bits of sqrt(1/2): where the significand's range is cut

// log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1], with full relative precision at 0.
__device__ inline float log1p_core(float f) {
    constexpr float LOG1P[7] = {
        -0.5000032186508179f,  0.3333471417427063f,  -0.2497122883796692f,  0.1990688294172287f,
        -0.17243224382400513f, 0.16180501878261566f, -0.10082381218671799f,
    };
    float p = fma(LOG1P[6], f, LOG1P[5]);
    p = fma(p, f, LOG1P[4]);
    p = fma(p, f, LOG1P[3]);
    p = fma(p, f, LOG1P[2]);
    p = fma(p, f, LOG1P[1]);
    p = fma(p, f, LOG1P[0]);
    return fma(p, f, 1.0f) * f;
}

// log of x in (0, 1], given 1 - x to full relative precision (it rules near 1).
__device__ inline float log1m(float x, float one_minus_x) {
    const int e = (float_bits(x) - MAGIC) >> 23;
    const float m = bits_float(float_bits(x) - int(u32(e) << 23));
    const float f = select(e == 0, -one_minus_x, m - 1.0f);
    return fma(float(e), LN2, log1p_core(f));
}

// log of a positive, normal float.
__device__ inline float log(float x) {
    const int e = (float_bits(x) - MAGIC) >> 23;
    const float m = bits_float(float_bits(x) - int(u32(e) << 23));
    return fma(float(e), LN2, log1p_core(m - 1.0f));
}

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2_HIGH = 0.693359375f;  // 9 bits, so n * high is exact
constexpr float LN2_LOW = -2.12194440054690583e-4f;
constexpr float EXP_LIMIT = 88.0f;

// exp(x) for x >= 0; +inf above 88.
__device__ inline float exp(float x) {
    const bool over = x > EXP_LIMIT;
    x = select(over, EXP_LIMIT + 1.0f, x);
    const int n = int(x * LOG2E + 0.5f);
    const float k = float(n);
    const float r = fma(k, -LN2_LOW, fma(k, -LN2_HIGH, x));
    float p = fma(float(1.0 / 5040), r, float(1.0 / 720));
    p = fma(p, r, float(1.0 / 120));
    p = fma(p, r, float(1.0 / 24));
    p = fma(p, r, float(1.0 / 6));
    p = fma(p, r, 0.5f);
    p = fma(p, r, 1.0f);
    p = fma(p, r, 1.0f);
    return select(over, bits::infinity<float>(), p * bits_float((n + 127) << 23));
}

// -------------------------------------------------------------------------------- the families

struct Tail {
    float t;     // min(u, 1 - u)
    bool upper;  // whether u > 1 / 2
};

__device__ inline Tail tail(u32 x) {
    const int side = int(x) >> 31;
    const int near = int(x) ^ side;
    return {fma(float(near), 0x1p-32f, 0x1p-33f), side < 0};
}

// E = -log(u).
__device__ inline float exponential(u32 x) {
    const auto [t, upper] = tail(x);
    const float one_minus_t = 1.0f - t;
    return -log1m(select(upper, one_minus_t, t), select(upper, t, one_minus_t));
}

// |z| = y A(y) / B(y) over y = -log(2 t): one rational function for the centre and both tails.
__device__ inline float normal_numerator(float y) {
    float a = fma(1.4176664990372956e-05f, y, 0.004418878350406885f);
    a = fma(a, y, 0.13986900448799133f);
    a = fma(a, y, 1.0268837213516235f);
    a = fma(a, y, 2.181500196456909f);
    return fma(a, y, 1.2533140182495117f);
}

__device__ inline float normal_denominator(float y) {
    float b = fma(0.0002656603173818439f, y, 0.02210899069905281f);
    b = fma(b, y, 0.3409857153892517f);
    b = fma(b, y, 1.511268138885498f);
    b = fma(b, y, 2.240576982498169f);
    return fma(b, y, 1.0f);
}

// The normal quantile.
__device__ inline float normal(u32 x) {
    const auto [t, upper] = tail(x);
    const float y = -log(t + t);
    const float z = y * normal_numerator(y) / normal_denominator(y);
    return select(upper, z, -z);
}

__device__ inline float gumbel(u32 x) { return -log(exponential(x)); }

__device__ inline float gumbel_score(u32 x) { return 1.0f - exponential(x); }

__device__ inline float logistic(u32 x) {
    const auto [t, upper] = tail(x);
    const float z = log((1.0f - t) / t);
    return select(upper, z, -z);
}

__device__ inline float logistic_score(u32 x) {
    const auto [t, upper] = tail(x);
    const float s = fma(-2.0f, t, 1.0f);
    return select(upper, s, -s);
}

}  // namespace noise32
