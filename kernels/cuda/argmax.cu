// Perturbed argmax on the GPU: who wins every sample. Twin of kernels/cpu/argmax.py.
//
//     y_m = onehot(argmax_i theta_i + eps z_mi),   z_mi = quantile(word(i, m, row)),   m < M
//
//     prepare           what decisions compare, padded to whole quads       (rows, 4 quads)
//                       and which words cannot win (reject.cuh)             (rows, 4 quads)
//     decide            the winners, (rows, M), and their counts
//     weigh             VJP: <v, y_m> - <v, mean> of every sample           (rows, M)
//     perturbed_values  MAXIMUM: theta + eps z of every winner              (rows, M) float64
//                       of a shard, what was compared: with E of a race     (rows, M)
//     one_hot           the solutions written out, for those who ask        (rows, M, d)
//
// accumulate.cu sums what samples decided; nothing is larger than M or d a row.
//
// Mapping. decide: a block is some samples of a row; a sample is a team of 1, 2, ... threads, up to
// the whole block, its coordinates dealt out quad by quad. Row scores come through the L1 cache,
// each read once and used by all samples of the block; so do, with early rejection, the limits of
// random words, and then a coordinate costs a random word and a comparison, and a sample some ten
// evaluations. The others: a thread a sample.
//
// Determinism. Decisions are those of kernels/reference.py bit for bit (precision "portable"),
// counts are integers: neither knows of teams and blocks.
#include "argmax.cuh"

constexpr int MAX_THREADS = 256;
constexpr int COUNTED_IN_SHARED = 2048;  // coordinates up to which a block counts by itself

// scores: theta, or for a race exp((max theta - theta) / eps), so that -E exp(...) is in the order
// of theta + eps z; what is no coordinate never wins. scales, if eps has one a coordinate: eps,
// padded. `tops`, unless null: max theta of rows whose other coordinates are elsewhere. levels and
// limits, unless null: of early rejection, for `depth` (reject.cuh). A block is one of `blocks` of
// a row: of one, for a race and for levels.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    prepare(const Real* theta, const Real* epsilon, const Real* tops, int d, int blocks,
            float depth, Real* scores, Real* scales, Real* levels, u32* limits) {
    __shared__ Real reals[MAX_THREADS / WARP];
    __shared__ float floats[MAX_THREADS / WARP];
    const Real infinity = bits::infinity<Real>();
    const i64 b = blockIdx.x / blocks;
    const int size = 4 * quads_of(d), first = blockIdx.x % blocks * blockDim.x + threadIdx.x;
    theta += b * d;
    epsilon += b * (Draw::per_coordinate ? d : 1);
    scores += b * size;
    Real largest = -infinity;
    float chances = 0;  // sum 1 / scores
    if constexpr (Draw::kind == RACE) {
        for (int i = threadIdx.x; !tops && i < d; i += blockDim.x) {
            const Real x = theta[i];
            if (x > largest && x < infinity) largest = x;
        }
        largest = of_block(largest, reals, [](Real a, Real b) { return max(a, b); });
        if (tops) largest = tops[b];
    }
    for (i64 i = first; i < size; i += i64(blocks) * blockDim.x) {
        Real x = i < d ? theta[i] : -infinity;
        if constexpr (Draw::kind == RACE) {
            const bool never = x == -infinity, always = x == infinity;
            x = never || always ? Real(0) : exp_positive((largest - x) / epsilon[0]);
            if (never) x = infinity;
            chances += float(Real(1) / x);
        }
        scores[i] = x;
        if constexpr (Draw::per_coordinate) scales[b * size + i] = i < d ? epsilon[i] : Real(1);
    }

    if constexpr (Rejects<Draw>::possible) {
        if (limits == nullptr) return;
        Real level;
        if constexpr (Draw::kind == RACE) {
            // P(min_i E_i scores_i > x) = exp(-x sum_i 1 / scores_i)
            const float sum = of_block(chances, floats, [](float a, float b) { return a + b; });
            level = Real(Draw::fast ? -fast32::LOG2E : -1.0f) * Real(depth / sum);
        } else {
            level = level_of_row<Draw>(theta, epsilon, d, depth, reals, floats);
        }
        if (threadIdx.x == 0) levels[b] = level;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            const Real e = epsilon[Draw::per_coordinate && i < d ? i : 0];
            limits[b * size + i] = limit_of<Draw>(level, scores[i], e);
        }
    }
}

