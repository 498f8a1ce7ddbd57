// The noise families as quadrature needs them, to full relative accuracy in both tails: twin of
// kernels/exact/laws.py, which says why nothing here overflows or cancels.
//
// With CDF G, survival Q = 1 - G and density f of one noise variable:
//
//     hazard     r = f / G, the reverse hazard, and -log G
//     density    f, with Q and G
//     slope      r' and f'
//     bend       r'' and f''
#pragma once
#include "codes.cuh"
#include "tails.cuh"

namespace laws {

using bits::fma;
using bits::select;
using tails::exp;
using tails::log1m;

constexpr double SQRT_2 = 1.4142135623730951, SQRT_HALF = 0.7071067811865476;
constexpr double SQRT_HALF_OVER_PI = 0.3989422804014327;

template <class Real>
struct NormalParts {
    bool upper;    // the side
    Real q, p, r;  // exp(-u^2 / 2), and Q(|u|) = q p / r
};

template <class Real>
__device__ inline NormalParts<Real> normal_parts(Real u) {
    const bool upper = u > 0;
    const Real a = select(upper, u, -u);
    const Real square = a * a;
    const Real rounding = fma(a, a, -square);
    Real q = exp(square * Real(-0.5));
    q = fma(q * Real(-0.5), rounding, q);
    const auto [p, r] = tails::mills(a);
    return {upper, q, p, r};
}

template <class Real>
struct Hazard {
    Real minus_log, r;
};

// -log G(u) and the reverse hazard r(u).
template <int FAMILY, class Real>
__device__ inline Hazard<Real> hazard(Real u) {
    constexpr Real ONE = 1;
    if constexpr (FAMILY == NORMAL) {
        const auto [upper, q, p, r] = normal_parts(u);
        const Real tail = q * p;
        const Real d = select(upper, r - tail, p);
        const Real inverse = ONE / (r * d);
        const Real ratio = d * inverse;  // 1 / r
        const Real logarithm = log1m(d * ratio, tail * ratio);
        const Real minus_log = select(upper, Real(0), u * u * Real(0.5)) - logarithm;
        return {minus_log, select(upper, q, ONE) * (Real(SQRT_HALF_OVER_PI) * r) * (r * inverse)};
    } else if constexpr (FAMILY == GUMBEL) {
        const Real r = exp(-u);
        return {r, r};
    } else {
        const bool upper = u > 0;
        const Real z = exp(select(upper, -u, u));
        const Real minus_log = select(upper, Real(0), -u) + log1m(ONE + z, -z);
        return {minus_log, select(upper, z, ONE) / (ONE + z)};
    }
}

// r(u).
template <int FAMILY, class Real>
__device__ inline Real hazard_alone(Real u) {
    constexpr Real ONE = 1;
    if constexpr (FAMILY == NORMAL) {
        const auto [upper, q, p, r] = normal_parts(u);
        return select(upper, q, ONE) * (Real(SQRT_HALF_OVER_PI) * r) / select(upper, r - q * p, p);
    } else if constexpr (FAMILY == GUMBEL) {
        return exp(-u);
    } else {
        const bool upper = u > 0;
        const Real z = exp(select(upper, -u, u));
        return select(upper, z, ONE) / (ONE + z);
    }
}

// r'(u), given r.
template <int FAMILY, class Real>
__device__ inline Real hazard_slope(Real u, Real r) {
    if constexpr (FAMILY == NORMAL) return -r * (r + u);
    if constexpr (FAMILY == GUMBEL) return -r;
    return r * (r - Real(1));
}

// r''(u), given r.
template <int FAMILY, class Real>
__device__ inline Real hazard_bend(Real u, Real r) {
    if constexpr (FAMILY == NORMAL) return r * fma(r + u, fma(r, Real(2), u), Real(-1));
    if constexpr (FAMILY == GUMBEL) return r;
    return r * (Real(1) - r) * fma(r, Real(-2), Real(1));
}

// 1 - exp(-e) for e >= 0, given g = exp(-e): a series where e is small.
template <class Real>
__device__ inline Real one_minus_exp(Real e, Real g) {
    Real series = Real(1.0 / 120) - e / Real(720);
    series = Real(1.0 / 24) - e * series;
    series = Real(1.0 / 6) - e * series;
    series = Real(0.5) - e * series;
    series = e * (Real(1) - e * series);
    return select(e < Real(0.01), series, Real(1) - g);
}

template <class Real>
struct Density {
    Real f, above, below;
};

// f(u), Q(u) and G(u).
template <int FAMILY, class Real>
__device__ inline Density<Real> density(Real u) {
    constexpr Real ONE = 1;
    if constexpr (FAMILY == NORMAL) {
        const auto [upper, q, p, r] = normal_parts(u);
        const Real near = q * p / r;
        const Real far = ONE - near;
        return {q * Real(SQRT_HALF_OVER_PI), select(upper, near, far), select(upper, far, near)};
    } else if constexpr (FAMILY == GUMBEL) {
        Real e = exp(-u);
        e = select(e > Real(500), Real(500), e);  // f and G have long vanished
        const Real g = exp(-e);
        return {e * g, one_minus_exp(e, g), g};
    } else {
        const bool upper = u > 0;
        const Real z = exp(select(upper, -u, u));
        const Real far = ONE / (ONE + z);
        const Real near = z * far;
        return {near * far, select(upper, near, far), select(upper, far, near)};
    }
}

template <class Real>
struct Score {
    Real s, slope;
};

// s = -f' / f and s', given G.
template <int FAMILY, class Real>
__device__ inline Score<Real> score(Real u, Real g) {
    if constexpr (FAMILY == NORMAL) {
        return {u, Real(1)};
    } else if constexpr (FAMILY == GUMBEL) {
        const Real e = exp(-u);
        return {Real(1) - e, e};
    } else {
        const Real s = fma(g, Real(2), Real(-1));
        return {s, Real(0.5) - Real(0.5) * s * s};
    }
}

// --------------------------------------------------------------- the difference of two variables

constexpr double FAR = 300;  // differences beyond it decide for sure

template <class Real>
struct Series {
    Real value, slope, second, third;
};

// c, c' / x, c'' and c''' / x at |x| <= 1 of c(x) = x / (1 - exp(-x)) - 1 - x / 2.
template <class Real>
__device__ inline Series<Real> even_series(Real x) {
    // Bernoulli numbers over factorials, the highest power first.
    constexpr double SERIES[12] = {
        -236364091.0 / 2730 / 620448401733239439360000.0,
        854513.0 / 138 / 1124000727777607680000.0,
        -174611.0 / 330 / 2432902008176640000.0,
        43867.0 / 798 / 6402373705728000.0,
        -3617.0 / 510 / 20922789888000.0,
        7.0 / 6 / 87178291200.0,
        -691.0 / 2730 / 479001600.0,
        5.0 / 66 / 3628800.0,
        -1.0 / 30 / 40320.0,
        1.0 / 42 / 720.0,
        -1.0 / 30 / 24.0,
        1.0 / 6 / 2.0,
    };
    const Real square = x * x;
    Real value = 0, slope = 0, second = 0, third = 0;
#pragma unroll
    for (int i = 0; i < 12; ++i) {
        const double n = 2 * (12 - i);
        value = fma(value, square, Real(SERIES[i]));
        slope = fma(slope, square, Real(n * SERIES[i]));
        second = fma(second, square, Real(n * (n - 1) * SERIES[i]));
        if (n > 2) third = fma(third, square, Real(n * (n - 1) * (n - 2) * SERIES[i]));
    }
    return {value * square, slope, second, third};
}

template <class Real>
struct Difference {
    Real h, slope, bend, rest;
};

// H(x) = P(Z_2 - Z_1 <= x) of two variables, H', H'', and K - x H with K = int H. The difference
// is normal of variance 2, logistic for Gumbel noise, and has K = x / (1 - exp(-x)) for logistic.
template <int FAMILY, class Real>
__device__ inline Difference<Real> difference(Real x) {
    constexpr Real ONE = 1;
    x = select(x > Real(FAR), Real(FAR), x);
    x = select(x < Real(-FAR), Real(-FAR), x);
    if constexpr (FAMILY == NORMAL) {
        const Real u = x * Real(SQRT_HALF);
        const auto [f, above, g] = density<NORMAL>(u);
        return {g, f * Real(SQRT_HALF), u * f * Real(-0.5), f * Real(SQRT_2)};
    }
    const bool upper = x > 0;
    const Real a = select(upper, x, -x);
    const Real z = exp(-a);
    if constexpr (FAMILY == GUMBEL) {
        const Real far = ONE / (ONE + z);
        const Real near = z * far;
        const Real slope = near * far;
        const Real bend = slope * fma(far, Real(-2), ONE);
        const Real rest = fma(a, near, log1m(ONE + z, -z));
        return {select(upper, far, near), slope, select(upper, bend, -bend), rest};
    }
    Real near, slope, bend, rest;
    if (a < ONE) {
        const auto [c, c1, c2, c3] = even_series(a);
        near = Real(0.5) - c1 * a;
        slope = c2;
        bend = c3 * a;
        rest = ONE + c - c1 * a * a;
    } else {
        const Real m = ONE - z;
        const Real i = ONE / m;
        const Real ratio = z * i * i;
        near = ratio * (a - m);
        slope = ratio * i * fma(a, ONE + z, Real(-2) * m);
        bend = Real(3) * m * fma(z, Real(2), m) -
               a * fma(m, fma(z, Real(2), ONE), Real(3) * z * (ONE + z));
        bend = ratio * i * i * bend;
        rest = a * (i - ONE + near);
    }
    return {select(upper, ONE - near, near), slope, select(upper, bend, -bend), rest};
}

}  // namespace laws
