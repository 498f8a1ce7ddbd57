// The pass that every oracle but the argmax runs through: perturb, solve, use the solution.
//
//     counts[b, 0]     sum y             counts[b, 1]   sum y^2, of pairs' sums if samples are
//     paired weights[b, m]    <v, y_m - mean>, less the mate's share (VJP) values[b, m]     <y_m,
//     p_m> in float64 (MAXIMUM) solutions[b, m]  y itself, a window of samples at a time (JVP,
//     JACOBIAN, MOMENTS)
//
// Mapping. A block solves one sample after another: its threads share the coordinates. A task is
// `batch` samples of a row, an even number; blocks take tasks in turn.
//
// Memory. What a sample sees is in shared memory where it fits. The solution and the sums of a task
// are in a workspace in global memory, some words a coordinate and block, which the L1 cache keeps.
//
// Determinism. Counts are integers. The products with v and p are summed lane by lane over the
// coordinates i = lane, lane + 32, ..., then over the tree of accumulate.cuh: always by 32 lanes.
#pragma once
#include "accumulate.cuh"

// As Draw::min_blocks, with 80 registers.
template <class Draw>
constexpr int SOLVING_BLOCKS = Draw::min_blocks > 1 ? 3 : 1;

// What a launch asks for: null pointers are not wanted.
template <class Draw>
struct Wanted {
    using Real = typename Draw::Real;
    i64* counts;
    int squares;
    const Real *v, *mean;
    Real pull;
    Real* weights;
    double* values;
    int* solutions;
};

// The samples of a launch, and how they are dealt out.
struct Samples {
    int d;
    i64 rows, num_samples;
    u32 first_sample;
    int batch;
};

// What the block's threads see of a sample: p, (4 quads).
template <class Draw, class Real = typename Draw::Real>
__device__ inline void perturb_sample(const Noise<Draw>& noise, const Real* scores,
                                      const Scale<Draw>& scale, int d, u32 sample, Real* p) {
    for (int q = threadIdx.x; q < quads_of(d); q += blockDim.x) {
        const Quad<Real> z = noise.decision(q, sample);
        const Quad<Real> x = reinterpret_cast<const Quad<Real>*>(scores)[q], e = scale.quad(q);
        Quad<Real> seen;
#pragma unroll
        for (int k = 0; k < 4; ++k) seen[k] = perturbed<Draw>(x[k], e[k], z[k]);
        reinterpret_cast<Quad<Real>*>(p)[q] = seen;
    }
}

// <v, y - mean>, by the first warp.
template <class Real>
__device__ inline Real centred_product(const Real* v, const Real* mean, const int* y, int d) {
    Real sum = 0;
    for (int i = threadIdx.x; i < d; i += WARP) sum = bits::fma(v[i], Real(y[i]) - mean[i], sum);
    return tree_sum(sum);
}

// <y, p>, by the first warp; what is not chosen may be infinite.
template <class Real>
__device__ inline double value_of(const int* y, const Real* p, int d) {
    double sum = 0;
    for (int i = threadIdx.x; i < d; i += WARP)
        if (y[i] != 0) sum = bits::fma(double(y[i]), double(p[i]), sum);
    return tree_sum(sum);
}

// Solve all samples: `solve(p, y, row)` is called by all threads, reads p and leaves y, both
// complete after the next barrier. `p` is the block's; `workspace` has 2 d int, and `sums` 2 d
// int64, a block.
template <class Draw, class Solve, class Real = typename Draw::Real>
__device__ inline void solve_samples(const Samples& samples, const Real* scores, const Real* scales,
                                     const u32* seed, const u32* directions, int digits,
                                     const i64* row_ids, const Wanted<Draw>& wanted, Real* p,
                                     int* workspace, i64* sums, Solve solve) {
    const int d = samples.d, padded = 4 * quads_of(d);
    const i64 tasks_of_row = (samples.num_samples + samples.batch - 1) / samples.batch;
    workspace += i64(blockIdx.x) * 2 * d;
    sums += i64(blockIdx.x) * 2 * d;
    for (i64 task = blockIdx.x; task < samples.rows * tasks_of_row; task += gridDim.x) {
        const i64 b = task / tasks_of_row, begin = task % tasks_of_row * samples.batch;
        const i64 end = min(begin + samples.batch, samples.num_samples);
        const auto noise = noise_of<Draw>(b, seed, directions, digits, row_ids);
        const Scale<Draw> scale(scales, b, d);
        for (int i = threadIdx.x; i < 2 * d; i += blockDim.x) sums[i] = 0;
        Real weight_of_mate = 0;
        for (i64 m = begin; m < end; ++m) {
            const i64 at = b * samples.num_samples + m;
            const bool second = Draw::paired && (m & 1), has_mate = Draw::paired && (m | 1) < end;
            int* y = wanted.solutions ? wanted.solutions + at * d : workspace + (second ? d : 0);
            const int* y_of_mate = wanted.solutions ? y - d : workspace;
            perturb_sample(noise, scores + b * padded, scale, d, samples.first_sample + u32(m), p);
            __syncthreads();
            solve(p, y, b);
            __syncthreads();
            if (wanted.counts) {
                for (int i = threadIdx.x; i < d; i += blockDim.x) {
                    const i64 x = y[i];
                    sums[i] += x;
                    if (!wanted.squares) continue;
                    if (!has_mate) {
                        sums[d + i] += x * x;
                    } else if (second) {
                        const i64 pair = x + y_of_mate[i];
                        sums[d + i] += 2 * pair * pair;
                    }
                }
            }
            if (threadIdx.x < WARP) {
                if (wanted.weights) {
                    const Real a = centred_product(wanted.v + b * d, wanted.mean + b * d, y, d);
                    if (threadIdx.x == 0) {
                        wanted.weights[at] =
                            second ? bits::fma(wanted.pull, a + weight_of_mate, a) : a;
                        if (second)
                            wanted.weights[at - 1] =
                                bits::fma(wanted.pull, a + weight_of_mate, weight_of_mate);
                    }
                    weight_of_mate = a;
                }
                if (wanted.values) {
                    const double value = value_of(y, p, d);
                    if (threadIdx.x == 0) wanted.values[at] = value;
                }
            }
            __syncthreads();
        }
        if (!wanted.counts) continue;
        const int kinds = wanted.squares ? 2 : 1;
        u64* counts_of_row = reinterpret_cast<u64*>(wanted.counts) + b * kinds * d;
        // A thread adds up what it alone has summed.
        for (int kind = 0; kind < kinds; ++kind)
            for (int i = threadIdx.x; i < d; i += blockDim.x)
                if (sums[kind * d + i] != 0)
                    atomicAdd(&counts_of_row[kind * d + i], u64(sums[kind * d + i]));
    }
}
