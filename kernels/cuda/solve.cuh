// The pass that every oracle but the argmax runs through: perturb, solve, use the solution.
//
//     counts[b, 0]     sum y
//     counts[b, 1]     sum y^2, of pairs' sums if samples are paired
//     weights[b, m]    <v, y_m - mean>, less the mate's share  (VJP)
//     values[b, m]     <y_m, p_m> in float64                   (MAXIMUM)
//     solutions[b, m]  y itself, a window at a time           (JVP, JACOBIAN, MOMENTS)
//
// Mapping. A team, the whole block or a warp (team.cuh), solves one sample after another: its
// threads share the coordinates. A task is `batch` samples of a row, an even number; teams take
// tasks in turn.
//
// Memory. What a sample sees is in shared memory where it fits. The solution and the sums of a task
// are in a workspace in global memory, some words a coordinate and team. Solutions with few ones,
// and zeros, have no sums: they are counted one by one.
//
// Determinism. Counts are integers. The products with v and p are summed lane by lane over the
// coordinates i = lane, lane + 32, ..., then over the tree of accumulate.cuh: always by 32 lanes.
#pragma once
#include "accumulate.cuh"
#include "team.cuh"

// As Draw::min_blocks, of kernels that need some more registers.
template <class Draw, class Team, int REGISTERS = Team::REGISTERS>
constexpr int SOLVING_BLOCKS = Draw::min_blocks > 1 ? 65536 / (Team::MAX_THREADS * REGISTERS) : 1;

// What a launch asks for: null pointers are not wanted. Fields are in the order of solvers.py.
template <class Real>
struct Wanted {
    i64* counts;
    const Real *v, *mean;
    Real* weights;
    double* values;
    int* solutions;
    Real pull;
    int squares;  // whether counts has them
};

// The scratch of teams in global memory, and how samples are dealt out to them.
template <class Real>
struct Workspace {
    int* solutions;  // (teams, 2 d)
    i64* sums;       // (teams, 2 d); null where ones are counted one by one
    Real* seen;      // p where shared memory is too small for it: (teams, 4 quads)
    int batch;
};

// What the team's threads see of a sample: p, (4 quads).
template <class Draw, class Team, class Real = typename Draw::Real>
__device__ inline void perturb_sample(const Noise<Draw>& noise, const Quad<Real>* scores,
                                      const Scale<Draw>& scale, int quads, u32 sample, Real* p) {
    for (int q = Team::thread(); q < quads; q += Team::threads()) {
        const Quad<Real> z = noise.decision(q, sample), x = scores[q], e = scale.quad(q);
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
    for (int i = threadIdx.x % WARP; i < d; i += WARP)
        sum = bits::fma(v[i], Real(y[i]) - mean[i], sum);
    return tree_sum(sum);
}

// <y, p>, by the first warp; what is not chosen may be infinite.
template <class Real>
__device__ inline double value_of(const int* y, const Real* p, int d) {
    double sum = 0;
    for (int i = threadIdx.x % WARP; i < d; i += WARP)
        if (y[i] != 0) sum = bits::fma(double(y[i]), double(p[i]), sum);
    return tree_sum(sum);
}

// Solve all samples: `solve(p, y, row)` is called by all threads of a team, reads p and leaves y,
// both complete after the next barrier. `p`, (4 quads), is the team's; null to use the workspace.
// FEW_ONES: y is zeros and ones, mostly zeros.
template <class Draw, class Team, bool FEW_ONES, class Solve, class Real = typename Draw::Real>
__device__ inline void solve_samples(const Rows<Real>& rows, const Wanted<Real>& wanted,
                                     const Workspace<Real>& workspace, Real* p, Solve solve) {
    const int d = rows.d, quads = rows.quads(), thread = Team::thread();
    const i64 num_samples = rows.num_samples;
    const i64 tasks_of_row = (num_samples + workspace.batch - 1) / workspace.batch;
    int* solutions = workspace.solutions + Team::index() * 2 * d;
    i64* sums = workspace.sums + Team::index() * 2 * d;
    if (p == nullptr) p = workspace.seen + Team::index() * 4 * quads;
    for (i64 task = Team::index(); task < rows.number * tasks_of_row; task += Team::number()) {
        const i64 b = task / tasks_of_row, begin = task % tasks_of_row * workspace.batch;
        const i64 end = min(begin + workspace.batch, num_samples);
        const auto noise = noise_of<Draw>(rows, b);
        const Scale<Draw> scale(rows, b);
        const i64 before_row = b * (wanted.squares ? 2 : 1) * d;
        u64* counts_of_row =
            wanted.counts ? reinterpret_cast<u64*>(wanted.counts) + before_row : nullptr;
        if constexpr (!FEW_ONES)
            for (int i = thread; i < 2 * d; i += Team::threads()) sums[i] = 0;
        Real weight_of_mate = 0;
        for (i64 m = begin; m < end; ++m) {
            const i64 at = b * num_samples + m;
            const bool second = Draw::paired && (m & 1), has_mate = Draw::paired && (m | 1) < end;
            int* y = wanted.solutions ? wanted.solutions + at * d : solutions + (second ? d : 0);
            const int* y_of_mate = wanted.solutions ? y - d : solutions;
            perturb_sample<Draw, Team>(noise, rows.quads_of_row(b), scale, quads,
                                       rows.first_sample + u32(m), p);
            Team::sync();
            solve(p, y, b);
            Team::sync();
            if (wanted.counts) {
                const auto add = [&](int i, i64 x) {
                    if constexpr (FEW_ONES) {
                        if (x != 0) atomicAdd(&counts_of_row[i], u64(x));
                    } else {
                        sums[i] += x;
                    }
                };
                for (int i = thread; i < d; i += Team::threads()) {
                    const i64 x = y[i];
                    add(i, x);
                    if (!wanted.squares) continue;
                    if (!has_mate) {
                        add(d + i, x * x);
                    } else if (second) {
                        const i64 pair = x + y_of_mate[i];
                        add(d + i, 2 * pair * pair);
                    }
                }
            }
            if (thread < WARP) {
                if (wanted.weights) {
                    const Real a = centred_product(wanted.v + b * d, wanted.mean + b * d, y, d);
                    if (thread == 0) {
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
                    if (thread == 0) wanted.values[at] = value;
                }
            }
            Team::sync();
        }
        if (FEW_ONES || !wanted.counts) continue;
        const int kinds = wanted.squares ? 2 : 1;
        // A thread adds up what it alone has summed.
        for (int kind = 0; kind < kinds; ++kind)
            for (int i = thread; i < d; i += Team::threads())
                if (sums[kind * d + i] != 0)
                    atomicAdd(&counts_of_row[kind * d + i], u64(sums[kind * d + i]));
    }
}