// decided[b, m] and counts[b, 0, i] += #{m : i wins}, unless null; counts[b, 1, i], if `squares`,
// of the square of a pair's sum, each pair twice. A block has `batch` samples, an even number, at
// most MAX_THREADS. REJECTS: by early rejection, for which levels and limits are.
template <class Draw, bool REJECTS, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS,
                                  REJECTS ? Draw::min_blocks_rejecting : Draw::min_blocks)
    decide(Rows<Real> rows, int batch, int batches, int team, int squares, const Real* levels,
           const u32* limits, int* decided, i64* counts) {
    constexpr int LISTS = REJECTS ? CANDIDATE_QUADS * MAX_THREADS : 0;
    __shared__ int winners[MAX_THREADS];
    __shared__ u32 scratch[LISTS > COUNTED_IN_SHARED ? LISTS : COUNTED_IN_SHARED];
    __shared__ Best<Real> best_of_warp[MAX_THREADS / WARP];
    const i64 b = blockIdx.x / batches;
    const i64 begin = i64(blockIdx.x % batches) * batch;
    const int d = rows.d, count = int(min(i64(batch), rows.num_samples - begin));
    const int quads = rows.quads(), teams = blockDim.x / team;
    const u32 first_sample = rows.first_sample + u32(begin);
    const auto noise = noise_of<Draw>(rows, b);
    const auto* scores = rows.quads_of_row(b);
    const Scale<Draw> scale(rows, b);
    for (int first = 0; first < count; first += teams) {
        // The last teams may have no sample: they repeat the last one, since all must meet.
        const int j = first + int(threadIdx.x) / team, of_team = threadIdx.x % team;
        const u32 sample = first_sample + min(j, count - 1);
        Best<Real> best;
        if constexpr (REJECTS) {
            const auto* of_row = reinterpret_cast<const Quad<u32>*>(limits) + b * quads;
            best = best_of_candidates(noise, &scores->x[0], scale, of_row, quads, of_team, team,
                                      sample, scratch + threadIdx.x, MAX_THREADS);
        } else {
            best = best_of_quads(noise, scores, scale, quads, of_team, team, sample);
        }
        best = best_of_team(best, team, best_of_warp);
        if constexpr (REJECTS) {
            if (best.value < levels[b]) best.index = UNKNOWN;
        }
        if (of_team == 0 && j < count) winners[j] = best.index;
    }

    if constexpr (REJECTS) {
        // What is still unknown is evaluated in full, a sample by a warp.
        __syncthreads();
        for (int j = threadIdx.x / WARP; j < count; j += blockDim.x / WARP) {
            if (winners[j] != UNKNOWN) continue;
            const int lane = threadIdx.x % WARP;
            Best<Real> best =
                best_of_quads(noise, scores, scale, quads, lane, WARP, first_sample + j);
            best = best_of_team(best, WARP, best_of_warp);
            __syncwarp();  // all have seen what is overwritten
            if (lane == 0) winners[j] = best.index;
        }
    }
    u32* histogram = scratch;
    const bool in_shared = counts && d <= COUNTED_IN_SHARED;
    if (in_shared)
        for (int i = threadIdx.x; i < d; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    u64* counts_of_row = nullptr;
    if (counts) counts_of_row = reinterpret_cast<u64*>(counts) + b * (squares ? 2 : 1) * d;
    for (int j = threadIdx.x; j < count; j += blockDim.x) {
        const int winner = winners[j];
        if (decided) decided[b * rows.num_samples + begin + j] = winner;
        if (!counts) continue;
        if (in_shared) {
            atomicAdd(&histogram[winner], 1u);
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

// <a, b> in float64, coordinate by coordinate: the order of kernels/reference_sums.py. Terms that
// are zero change nothing and are left out, which of a mean of few one-hot solutions are most. All
// threads of a block call it, and the first has the result.
template <class Real, class Other>
__device__ inline double ordered_dot(const Real* a, const Other* b, int n) {
    constexpr int AT_ONCE = 4;  // loads on their way together
    __shared__ double terms[MAX_THREADS];
    __shared__ int terms_of_warp[MAX_THREADS / WARP];
    const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const u32 lanes_below = (1u << threadIdx.x % WARP) - 1;
    double total = 0;
    for (int first = 0; first < n; first += AT_ONCE * blockDim.x) {
        double mine[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            const int i = first + k * blockDim.x + threadIdx.x;
            mine[k] = i < n ? double(a[i]) * double(Real(b[i])) : 0.0;
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            const u32 some = __ballot_sync(ALL_LANES, mine[k] != 0);
            if (threadIdx.x % WARP == 0) terms_of_warp[warp] = __popc(some);
            __syncthreads();
            int place = __popc(some & lanes_below), found = 0;
            for (int other = 0; other < warps; ++other) {
                if (other < warp) place += terms_of_warp[other];
                found += terms_of_warp[other];
            }
            if (mine[k] != 0) terms[place] = mine[k];
            __syncthreads();
            if (threadIdx.x == 0)
                for (int j = 0; j < found; ++j) total += terms[j];
        }
    }
    return total;
}

// weights[b, m] = <v, y_m - mean>, the mean rounded to Real; where samples come in pairs the pair's
// mate is left out of it too: a + pull (a + mate), with pull = 1 / (M - 2). A block is `blockDim`
// samples of a row.
template <class Draw, class Mean, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    weigh(const int* decided, const Real* v, const Mean* mean, int d, i64 num_samples, Real pull,
          int batches, Real* weights) {
    __shared__ Real centre_of_block;
    const i64 b = blockIdx.x / batches;
    const double of_first = ordered_dot(v + b * d, mean + b * d, d);
    if (threadIdx.x == 0) centre_of_block = Real(of_first);
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

// values[b, m] = what sample m sees of its winner; of no scores (null), the noise times eps. Rows
// of scores are `stride` apart. A thread is a sample.
template <class Draw, class Value, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    perturbed_values(Rows<Real> rows, const int* decided, const Real* scores, i64 stride,
                     int batches, Value* values) {
    const i64 b = blockIdx.x / batches;
    const i64 m = i64(blockIdx.x % batches) * blockDim.x + threadIdx.x;
    if (m >= rows.num_samples) return;
    const i64 at = b * rows.num_samples + m;
    const int winner = decided[at];
    const Real z = noise_of<Draw>(rows, b).decision_at(winner, rows.first_sample + u32(m));
    const Real e = Scale<Draw>(rows, b).at(winner);
    values[at] = perturbed<Draw>(scores ? scores[b * stride + winner] : Real(0), e, z);
}

// solutions[b, m, i] = 1 where i won. A thread is an entry.
__global__ void __launch_bounds__(MAX_THREADS, 1)
    one_hot(const int* decided, i64 problems, int d, int* solutions) {
    const i64 entry = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (entry < problems * d) solutions[entry] = decided[entry / d] == entry % d;
}
