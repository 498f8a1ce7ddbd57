// The fixed order of every float sum, for lanes that are samples: twin of
// kernels/reference_sums.py.
//
// Within a chunk of 256 samples lane l adds samples l, l + 32, ... in order, then lanes are added
// pairwise (16, 8, 4, 2, 1 apart). Chunk c joins strand c % 16 in float64, in order; strands are
// added in order. The order is part of the definition: no launch changes it, and no float is ever
// added atomically.
#pragma once
#include "row.cuh"

constexpr int CHUNK = 256;

// The sum of all lanes over the tree, in every lane.
template <class Real>
__device__ inline Real tree_sum(Real x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

// The coordinate of a quad whose sum `four_tree_sums` leaves in this lane.
__device__ inline int coordinate_of_lane() {
    const int lane = threadIdx.x % WARP;
    return (lane >> 4 & 1) | (lane >> 3 & 1) << 1;
}

// The tree sums of four values a lane: the same additions, six shuffles in place of twenty. The
// first two steps halve the number of sums that a lane takes part in.
template <class Real>
__device__ inline Real four_tree_sums(const Quad<Real>& x) {
    const int r = coordinate_of_lane();
    const bool odd = r & 1, high = r & 2;
    Real a = odd ? x[1] : x[0], b = odd ? x[3] : x[2];
    a += __shfl_xor_sync(ALL_LANES, odd ? x[0] : x[1], 16);
    b += __shfl_xor_sync(ALL_LANES, odd ? x[2] : x[3], 16);
    Real sum = high ? b : a;
    sum += __shfl_xor_sync(ALL_LANES, high ? a : b, 8);
#pragma unroll
    for (int distance = 4; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    return sum;
}

// The sum of a sample and its mate, the neighbouring lane; or the sample alone.
template <bool PAIRED, class Real>
__device__ inline Real of_pair(Real x) {
    if constexpr (PAIRED) return x + __shfl_xor_sync(ALL_LANES, x, 1);
    return x;
}

// What leaves the pair's mate out of the mean too.
template <bool PAIRED, class Real>
__device__ inline Real pulled(Real pull, Real x) {
    if constexpr (PAIRED) return bits::fma(pull, of_pair<true>(x), x);
    return x;
}

// Terms of solutions y with scalars b, a sample a lane: what JVP and JACOBIAN accumulate.
//
//     sums[0]   sum y b',  b' = b + pull (b + mate)
//     sums[1]   sum X B,   X = y b' and B = b, each with its mate's if paired
//     sums[2]   sum X^2
template <bool PAIRED, bool SQUARES, class Real>
__device__ inline void add_row(Real y, Real b, Real pull, Real (&sums)[3]) {
    const Real pulled_b = pulled<PAIRED>(pull, b);
    sums[0] = bits::fma(y, pulled_b, sums[0]);
    if constexpr (SQUARES) {
        const Real pair = of_pair<PAIRED>(b), x = of_pair<PAIRED>(y * pulled_b);
        sums[1] = bits::fma(x, pair, sums[1]);
        sums[2] = bits::fma(x, x, sums[2]);
    }
}

// As add_row for y = 1 and b' = b.
template <bool PAIRED, bool SQUARES, class Real>
__device__ inline void add_ones(Real b, Real (&sums)[3]) {
    sums[0] += b;
    if constexpr (SQUARES) {
        const Real pair = of_pair<PAIRED>(b);
        sums[1] = bits::fma(pair, pair, sums[1]);
        sums[2] = bits::fma(pair, pair, sums[2]);
    }
}

// Solutions that are one index a sample.
struct OneHot {
    const int* decided;  // (M)
    int d;

    __device__ OneHot(const int* decided_, i64 b, i64 num_samples, int d_)
        : decided(decided_ + b * num_samples), d(d_) {}
    __device__ int at(i64 m, int i) const { return decided[m] == i; }
};

// Solutions written out.
struct Dense {
    const int* y;  // (M, d)
    int d;

    __device__ Dense(const int* solutions, i64 b, i64 num_samples, int d_)
        : y(solutions + b * num_samples * d_), d(d_) {}
    __device__ int at(i64 m, int i) const { return y[m * d + i]; }
};

// Where a warp works: a strand of a row, and every `step`-th item from `first` on.
struct Place {
    i64 row;
    int part, first, step;

    __device__ Place(int parts, int groups) {
        const int warps = blockDim.x / WARP;
        const i64 strand = blockIdx.x / groups;
        row = strand / parts;
        part = int(strand % parts);
        first = int(blockIdx.x % groups) * warps + threadIdx.x / WARP;
        step = groups * warps;
    }
};
