// Perturbed argmax on the GPU: who wins every sample. Twin of kernels/cpu/argmax.py.
//
//     y_m = onehot(argmax_i theta_i + eps z_mi),   z_mi = quantile(word(i, m, row)),   m < M
//
//     prepare           what decisions compare, padded to whole quads       (rows, 4 quads)
//     decide            the winners, (rows, M), and their counts
//     weigh             VJP: <v, y_m> - <v, mean> of every sample           (rows, M)
//     perturbed_values  MAXIMUM: theta + eps z of every winner              (rows, M) float64
//     one_hot           the solutions written out, for those who ask        (rows, M, d)
//
// accumulate.cu sums what samples decided; nothing is larger than M or d a row.
//
// Mapping. decide: a block is some samples of a row; a sample is a team of 1, 2, ... threads, up to
// the whole block, its coordinates dealt out quad by quad. Row scores come through the L1 cache,
// each read once and used by all samples of the block. The others: a thread a sample.
//
// Determinism. Decisions are those of kernels/reference.py bit for bit (precision "portable"),
// counts are integers: neither knows of teams and blocks.
#include "argmax.cuh"

constexpr int MAX_THREADS = 256;
constexpr int COUNTED_IN_SHARED = 2048;  // coordinates up to which a block counts by itself

// scores: theta, or for a race exp((max theta - theta) / eps), so that -E exp(...) is in the order
// of theta + eps z; what is no coordinate never wins. scales, if eps has one a coordinate: eps,
// padded. A block is a row.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    prepare(const Real* theta, const Real* epsilon, int d, Real* scores, Real* scales) {
    __shared__ Real largest_of_warp[MAX_THREADS / WARP];
    const Real infinity = bits::infinity<Real>();
    const i64 b = blockIdx.x;
    const int size = 4 * quads_of(d);
    Real largest = -infinity;
    if constexpr (Draw::kind == RACE) {
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            const Real x = theta[b * d + i];
            if (x > largest && x < infinity) largest = x;
        }
        for (int lane_xor = WARP / 2; lane_xor > 0; lane_xor /= 2)
            largest = max(largest, __shfl_xor_sync(ALL_LANES, largest, lane_xor));
        if (threadIdx.x % WARP == 0) largest_of_warp[threadIdx.x / WARP] = largest;
        __syncthreads();
        for (int warp = 0; warp < blockDim.x / WARP; ++warp)
            largest = max(largest, largest_of_warp[warp]);
    }
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        Real x = i < d ? theta[b * d + i] : -infinity;
        if constexpr (Draw::kind == RACE) {
            const bool never = x == -infinity, always = x == infinity;
            x = never || always ? Real(0) : exp_positive((largest - x) / epsilon[b]);
            if (never) x = infinity;
        }
        scores[b * size + i] = x;
        if constexpr (Draw::per_coordinate)
            scales[b * size + i] = i < d ? epsilon[b * d + i] : Real(1);
    }
}

