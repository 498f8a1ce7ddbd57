// Early rejection: which words cannot make their coordinate win, so that no quantile is needed.
// What kernels/cpu/argmax.py does in a visiting order, without one.
//
// Of a row, any level L will do. p_i, what a sample sees of coordinate i, is monotone in its random
// word (up to last bits), so of every coordinate words on one side of a limit have p_i below L. A
// sample has to evaluate no coordinate but those whose word is on the other side, its candidates;
// where the best of them is at least L it beats all others strictly. Where it is not, nothing has
// been learnt, and the sample is evaluated in full.
//
// L is low enough for a given part of the samples, a few in a thousand, to fall short of it:
//
//     P(max_i p_i < L) = prod_i F((L - theta_i) / eps) = exp(-depth),   depth = 6, say
//
// and then a sample has at most 1.5 depth candidates on average, however many coordinates there
// are: sum_i P(p_i >= L) <= depth, and those that are likelier than not to be candidates, which
// always are, number less than depth / log 2.
//
// No result depends on L, so it is found in float32 by the special-function units; limits have a
// margin for every rounding between a word and p_i.
#pragma once
#include "row.cuh"

// Whether words can be ruled out at all.
template <class Draw>
struct Rejects {
    // Multiplied noise falls with the word where scores are negative; a table would have to be
    // searched; and of Box-Muller's two words one alone says too little.
    static constexpr bool possible =
        Draw::kind != MULTIPLICATIVE && Draw::family != TABULATED && !Draw::box_muller;
    // Whether noise falls as the word rises.
    static constexpr bool falls = Draw::fast && Draw::family == GUMBEL;
    // Above the errors of P(z > t), relative, and of the level of a word, in words: "fast" rounds
    // levels near 1 to multiples of 2^-24, which is 256 words.
    static constexpr float SCALED = Draw::fast ? 1.001f : 1.0001f;
    static constexpr float WORDS = Draw::fast ? 1024.0f : 2.0f;
    static constexpr u32 NEVER_LESS = falls ? ~0u : 0u;  // the limit that no word falls short of

    // Whether a coordinate with this word is a candidate.
    __device__ static bool candidate(u32 word, u32 limit) {
        return falls ? word <= limit : word >= limit;
    }
};

// ---------------------------------------------------------------------------- limits from levels

// At least P(z > t), for t >= 0: by kernels/cpu/exceed.py, logistic noise exactly.
template <class Draw>
__device__ inline float exceedance(float t) {
    if constexpr (Draw::family == NORMAL) {
        // Pollak (1956): 1 - Phi(t) <= 2 phi(t) / (t + sqrt(t^2 + 8 / pi)).
        const float squared = t * t;
        return 0.7978846f / (noise32::exp(0.5f * squared) * (t + sqrtf(squared + 2.5464f)));
    }
    if constexpr (Draw::family == GUMBEL) return 1.0f / noise32::exp(t);  // > 1 - exp(-e^-t)
    return 1.0f / (1.0f + noise32::exp(t));
}

// The limit of a coordinate: words that fall short of it see strictly less than `level`.
template <class Draw, class Real = typename Draw::Real>
__device__ inline u32 limit_of(Real level, Real score, Real scale) {
    using R = Rejects<Draw>;
    float p = 0;
    bool useful = false;
    if constexpr (Draw::kind == RACE) {
        // -E score >= level needs E <= level / -score, and E = -log(1 - p) >= p.
        p = float((Draw::fast ? -Real(fast32::LN2) : Real(-1)) * level / score);
        useful = p >= 0;
    } else {
        const Real slack = bits::fma(level < 0 ? -level : level, Real(0x1p-20f), Real(0x1p-120f));
        const float t = float((level - slack - score) / scale);
        useful = t > 0;
        p = exceedance<Draw>(useful ? t : 0.0f);
    }
    const float reach = bits::fma(p, 0x1p32f * R::SCALED, R::WORDS);
    if (!useful || !(reach < 0x1.fffffep31f)) return R::NEVER_LESS;
    return R::falls ? u32(reach) : 0u - u32(reach);
}

// ---------------------------------------------------------------------------- levels from depths

