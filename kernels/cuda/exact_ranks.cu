// Exact expected ranks. Twin of kernels/exact/ranks.py, which has the formulas.
//
// Pairs (`exact_ranks_pairs`), for one temperature a row, any d: with H the CDF of the difference
// of two noise variables and x_ij = (theta_i - theta_j) / eps,
//
//     y_i = 1 + sum_{j != i} H(x_ij)
//     z_i = E[Z] (d + 1) / 2 + sum_{j != i} (K - x H)(x_ij) / 2
//     (J v)_i = sum_j H'(x_ij) (v_i - v_j) / eps,    J_ij = -H'(x_ij) / eps
//     D^2 y [v, w]_i = sum_j H''(x_ij) (v_i - v_j) (w_i - w_j) / eps^2
//
// Nodes (`exact_ranks_nodes`), for a temperature a coordinate: with G_j, f_j at the nodes t near i,
//
//     y_i = 1 + int f_i sum_{j != i} G_j dt         z_i = E[Z] + int u_i f_i sum_{j != i} G_j dt
//     PRODUCT, SCALE   int (1, u_i) f_i M dt,       M = sum_j f_j (v_i - v_j)
//     SECOND           -int (w_i f'_i M + f_i sum_j w_j f'_j (v_i - v_j)) dt
//
// **Mapping.** A warp is a coordinate i and goes over all j: lanes are j's (pairs), or the 32 nodes
// of a tile, of those near i (nodes), for which what lies wholly below or above is only counted.
// O(d^2) work a row either way, at every d; the CPU sorts where coordinates are many.
//
// **Order of sums.** float64, lanes j, j + 32, ... or j in order, then the tree over lanes. Nothing
// is added atomically, and no launch changes it. **Memory.** None.
#include "exact.cuh"

// A row of scores and a coordinate of it, a warp each; v and w are `stride` apart (d, or 0).
template <class Real>
struct Item {
    i64 row;
    int i;
    const Real *theta, *v, *w;

    __device__ Item(i64 item, int d, const Real* thetas, const Real* vs, i64 stride_of_v,
                    const Real* ws, i64 stride_of_w)
        : row(item / d),
          i(item % d),
          theta(thetas + row * d),
          v(vs + row * stride_of_v),
          w(ws + row * stride_of_w) {}
};

template <class Real>
__device__ inline bool is_finite(Real x) {
    return x - x == 0;
}

// How many scores of a row are -inf, and how many of those equal to score i come before i.
struct Extremes {
    int lowest, before;

    template <class Real>
    __device__ Extremes(const Real* theta, int d, int i) : lowest(0), before(0) {
        for (int j = threadIdx.x % WARP; j < d; j += WARP) {
            lowest += theta[j] == -bits::infinity<Real>();
            before += j < i && theta[j] == theta[i];
        }
        lowest = tree_sum(lowest);
        before = tree_sum(before);
    }
    // Of an infinite score, by a warp: the lowest index gets the largest rank.
    template <class Real>
    __device__ int rank(Real x, int d) const {
        return x > 0 ? d - before : lowest - before;
    }
};

