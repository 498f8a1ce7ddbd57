// float32 noise by the special-function units: precision "fast".
//
// The same words through the same quantiles, each logarithm one instruction (absolute error about
// 2e-7, so z is good to a few 1e-6; E keeps its relative precision near 0, where races are won).
// Gumbel noise falls with the word, and normal noise of independent samples is Box-Muller's, two
// words to two values. Repeatable on a device, equal to no other stream.
#pragma once
#include "bits.cuh"
#include "noise32.cuh"

namespace fast32 {

using bits::fma;
using bits::select;
using noise32::tail;

constexpr float LN2 = 0.6931471805599453f;
constexpr float LOG2E = 1.4426950408889634f;

__device__ inline float log(float x) { return LN2 * __log2f(x); }

// The word's level in (0, 1 - 2^-24]: in float32 the upper tail is coarse, and ends at log(1 - u) =
// -17.
__device__ inline float level(u32 x) { return fma(float(x), 0x1.fffffep-33f, 0x1p-33f); }

// -E / ln 2 = log2(1 - v): a race has the same winner in any unit. Below 2^-8 the logarithm is not
// accurate enough. E rises with the word, z falls: the other way round is an instruction more.
__device__ inline float minus_exponential_log2(u32 x) {
    const float v = level(x);
    const float series = fma(v, -0.5f * LOG2E, -LOG2E) * v;
    return select(v < 0x1p-8f, series, __log2f(1.0f - v));
}

__device__ inline float exponential(u32 x) { return -LN2 * minus_exponential_log2(x); }

__device__ inline float gumbel(u32 x) { return -log(exponential(x)); }

__device__ inline float gumbel_score(u32 x) { return 1.0f - exponential(x); }

__device__ inline float logistic(u32 x) {
    const float u = level(x);
    return LN2 * (__log2f(u) - __log2f(1.0f - u));
}

__device__ inline float logistic_score(u32 x) { return noise32::logistic_score(x); }

// As noise32::normal, the division by a reciprocal.
__device__ inline float normal(u32 x) {
    const auto [t, upper] = tail(x);
    const float y = -log(t + t);
    const float z = __fdividef(y * noise32::normal_numerator(y), noise32::normal_denominator(y));
    return select(upper, z, -z);
}

// Box-Muller: two independent normals from two words, radius sqrt(-2 log u) in [0, 6.8].
struct Pair {
    float first, second;
};

__device__ inline Pair normal_pair(u32 radius_word, u32 angle_word) {
    const float u = fma(float(radius_word), 0x1p-32f, 0x1p-33f);
    const float squared = fmaxf(-2.0f * LN2 * __log2f(u), 1e-12f);
    const float radius = squared * rsqrtf(squared);
    const float angle = float(int(angle_word)) * 1.4629180792671596e-9f;  // 2 pi / 2^32
    return {radius * __cosf(angle), radius * __sinf(angle)};
}

}  // namespace fast32