// decided[b, m] (unless null) and counts[b, 0, i] += #{m : i wins}; counts[b, 1, i], if `squares`,
// of the square of a pair's sum, each pair twice. A block has `batch` samples, an even number, at
// most MAX_THREADS.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, Draw::min_blocks)
    decide(Rows<Real> rows, int batch, int batches, int team, int squares, int* decided,
           i64* counts) {
    __shared__ int winners[MAX_THREADS];
    __shared__ int histogram[COUNTED_IN_SHARED];
    __shared__ Best<Real> best_of_warp[MAX_THREADS / WARP];
    const i64 b = blockIdx.x / batches;
    const i64 begin = i64(blockIdx.x % batches) * batch;
    const int d = rows.d, count = int(min(i64(batch), rows.num_samples - begin));
    const int quads = rows.quads(), teams = blockDim.x / team;
    const auto noise = noise_of<Draw>(rows, b);
    const Scale<Draw> scale(rows, b);
    for (int first = 0; first < count; first += teams) {
        // The last teams may have no sample: they repeat the last one, since all must meet.
        const int j = first + int(threadIdx.x) / team;
        const u32 sample = rows.first_sample + u32(begin) + min(j, count - 1);
        Best<Real> best = best_of_quads(noise, rows.quads_of_row(b), scale, quads,
                                        threadIdx.x % team, team, sample);
        best = best_of_team(best, team, best_of_warp);
        if (threadIdx.x % team == 0 && j < count) winners[j] = best.index;
    }

    const bool in_shared = d <= COUNTED_IN_SHARED;
    if (in_shared)
        for (int i = threadIdx.x; i < d; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    u64* counts_of_row = reinterpret_cast<u64*>(counts) + b * (squares ? 2 : 1) * d;
    for (int j = threadIdx.x; j < count; j += blockDim.x) {
        const int winner = winners[j];
        if (decided) decided[b * rows.num_samples + begin + j] = winner;
        if (in_shared) {
            atomicAdd(&histogram[winner], 1);
        } else {
            atomicAdd(&counts_of_row[winner], u64(1));
        }
        if (squares) {
            const bool has_mate = Draw::paired && (j ^ 1) < count;
            const int same = has_mate && winners[j ^ 1] == winner;
            atomicAdd(&counts_of_row[d + winner], u64(has_mate ? 2 + 2 * same : 1));
        }
    }
    if (!in_shared) return;
    __syncthreads();
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        if (histogram[i] != 0) atomicAdd(&counts_of_row[i], u64(histogram[i]));
}

// <a, b> in float64, coordinate by coordinate: the order of kernels/reference_sums.py. All lanes of
// a warp call it.
template <class Real>
__device__ inline double ordered_dot(const Real* a, const Real* b, int n) {
    double total = 0;
    for (int first = 0; first < n; first += WARP) {
        const int i = first + threadIdx.x % WARP;
        const double product = i < n ? double(a[i]) * double(b[i]) : 0.0;
        for (int lane = 0; lane < min(WARP, n - first); ++lane)
            total += __shfl_sync(ALL_LANES, product, lane);
    }
    return total;
}

// weights[b, m] = <v, y_m - mean>, and where samples come in pairs the pair's mate is left out of
// the mean too: a + pull (a + mate), with pull = 1 / (M - 2). A block is `blockDim` samples of a
// row.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    weigh(const int* decided, const Real* v, const Real* mean, int d, i64 num_samples, Real pull,
          int batches, Real* weights) {
    __shared__ Real centre_of_block;
    const i64 b = blockIdx.x / batches;
    if (threadIdx.x < WARP) {
        const double centre = ordered_dot(v + b * d, mean + b * d, d);
        if (threadIdx.x == 0) centre_of_block = Real(centre);
    }
    __syncthreads();
    const i64 m = i64(blockIdx.x % batches) * blockDim.x + threadIdx.x;
    if (m >= num_samples) return;
    const int* won = decided + b * num_samples;
    const Real centre = centre_of_block;
    Real a = v[b * d + won[m]] - centre;
    if constexpr (Draw::paired) {
        const i64 mate = m ^ 1;
        const Real other = mate < num_samples ? v[b * d + won[mate]] - centre : Real(0);
        a = bits::fma(pull, a + other, a);
    }
    weights[b * num_samples + m] = a;
}

// values[b, m] = what sample m sees of its winner. A thread is a sample.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    perturbed_values(Rows<Real> rows, const int* decided, const Real* theta, int batches,
                     double* values) {
    const i64 b = blockIdx.x / batches;
    const i64 m = i64(blockIdx.x % batches) * blockDim.x + threadIdx.x;
    if (m >= rows.num_samples) return;
    const i64 at = b * rows.num_samples + m;
    const int winner = decided[at];
    const Real z = noise_of<Draw>(rows, b).quantile_at(winner, rows.first_sample + u32(m));
    const Real e = Scale<Draw>(rows, b).at(winner);
    values[at] = perturbed<Draw>(theta[b * rows.d + winner], e, z);
}

// solutions[b, m, i] = 1 where i won. A thread is an entry.
__global__ void __launch_bounds__(MAX_THREADS, 1)
    one_hot(const int* decided, i64 problems, int d, int* solutions) {
    const i64 entry = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (entry < problems * d) solutions[entry] = decided[entry / d] == entry % d;
}