// About -log P(z < t).
template <class Draw>
__device__ inline float depth_at(float t) {
    if constexpr (Draw::family == GUMBEL) return __expf(-t);
    const float far = t < 0 ? -t : t;
    float p;  // P(z > |t|)
    if constexpr (Draw::family == NORMAL) {
        const float root = sqrtf(bits::fma(t, t, 2.5464f));
        p = __fdividef(0.7978846f * __expf(-0.5f * t * t), far + root);
    } else {
        const float e = __expf(-far);
        p = __fdividef(e, 1.0f + e);
    }
    if (t < 0) return -fast32::log(p);
    return bits::fma(bits::fma(0.4f, p, 0.5f), p * p, p);  // -log(1 - p) for p <= 1 / 2
}

// x of all threads of a block, taken together in a fixed order; `shared` has room for one a warp.
template <class T, class Together>
__device__ inline T of_block(T x, T* shared, Together together) {
    for (int lane_xor = WARP / 2; lane_xor > 0; lane_xor /= 2)
        x = together(x, __shfl_xor_sync(ALL_LANES, x, lane_xor));
    __syncthreads();  // the last call's have been read
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    x = shared[0];
    for (int warp = 1; warp < blockDim.x / WARP; ++warp) x = together(x, shared[warp]);
    return x;
}

// The level of a row of scores: the highest of a grid that is deep enough, -inf if none is. All
// threads of the block call it and have the result.
template <class Draw, class Real = typename Draw::Real>
__device__ inline Real level_of_row(const Real* theta, const Real* epsilon, int d, float depth,
                                    Real* reals, float* floats) {
    constexpr int STEPS = 256;
    constexpr float LOWEST = Draw::family == NORMAL   ? -3.6f
                             : Draw::family == GUMBEL ? -2.5f
                                                      : -12.0f;
    constexpr float HIGHEST = Draw::family == NORMAL ? 6.6f : 23.0f;  // no float32 noise is above
    const auto larger = [](Real a, Real b) { return max(a, b); };
    const auto sum = [](float a, float b) { return a + b; };
    const Real infinity = bits::infinity<Real>();
    Real largest = -infinity, widest = Draw::per_coordinate ? Real(0) : epsilon[0];
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const Real x = theta[i];
        if (!(x > -infinity && x < infinity)) continue;
        largest = max(largest, x);
        if constexpr (Draw::per_coordinate) widest = max(widest, epsilon[i]);
    }
    largest = of_block(largest, reals, larger);
    if constexpr (Draw::per_coordinate) widest = of_block(widest, reals, larger);
    const Real inverse = Real(1) / widest;
    int steps = 0;
    for (int bit = STEPS / 2; bit > 0; bit /= 2) {
        const Real above = widest * Real(LOWEST + (HIGHEST - LOWEST) / STEPS * float(steps | bit));
        float reached = 0;
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            const Real gap = above + (largest - theta[i]);
            reached +=
                depth_at<Draw>(float(Draw::per_coordinate ? gap / epsilon[i] : gap * inverse));
        }
        if (of_block(reached, floats, sum) >= depth) steps |= bit;
    }
    const Real above = widest * Real(LOWEST + (HIGHEST - LOWEST) / STEPS * float(steps));
    return steps == 0 ? -infinity : largest + above;
}

// ------------------------------------------------------------------------------------ candidates

constexpr int CANDIDATE_QUADS = 16;  // that a thread keeps in mind

// Quads among a thread's with candidates, in order: the first of them in list[0], list[stride],
// ..., each as 16 quad + a bit for every candidate; and how many there are.
template <class Draw>
__device__ inline int list_candidates(const Noise<Draw>& noise, const Quad<u32>* limits, int quads,
                                      int first, int step, u32 sample, u32* list, int stride) {
    using R = Rejects<Draw>;
    int found = 0;
    const auto* of_quad = limits + first;
#pragma unroll 4
    for (int q = first; q < quads; q += step) {
        const Quad<u32> w = noise.words(q, sample), limit = *of_quad;
        of_quad += step;
        bool any = false;
#pragma unroll
        for (int k = 0; k < 4; ++k) any |= R::candidate(w[k], limit[k]);
        if (!any) continue;
        u32 entry = 16 * u32(q);
#pragma unroll
        for (int k = 0; k < 4; ++k) entry |= R::candidate(w[k], limit[k]) ? 1u << k : 0u;
        if (found < CANDIDATE_QUADS) list[found * stride] = entry;
        ++found;
    }
    return found;
}
