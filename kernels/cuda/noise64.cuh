// The noise formulas in float64, from the words high and low: twin of kernels/noise64.py.
#pragma once
#include "bits.cuh"

namespace noise64 {

using bits::bits_float;
using bits::float_bits;
using bits::fma;
using bits::select;

constexpr double LN2 = 0.6931471805599453;
constexpr i64 MAGIC = 0x3FE6A09E667F3BCD;  // bits of sqrt(1/2)

// log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1]: 2 artanh(f / (2 + f)), ten terms.
__device__ inline double log1p_core(double f) {
    const double s = f / (f + 2.0);
    const double r = s * s;
    double p = fma(2.0 / 21, r, 2.0 / 19);
    p = fma(p, r, 2.0 / 17);
    p = fma(p, r, 2.0 / 15);
    p = fma(p, r, 2.0 / 13);
    p = fma(p, r, 2.0 / 11);
    p = fma(p, r, 2.0 / 9);
    p = fma(p, r, 2.0 / 7);
    p = fma(p, r, 2.0 / 5);
    p = fma(p, r, 2.0 / 3);
    return fma(p, r * s, s + s);
}

// log of x in (0, 1], given 1 - x to full relative precision (it rules near 1).
__device__ inline double log1m(double x, double one_minus_x) {
    const i64 e = (float_bits(x) - MAGIC) >> 52;
    const double m = bits_float(float_bits(x) - i64(u64(e) << 52));
    const double f = select(e == 0, -one_minus_x, m - 1.0);
    return fma(double(e), LN2, log1p_core(f));
}

// log of a positive, normal double.
__device__ inline double log(double x) {
    const i64 e = (float_bits(x) - MAGIC) >> 52;
    const double m = bits_float(float_bits(x) - i64(u64(e) << 52));
    return fma(double(e), LN2, log1p_core(m - 1.0));
}

constexpr double LOG2E = 1.4426950408889634;
constexpr double LN2_HIGH = 0.6931471803691238;  // 33 bits, so n * high is exact
constexpr double LN2_LOW = 1.9082149292705877e-10;
constexpr double EXP_LIMIT = 700.0;

// exp(x) for x >= 0; +inf above 700.
__device__ inline double exp(double x) {
    const bool over = x > EXP_LIMIT;
    x = select(over, EXP_LIMIT + 1.0, x);
    const i64 n = i64(x * LOG2E + 0.5);
    const double k = double(n);
    const double r = fma(k, -LN2_LOW, fma(k, -LN2_HIGH, x));
    double p = fma(1.0 / 6227020800, r, 1.0 / 479001600);
    p = fma(p, r, 1.0 / 39916800);
    p = fma(p, r, 1.0 / 3628800);
    p = fma(p, r, 1.0 / 362880);
    p = fma(p, r, 1.0 / 40320);
    p = fma(p, r, 1.0 / 5040);
    p = fma(p, r, 1.0 / 720);
    p = fma(p, r, 1.0 / 120);
    p = fma(p, r, 1.0 / 24);
    p = fma(p, r, 1.0 / 6);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    return select(over, bits::infinity<double>(), p * bits_float((n + 1023) << 52));
}

// -------------------------------------------------------------------------------- the families

struct Tail {
    double t;    // min(u, 1 - u)
    bool upper;  // whether u > 1 / 2
};

__device__ inline Tail tail(u32 high, u32 low) {
    const i64 word = i64((u64(high) << 32) | low);
    const i64 side = word >> 63;
    return {fma(double(word ^ side), 0x1p-64, 0x1p-65), side < 0};
}

// E = -log(u).
__device__ inline double exponential(u32 high, u32 low) {
    const auto [t, upper] = tail(high, low);
    const double one_minus_t = 1.0 - t;
    return -log1m(select(upper, one_minus_t, t), select(upper, t, one_minus_t));
}

// c[7] x^7 + ... + c[0].
__device__ inline double degree7(const double (&c)[8], double x) {
    double p = fma(c[7], x, c[6]);
    p = fma(p, x, c[5]);
    p = fma(p, x, c[4]);
    p = fma(p, x, c[3]);
    p = fma(p, x, c[2]);
    p = fma(p, x, c[1]);
    return fma(p, x, c[0]);
}

// The normal quantile: Wichura's PPND16 (Algorithm AS 241, Applied Statistics 37, 1988), rational
// functions of 0.180625 - q^2 for |q| <= 0.425, then of r = sqrt(-log t) below and above 5.
__device__ inline double normal(u32 high, u32 low) {
    constexpr double CENTRE_A[8] = {
        3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
        1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
        3.3430575583588128105e4, 2.5090809287301226727e3,
    };
    constexpr double CENTRE_B[8] = {
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    };
    constexpr double TAIL_A[8] = {
        1.42343711074968357734e0,  4.63033784615654529590e0,  5.76949722146069140550e0,
        3.64784832476320460504e0,  1.27045825245236838258e0,  2.41780725177450611770e-1,
        2.27238449892691845833e-2, 7.74545014278341407640e-4,
    };
    constexpr double TAIL_B[8] = {
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    };
    constexpr double FAR_A[8] = {
        6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
        2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
        2.71155556874348757815e-5, 2.01033439929228813265e-7,
    };
    constexpr double FAR_B[8] = {
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    };
    const auto [t, upper] = tail(high, low);
    const double q = 0.5 - t;
    double z;
    if (q <= 0.425) {
        const double s = fma(-q, q, 0.180625);
        z = q * degree7(CENTRE_A, s) / degree7(CENTRE_B, s);
    } else {
        const double r = ::sqrt(-log(t));
        if (r <= 5.0) {
            z = degree7(TAIL_A, r - 1.6) / degree7(TAIL_B, r - 1.6);
        } else {
            z = degree7(FAR_A, r - 5.0) / degree7(FAR_B, r - 5.0);
        }
    }
    return select(upper, z, -z);
}

__device__ inline double gumbel(u32 high, u32 low) { return -log(exponential(high, low)); }

__device__ inline double gumbel_score(u32 high, u32 low) { return 1.0 - exponential(high, low); }

__device__ inline double logistic(u32 high, u32 low) {
    const auto [t, upper] = tail(high, low);
    const double z = log((1.0 - t) / t);
    return select(upper, z, -z);
}

__device__ inline double logistic_score(u32 high, u32 low) {
    const auto [t, upper] = tail(high, low);
    const double s = fma(-2.0, t, 1.0);
    return select(upper, s, -s);
}

}  // namespace noise64
