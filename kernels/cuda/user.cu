// A user's solver inside the pass: its device function is linked in (kernels/cuda/user.py).
//
//     counts, weights, values, solutions    as in solve.cuh
//
// Mapping. A thread is a sample, a warp 32 samples of a row; warps take such groups in turn.
//
// Memory. A thread has its scores (float64), its solution and what the solver works in to itself,
// in global memory: some words a coordinate and thread, for as many threads as were given room.
//
// Determinism. As in lanes.cuh: counts are integers, <v, y - mean> and <y, p> are summed by a
// thread in the order of the coordinates: the bits of the CPU.
#include "solve.cuh"

constexpr int THREADS = 128;

// 1 if the sample was solved, 0 if the function raised. Addresses: what the function takes.
extern "C" __device__ i64 dpo_solve(i64 scores, i64 solution, i64 shared, i64 row, i64 work,
                                    i64 layout);

// seen: (threads, 4 quads). room: (threads, d). work: (threads, work_words). layout, shared and
// places, (rows, place_words): see kernels/user.py. failed: set to 1 where a sample was not solved
// or an entry is not in low .. high.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(THREADS)
    user(const Real* scores, const Real* scales, const u32* seed, const u32* directions, int digits,
         const i64* row_ids, int d, i64 num_samples, u32 first_sample, i64 rows, i64* counts,
         int squares, const Real* v, const Real* mean, Real pull, Real* weights, double* values,
         int* solutions, const i64* layout, const i64* shared, const i64* places, i64 place_words,
         int low, int high, double* seen, int* room, i64* work, i64 work_words, int* failed) {
    const int lane = threadIdx.x % WARP, padded = 4 * quads_of(d);
    const i64 thread = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    const i64 warps = i64(gridDim.x) * blockDim.x / WARP;
    const i64 groups = (num_samples + WARP - 1) / WARP;
    seen += thread * padded;
    room += thread * d;
    work += thread * work_words;
    for (i64 task = thread / WARP; task < rows * groups; task += warps) {
        const i64 b = task / groups, m = task % groups * WARP + lane, at = b * num_samples + m;
        const bool exists = m < num_samples;
        const auto noise = noise_of<Draw>(b, seed, directions, digits, row_ids);
        const Scale<Draw> scale(scales, b, d);
        const auto* theta = reinterpret_cast<const Quad<Real>*>(scores + b * padded);
        const auto perturbed_quad = [&](int q) {
            const Quad<Real> z = noise.decision(q, first_sample + u32(m));
            const Quad<Real> x = theta[q], e = scale.quad(q);
            return Quad<Real>{{perturbed<Draw>(x[0], e[0], z[0]), perturbed<Draw>(x[1], e[1], z[1]),
                               perturbed<Draw>(x[2], e[2], z[2]),
                               perturbed<Draw>(x[3], e[3], z[3])}};
        };
        for (int q = 0; q < quads_of(d); ++q) {
            const Quad<Real> p = perturbed_quad(q);
#pragma unroll
            for (int k = 0; k < 4; ++k) seen[4 * q + k] = double(p[k]);
        }
        int* y = solutions && exists ? solutions + at * d : room;
        for (int i = 0; i < d; ++i) y[i] = 0;
        bool good = true;
        if (exists)
            good = dpo_solve(i64(seen), i64(y), i64(shared), i64(places + b * place_words),
                             i64(work), i64(layout));
        __syncwarp();
        Real weight = 0;
        double value = 0;
        u64* counts_of_row = reinterpret_cast<u64*>(counts) + b * (squares ? 2 : 1) * d;
        Quad<Real> p{};
        for (int i = 0; i < d; ++i) {
            const int x = y[i];
            good = good && low <= x && x <= high;
            if (weights) weight = bits::fma(v[b * d + i], Real(x) - mean[b * d + i], weight);
            if (values) {  // drawn again: the function may have overwritten what it saw
                if (i % 4 == 0) p = perturbed_quad(i / 4);
                if (x != 0) value = bits::fma(double(x), double(p[i % 4]), value);
            }
            if (!counts) continue;
            const i64 pair = of_pair<Draw::paired>(i64(x));
            const i64 sum = tree_sum(i64(x)), sum_of_squares = squares ? tree_sum(pair * pair) : 0;
            if (lane == 0 && sum_of_squares + sum != 0) {
                atomicAdd(&counts_of_row[i], u64(sum));
                if (squares) atomicAdd(&counts_of_row[d + i], u64(sum_of_squares));
            }
        }
        if (!good) atomicOr(failed, 1);
        if (weights) {
            weight = pulled<Draw::paired>(pull, weight);
            if (exists) weights[at] = weight;
        }
        if (values && exists) values[at] = value;
        __syncwarp();
    }
}
