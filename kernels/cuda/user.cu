// A user's solver inside the pass: its device function is linked in (kernels/cuda/user.py).
//
//     counts, weights, values, solutions    as in solve.cuh
//
// Mapping. A thread is a sample, a warp 32 samples of a row; warps take such groups in turn.
//
// Memory. A thread has its scores (float64), its solution and what the solver works in to itself,
// in global memory: some words a coordinate and thread, for as many threads as were given room. No
// thread reads another's: shuffles are the only meetings of a warp.
//
// Determinism. As in lanes.cuh: counts are integers, <v, y - mean> and <y, p> are summed by a
// thread in the order of the coordinates: the bits of the CPU.
#include "solve.cuh"

constexpr int THREADS = 128;

// 1 if the sample was solved, 0 if the function raised. Addresses: what the function takes.
extern "C" __device__ i64 dpo_solve(i64 scores, i64 solution, i64 shared, i64 row, i64 work,
                                    i64 layout);

// What threads work in. Fields are in the order of solvers.py.
struct Room {
    double* seen;    // (threads, 4 quads)
    int* solutions;  // (threads, d)
    i64* work;       // (threads, work_words)
    i64 work_words;
};

// What the function is given, see kernels/user.py, and the range of a solution's entries. Fields
// are in the order of solvers.py.
struct Instances {
    const i64 *layout, *shared;
    const i64* places;  // (rows, place_words)
    i64 place_words;
    int low, high;
};

// `failed` is set to 1 where a sample was not solved, or an entry is out of range.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(THREADS)
    user(Rows<Real> rows, Wanted<Real> wanted, Room room, Instances instances, int* failed) {
    const int d = rows.d, lane = threadIdx.x % WARP;
    const i64 thread = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    const i64 warps = i64(gridDim.x) * blockDim.x / WARP;
    const i64 groups = (rows.num_samples + WARP - 1) / WARP;
    double* seen = room.seen + thread * 4 * rows.quads();
    int* solution = room.solutions + thread * d;
    i64* work = room.work + thread * room.work_words;
    for (i64 task = thread / WARP; task < rows.number * groups; task += warps) {
        const i64 b = task / groups, m = task % groups * WARP + lane, at = b * rows.num_samples + m;
        const bool exists = m < rows.num_samples;
        const auto noise = noise_of<Draw>(rows, b);
        const Scale<Draw> scale(rows, b);
        const auto* theta = rows.quads_of_row(b);
        const auto perturbed_quad = [&](int q) {
            const Quad<Real> z = noise.decision(q, rows.first_sample + u32(m));
            const Quad<Real> x = theta[q], e = scale.quad(q);
            return Quad<Real>{{perturbed<Draw>(x[0], e[0], z[0]), perturbed<Draw>(x[1], e[1], z[1]),
                               perturbed<Draw>(x[2], e[2], z[2]),
                               perturbed<Draw>(x[3], e[3], z[3])}};
        };
        for (int q = 0; q < rows.quads(); ++q) {
            const Quad<Real> p = perturbed_quad(q);
#pragma unroll
            for (int k = 0; k < 4; ++k) seen[4 * q + k] = double(p[k]);
        }
        int* y = wanted.solutions && exists ? wanted.solutions + at * d : solution;
        for (int i = 0; i < d; ++i) y[i] = 0;
        bool good = true;
        if (exists)
            good = dpo_solve(i64(seen), i64(y), i64(instances.shared),
                             i64(instances.places + b * instances.place_words), i64(work),
                             i64(instances.layout));
        Real weight = 0;
        double value = 0;
        u64* counts_of_row =
            reinterpret_cast<u64*>(wanted.counts) + b * (wanted.squares ? 2 : 1) * d;
        Quad<Real> p{};
        for (int i = 0; i < d; ++i) {
            const int x = y[i];
            good = good && instances.low <= x && x <= instances.high;
            if (wanted.weights)
                weight = bits::fma(wanted.v[b * d + i], Real(x) - wanted.mean[b * d + i], weight);
            if (wanted.values) {  // drawn again: the function may have overwritten what it saw
                if (i % 4 == 0) p = perturbed_quad(i / 4);
                if (x != 0) value = bits::fma(double(x), double(p[i % 4]), value);
            }
            if (!wanted.counts) continue;
            const i64 pair = of_pair<Draw::paired>(i64(x));
            const i64 sum = tree_sum(i64(x));
            const i64 sum_of_squares = wanted.squares ? tree_sum(pair * pair) : 0;
            if (lane == 0 && sum_of_squares + sum != 0) {
                atomicAdd(&counts_of_row[i], u64(sum));
                if (wanted.squares) atomicAdd(&counts_of_row[d + i], u64(sum_of_squares));
            }
        }
        if (!good) atomicOr(failed, 1);
        if (wanted.weights) {
            weight = pulled<Draw::paired>(wanted.pull, weight);
            if (exists) wanted.weights[at] = weight;
        }
        if (wanted.values && exists) wanted.values[at] = value;
    }
}
