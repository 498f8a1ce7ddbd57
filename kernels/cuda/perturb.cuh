// Perturb: noise for one quad (four coordinates) of one sample. Twin of kernels/cpu/perturb.py,
// where thirty-two samples run in the lanes of a vector; here a thread has one.
//
// Whoever asks gets the same noise: it depends on (coordinate, sample, row) alone. The branches on
// the Draw are decided by the compiler.
#pragma once
#include "codes.cuh"
#include "fast32.cuh"
#include "noise32.cuh"
#include "noise64.cuh"
#include "noise_table.cuh"
#include "philox.cuh"

// f of a word (or two, in float64) for each family, named as in noise.py.
template <class Draw>
struct Formulas {
    using Real = typename Draw::Real;

    // z.
    __device__ static Real quantile(u32 w, u32 v) {
        if constexpr (Draw::family == GUMBEL) return minus_log(exponential(w, v));
        if constexpr (Draw::is_double) {
            return Draw::family == NORMAL ? noise64::normal(w, v) : noise64::logistic(w, v);
        } else if constexpr (Draw::fast) {
            return Draw::family == NORMAL ? fast32::normal(w) : fast32::logistic(w);
        } else {
            return Draw::family == NORMAL ? noise32::normal(w) : noise32::logistic(w);
        }
    }

    // E = exp(-z) of Gumbel noise.
    __device__ static Real exponential(u32 w, u32 v) {
        if constexpr (Draw::is_double)
            return noise64::exponential(w, v);
        else if constexpr (Draw::fast)
            return fast32::exponential(w);
        else
            return noise32::exponential(w);
    }

    // What a race is decided on: -E, in any unit.
    __device__ static Real race(u32 w, u32 v) {
        if constexpr (Draw::fast)
            return fast32::minus_exponential_log2(w);
        else
            return -exponential(w, v);
    }

    __device__ static Real logistic_score(u32 w, u32 v) {
        if constexpr (Draw::is_double)
            return noise64::logistic_score(w, v);
        else
            return noise32::logistic_score(w);
    }

    __device__ static Real minus_log(Real x) {
        if constexpr (Draw::is_double)
            return -noise64::log(x);
        else if constexpr (Draw::fast)
            return -fast32::log(x);
        else
            return -noise32::log(x);
    }
};

// exp(x) for x >= 0.
__device__ inline float exp_positive(float x) { return noise32::exp(x); }
__device__ inline double exp_positive(double x) { return noise64::exp(x); }

// exp(x) for x of either sign.
template <class Real>
__device__ inline Real growth(Real x) {
    const Real e = exp_positive(x < 0 ? -x : x);
    return x < 0 ? Real(1) / e : e;
}

// What the solver sees of a coordinate with score x and noise z (see kernels/codes.py).
template <class Draw, class Real = typename Draw::Real>
__device__ inline Real perturbed(Real x, Real scale, Real z) {
    if constexpr (Draw::kind == RACE) return z * x;
    if constexpr (Draw::kind == MULTIPLICATIVE) {
        return x * growth(bits::fma(scale, z, -Real(0.5) * scale * scale));
    }
    return bits::fma(z, scale, x);
}

// The noise of one row.
template <class Draw>
struct Noise {
    using Real = typename Draw::Real;
    using F = Formulas<Draw>;

    Key key;
    u32 row;
    u32 first_quad;   // what quad 0 of a shard is in the noise contract
    const u32* data;  // the table of tabulated noise, then Sobol' directions, (4 quads, digits)
    int digits;

    // z of a quad; -E of a race.
    __device__ Quad<Real> decision(int quad, u32 sample) const {
        Quad<Real> z;
        const Quad<u32> w = words(quad, sample), v = refinement(quad, sample);
        if constexpr (Draw::box_muller) return box_muller(w);
#pragma unroll
        for (int k = 0; k < 4; ++k)
            z[k] = Draw::kind == RACE ? F::race(w[k], v[k]) : quantile(w[k], v[k]);
        return z;
    }

