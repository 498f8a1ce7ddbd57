// The pass of solve.cuh for few coordinates: a thread is a sample, and what it sees is a column of
// shared memory. A block is `blockDim` samples of a row.
//
// Counts are added up by warps, a coordinate each, over all columns. <v, y - mean> and <y, p> are
// summed by a thread in the order of the coordinates: the bits of the CPU.
#pragma once
#include "solve.cuh"

constexpr int FEW_COORDINATES = 32;
constexpr int COLUMNS = 128;

template <class Real>
struct Columns {
    Real p[FEW_COORDINATES][COLUMNS];
    int y[FEW_COORDINATES][COLUMNS];
};

// How many coordinates i beats: larger scores do, and of equal ones the lowest index.
template <class Real>
__device__ inline int beaten(const Columns<Real>& columns, int d, int i) {
    const int column = threadIdx.x;
    const Real x = columns.p[i][column];
    int count = 0;
    for (int j = 0; j < i; ++j) count += x > columns.p[j][column];
    for (int j = i + 1; j < d; ++j) count += x >= columns.p[j][column];
    return count;
}

// `solve(i)` is y_i of the calling thread's sample, whose p_j is columns.p[j][threadIdx.x].
template <class Draw, class Solve, class Real = typename Draw::Real>
__device__ inline void solve_in_lanes(const Rows<Real>& rows, const Wanted<Real>& wanted,
                                      Columns<Real>& columns, Solve solve) {
    const int d = rows.d, column = threadIdx.x, lane = threadIdx.x % WARP;
    const i64 batches = (rows.num_samples + blockDim.x - 1) / blockDim.x;
    const i64 b = blockIdx.x / batches, m = blockIdx.x % batches * blockDim.x + column;
    const i64 at = b * rows.num_samples + m;
    const bool exists = m < rows.num_samples;
    const auto noise = noise_of<Draw>(rows, b);
    const Scale<Draw> scale(rows, b);
    const auto* theta = rows.quads_of_row(b);
    for (int q = 0; q < rows.quads(); ++q) {
        const Quad<Real> z = noise.decision(q, rows.first_sample + u32(m));
        const Quad<Real> x = theta[q], e = scale.quad(q);
#pragma unroll
        for (int k = 0; k < 4; ++k)
            columns.p[4 * q + k][column] = perturbed<Draw>(x[k], e[k], z[k]);
    }
    Real weight = 0;
    double value = 0;
    for (int i = 0; i < d; ++i) {
        const int y = exists ? solve(i) : 0;
        columns.y[i][column] = y;
        if (wanted.weights)
            weight = bits::fma(wanted.v[b * d + i], Real(y) - wanted.mean[b * d + i], weight);
        if (y != 0) value = bits::fma(double(y), double(columns.p[i][column]), value);
        if (wanted.solutions && exists) wanted.solutions[at * d + i] = y;
    }
    if (wanted.weights) {
        weight = pulled<Draw::paired>(wanted.pull, weight);
        if (exists) wanted.weights[at] = weight;
    }
    if (wanted.values && exists) wanted.values[at] = value;
    if (!wanted.counts) return;
    __syncthreads();
    u64* counts = reinterpret_cast<u64*>(wanted.counts) + b * (wanted.squares ? 2 : 1) * d;
    for (int i = column / WARP; i < d; i += blockDim.x / WARP) {
        i64 sum = 0, squares = 0;
        for (int j = lane; j < int(blockDim.x); j += WARP) {
            const i64 y = columns.y[i][j], pair = of_pair<Draw::paired>(y);
            sum += y;
            squares += pair * pair;
        }
        sum = tree_sum(sum);
        squares = tree_sum(squares);
        if (lane == 0 && sum != 0) {
            atomicAdd(&counts[i], u64(sum));
            if (wanted.squares) atomicAdd(&counts[d + i], u64(squares));
        }
    }
}
