// Perturbed top-k on the GPU: ones at exactly k largest scores. Twin of kernels/cpu/topk.py.
//
//     y_i = [word_i >= the k-th largest word],    word_i = (p_i, -i)
//
// Small k: the largest word, then the largest below it, ... k times. Larger k: radix select, byte
// by byte from the highest, until what shares the bytes fixed so far is just what is still wanted.
// Words differ, so both end with exactly k, the lowest index first on a tie.
//
// solve.cuh has the mapping, the memory and what is deterministic.
#include "lanes.cuh"
#include "solve.cuh"
#include "words.cuh"

constexpr int MAX_THREADS = 256;
constexpr int ONE_BY_ONE = 8;  // k up to which words are taken one by one
constexpr int RADIX = 256;

// The largest of the block's words, in every thread; `shared` has room for one a warp.
template <class Real>
__device__ inline Word<Real> largest_of_block(Word<Real> word, Word<Real>* shared) {
    for (int lane_xor = WARP / 2; lane_xor > 0; lane_xor /= 2) {
        const Word<Real> other = word.from_lane(lane_xor);
        if (word < other) word = other;
    }
    __syncthreads();  // the last call's results have been read
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = word;
    __syncthreads();
    for (int warp = 0; warp < int(blockDim.x) / WARP; ++warp)
        if (word < shared[warp]) word = shared[warp];
    return word;
}

// The k-th largest word by k maxima.
template <class Real>
__device__ inline Word<Real> kth_by_maxima(const Real* p, int d, int k, Word<Real>* shared) {
    Word<Real> last = {};
    for (int taken = 0; taken < k; ++taken) {
        Word<Real> best = {};  // below every word of a score
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            const Word<Real> word = Word<Real>::of(p[i], i);
            if (best < word && (taken == 0 || word < last)) best = word;
        }
        last = largest_of_block(best, shared);
    }
    return last;
}

// Whether a word's first `n` bytes are those of `prefix`.
template <class Real>
__device__ inline bool starts_with(const Word<Real>& word, const int* prefix, int n) {
    for (int k = 0; k < n; ++k)
        if (word.byte(k) != prefix[k]) return false;
    return true;
}

// y by radix select: words above the prefix are in, words below are out, and at the end those that
// share it are in.
template <class Real>
__device__ inline void mark_by_radix(const Real* p, int d, int k, int* histogram, int* prefix,
                                     int* y) {
    __shared__ int wanted_of_block, done_of_block;
    int length = 0, wanted = k;
    bool done = false;
    while (!done && length < Word<Real>::BYTES) {
        for (int bin = threadIdx.x; bin < RADIX; bin += blockDim.x) histogram[bin] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            const Word<Real> word = Word<Real>::of(p[i], i);
            if (starts_with(word, prefix, length)) atomicAdd(&histogram[word.byte(length)], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int bin = RADIX - 1, left = wanted;
            for (; histogram[bin] < left; --bin) left -= histogram[bin];
            prefix[length] = bin;
            wanted_of_block = left;
            done_of_block = histogram[bin] == left;
        }
        __syncthreads();
        wanted = wanted_of_block;
        done = done_of_block;
        ++length;
    }
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const Word<Real> word = Word<Real>::of(p[i], i);
        int in = 1;
        for (int n = 0; n < length; ++n) {
            if (word.byte(n) == prefix[n]) continue;
            in = word.byte(n) > prefix[n];
            break;
        }
        y[i] = in;
    }
}

// CAPACITY: padded coordinates of shared memory, 0 to use `seen`, (blocks, 4 quads).
template <class Draw, int CAPACITY, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, SOLVING_BLOCKS<Draw>)
    topk(const Real* scores, const Real* scales, const u32* seed, const u32* directions, int digits,
         const i64* row_ids, int d, i64 num_samples, u32 first_sample, i64 rows, int batch,
         i64* counts, int squares, const Real* v, const Real* mean, Real pull, Real* weights,
         double* values, int* solutions, int* workspace, i64* sums, Real* seen, int k) {
    alignas(16) __shared__ Real p_of_block[CAPACITY > 0 ? CAPACITY : 4];
    __shared__ Word<Real> word_of_warp[MAX_THREADS / WARP];
    __shared__ int histogram[RADIX], prefix[Word<Real>::BYTES];
    Real* p = CAPACITY > 0 ? p_of_block : seen + i64(blockIdx.x) * 4 * quads_of(d);
    const auto solve = [&](const Real* p, int* y, i64) {
        if (k <= ONE_BY_ONE) {
            const Word<Real> kth = kth_by_maxima(p, d, k, word_of_warp);
            for (int i = threadIdx.x; i < d; i += blockDim.x)
                y[i] = !(Word<Real>::of(p[i], i) < kth);
        } else {
            mark_by_radix(p, d, k, histogram, prefix, y);
        }
    };
    solve_samples<Draw>({d, rows, num_samples, first_sample, batch}, scores, scales, seed,
                        directions, digits, row_ids,
                        {counts, squares, v, mean, pull, weights, values, solutions}, p, workspace,
                        sums, solve);
}

// As topk, for at most FEW_COORDINATES coordinates: what beats all but fewer than k others is in.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(COLUMNS)
    topk_in_lanes(const Real* scores, const Real* scales, const u32* seed, const u32* directions,
                  int digits, const i64* row_ids, int d, i64 num_samples, u32 first_sample,
                  i64 rows, i64* counts, int squares, const Real* v, const Real* mean, Real pull,
                  Real* weights, double* values, int* solutions, int k) {
    __shared__ Columns<Real> columns;
    const auto is_in = [&](int i) { return int(beaten(columns, d, i) >= d - k); };
    solve_in_lanes<Draw>(
        {d, rows, num_samples, first_sample, 0}, scores, scales, seed, directions, digits, row_ids,
        {counts, squares, v, mean, pull, weights, values, solutions}, columns, is_in);
}