// Ranks, (items of a slot or two of d), or the Jacobian; `mean` is that of the noise.
template <class Real, int FAMILY, int OPERATION>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    exact_ranks_pairs(const Real* thetas, const Real* epsilon, int d, i64 items, double mean,
                      const Real* vs, i64 stride_of_v, const Real* ws, i64 stride_of_w,
                      double* out) {
    const int lane = threadIdx.x % WARP;
    const i64 at = i64(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (at >= items) return;
    const Item<Real> item(at, d, thetas, vs, stride_of_v, ws, stride_of_w);
    const int i = item.i;
    const Real* theta = item.theta;
    const Real x = theta[i], inverse = Real(1) / epsilon[item.row];
    out += item.row * (OPERATION == JACOBIAN ? i64(d) * d : OPERATION == MOMENTS ? 2 * d : d);
    const Extremes extremes(theta, d, i);
    if (!is_finite(x)) {
        if (OPERATION <= MOMENTS && lane == 0) out[i] = extremes.rank(x, d);
        return;
    }
    double total = 0, rest = 0;
    int n = 0;
    for (int j = lane; j < d; j += WARP) {
        if (!is_finite(theta[j])) continue;
        const auto pair = laws::difference<FAMILY>((x - theta[j]) * inverse);
        ++n;
        if constexpr (OPERATION <= MOMENTS) {
            total += double(pair.h);
            if (j != i) rest += double(pair.rest);
        } else if constexpr (OPERATION == JACOBIAN) {
            if (j == i) continue;
            const double entry = double(pair.slope * inverse);
            out[i64(i) * d + j] = -entry;
            total += entry;
        } else {
            const Real change = item.v[i] - item.v[j];
            if constexpr (OPERATION == PRODUCT)
                total += double(pair.slope * change);
            else
                total += double(pair.bend * change * (item.w[i] - item.w[j]));
        }
    }
    total = tree_sum(total);
    rest = tree_sum(rest);
    n = tree_sum(n);
    if (lane > 0) return;
    if constexpr (OPERATION <= MOMENTS) {
        out[i] = total + extremes.lowest + 0.5;  // H(0) = 1/2 is among them
        if constexpr (OPERATION == MOMENTS)
            out[d + i] = mean * (extremes.lowest + 0.5 * (n + 1)) + 0.5 * rest;
    } else if constexpr (OPERATION == JACOBIAN) {
        out[i64(i) * d + i] = total;
    } else {
        out[i] = total * double(inverse) * (OPERATION == SECOND ? double(inverse) : 1);
    }
}

// As above, for temperatures of each coordinate. `step`, `low` and `high` are the rule of a pair.
template <class Real, int FAMILY, int OPERATION>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    exact_ranks_nodes(const Real* thetas, const Real* epsilons, int d, i64 items, double mean,
                      double step, double low, double high, const Real* vs, i64 stride_of_v,
                      const Real* ws, i64 stride_of_w, double* out) {
    const int lane = threadIdx.x % WARP;
    const i64 at = i64(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (at >= items) return;
    const Item<Real> item(at, d, thetas, vs, stride_of_v, ws, stride_of_w);
    const int i = item.i;
    const Real *theta = item.theta, *epsilon = epsilons + item.row * d;
    out += item.row * (OPERATION == MOMENTS ? 2 : 1) * d;
    const Extremes extremes(theta, d, i);
    if (!is_finite(theta[i])) {
        if (OPERATION <= MOMENTS && lane == 0) out[i] = extremes.rank(theta[i], d);
        return;
    }
    double unit = bits::infinity<double>();
    for (int j = lane; j < d; j += WARP)
        if (is_finite(theta[j])) unit = min(unit, double(epsilon[j]));
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        unit = min(unit, __shfl_xor_sync(ALL_LANES, unit, distance));
    const double inverse = 1 / unit, width = step * NODES;
    const double x = double(theta[i]) * inverse, scale = double(epsilon[i]) * inverse;
    const double a = unit / double(epsilon[i]);
    const i64 first = i64(floor((x + low * scale) / width));
    const i64 end = i64(floor((x + high * scale) / width)) + 1;
    double total = 0, moment = 0;
    for (i64 tile = first; tile < end; ++tile) {
        const double bottom = double(tile) * width, top = bottom + width;
        // u at this lane's node; near a location float is as good as double.
        const auto node_of = [&](double x, double a) {
            return Real((lane * step + (bottom - x)) * a);
        };
        double below = OPERATION <= MOMENTS ? extremes.lowest : 0;  // or M
        double bent = 0;                                            // sum_j w_j f'_j (v_i - v_j)
        for (int j = 0; j < d; ++j) {
            if (j == i || !is_finite(theta[j])) continue;
            const double xj = double(theta[j]) * inverse, scale_j = double(epsilon[j]) * inverse;
            if (xj + low * scale_j > top) continue;
            if (xj + high * scale_j < bottom) {
                if constexpr (OPERATION <= MOMENTS) below += 1;
                continue;
            }
            const double a_wide = unit / double(epsilon[j]);
            const Real u = node_of(xj, a_wide), aj = Real(a_wide);
            const auto law = laws::density<FAMILY>(u);
            if constexpr (OPERATION <= MOMENTS) {
                below += double(law.below);
            } else {
                const double change = double(item.v[i]) - double(item.v[j]);
                below = bits::fma(double(law.f * aj), change, below);
                if constexpr (OPERATION == SECOND) {
                    const Real s = laws::score<FAMILY>(u, law.below).s;
                    const Real slope = law.f * s * (-aj * aj * item.w[j]);
                    bent = bits::fma(double(slope), change, bent);
                }
            }
        }
        const Real u = node_of(x, a), ai = Real(a);
        const auto law = laws::density<FAMILY>(u);
        const double weight = double(law.f * ai);
        if constexpr (OPERATION == SCALE) {
            total = bits::fma(weight * double(u), below, total);
        } else if constexpr (OPERATION == SECOND) {
            const Real s = laws::score<FAMILY>(u, law.below).s;
            const double slope = double(law.f * s * (-ai * ai * item.w[i]));
            total = total - bits::fma(slope, below, weight * bent);
        } else {
            total = bits::fma(weight, below, total);
        }
        if constexpr (OPERATION == MOMENTS) moment = bits::fma(weight * double(u), below, moment);
    }
    total = tree_sum(total);
    moment = tree_sum(moment);
    if (lane > 0) return;
    if constexpr (OPERATION > MOMENTS) {
        out[i] = step * total * per_unit(OPERATION, unit);
    } else {
        out[i] = 1 + step * total;
        if constexpr (OPERATION == MOMENTS) out[d + i] = mean + step * moment;
    }
}