    // s(z) of a quad; with SCALE_SCORE, s(z) z - 1 (additive) or s(z) z - 1 - eps s(z).
    __device__ Quad<Real> scores(int quad, u32 sample, const Quad<Real>& scale) const {
        Quad<Real> s;
        const Quad<u32> w = words(quad, sample), v = refinement(quad, sample);
        if constexpr (Draw::box_muller) s = box_muller(w);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            Real e = 0, z = 0;
            if constexpr (Draw::family == GUMBEL) {
                e = F::exponential(w[k], v[k]);
                s[k] = Real(1) - e;
            } else if constexpr (Draw::family == LOGISTIC) {
                s[k] = F::logistic_score(w[k], v[k]);
            } else if constexpr (Draw::family == TABULATED) {
                s[k] = noise_table::score(table(), w[k], v[k]);
            } else if constexpr (!Draw::box_muller) {
                s[k] = quantile(w[k], v[k]);
            }
            if constexpr (Draw::weighting == SCALE_SCORE) {
                z = s[k];
                if constexpr (Draw::family == GUMBEL) z = F::minus_log(e);
                if constexpr (Draw::family == LOGISTIC || Draw::family == TABULATED)
                    z = quantile(w[k], v[k]);
                const Real score = s[k];
                s[k] = bits::fma(score, z, Real(-1));
                if constexpr (Draw::kind == MULTIPLICATIVE) s[k] = s[k] - scale[k] * score;
            }
        }
        return s;
    }

    // What decides of coordinate i: z, or -E of a race.
    __device__ Real decision_at(int i, u32 sample) const {
        const int quad = i / 4, k = i % 4;
        const Quad<u32> w = words(quad, sample), v = refinement(quad, sample);
        if constexpr (Draw::box_muller) {
            const fast32::Pair pair =
                k < 2 ? fast32::normal_pair(w[0], w[1]) : fast32::normal_pair(w[2], w[3]);
            return k % 2 == 0 ? pair.first : pair.second;
        }
        const u32 high = one_of(w, k), low = one_of(v, k);
        return Draw::kind == RACE ? F::race(high, low) : quantile(high, low);
    }

    // The words whose order is the order of the noise.
    __device__ Quad<u32> words(int quad, u32 sample) const {
        if constexpr (Draw::design == SOBOL) {
            Quad<u32> w = philox4x32(quad, 0, row, STREAM_SHIFT, key);
#pragma unroll
            for (int k = 0; k < 4; ++k) w[k] ^= sobol(4 * quad + k, sample);
            return w;
        }
        return mirrored(STREAM_NOISE, quad, sample);
    }

  private:
    static constexpr int TABLE_WORDS = Draw::family == TABULATED ? noise_table::WORDS<Real> : 0;

    __device__ const Real* table() const { return reinterpret_cast<const Real*>(data); }

    __device__ Real quantile(u32 w, u32 v) const {
        if constexpr (Draw::family == TABULATED)
            return noise_table::quantile(table(), w, v);
        else
            return F::quantile(w, v);
    }

    __device__ static Quad<Real> box_muller(const Quad<u32>& w) {
        const fast32::Pair a = fast32::normal_pair(w[0], w[1]);
        const fast32::Pair b = fast32::normal_pair(w[2], w[3]);
        return {{Real(a.first), Real(a.second), Real(b.first), Real(b.second)}};
    }

    // x[k]; an array that is indexed would be in memory.
    __device__ static u32 one_of(const Quad<u32>& x, int k) {
        const u32 low = k % 2 ? x[1] : x[0], high = k % 2 ? x[3] : x[2];
        return k < 2 ? low : high;
    }

    // The second words of float64 noise.
    __device__ Quad<u32> refinement(int quad, u32 sample) const {
        if constexpr (Draw::is_double) return mirrored(STREAM_REFINE, quad, sample);
        return {};
    }

    // Words of a stream; antithetic samples 2 j and 2 j + 1 share those of j, the second
    // complemented.
    __device__ Quad<u32> mirrored(u32 stream, int quad, u32 sample) const {
        const u32 place = Draw::is_shard ? first_quad + u32(quad) : u32(quad);
        if constexpr (!Draw::paired) return philox4x32(place, sample, row, stream, key);
        Quad<u32> w = philox4x32(place, sample / 2, row, stream, key);
        const u32 flip = sample % 2 ? ~0u : 0u;
#pragma unroll
        for (int k = 0; k < 4; ++k) w[k] ^= flip;
        return w;
    }

    // Coordinate i of a Sobol' point: an xor of direction numbers.
    __device__ u32 sobol(int i, u32 point) const {
        u32 word = 0;
        for (int j = 0; j < digits; ++j)
            if (point >> j & 1) word ^= data[TABLE_WORDS + i64(i) * digits + j];
        return word;
    }
};
