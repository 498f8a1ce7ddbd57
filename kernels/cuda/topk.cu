// Perturbed top-k on the GPU: ones at exactly k largest scores. Twin of kernels/cpu/topk.py.
//
//     y_i = [word_i >= the k-th largest word],    word_i = (p_i, -i)
//
// Small k: the largest word, then the largest below it, ... k times. Larger k: from the highest bit
// (a warp) or byte (a block) on, whichever keeps k words at or above it, until those are just k.
// Words differ, so all end with exactly k, the lowest index first on a tie. Up to FEW_COORDINATES
// each thread counts, on a sample of its own.
//
// solve.cuh has the mapping, the memory and what is deterministic.
#include "lanes.cuh"
#include "solve.cuh"
#include "words.cuh"

// k up to which words are taken one by one.
template <class Team>
constexpr int ONE_BY_ONE = Team::IS_WARP ? 2 : 8;
constexpr int RADIX = 256;

// What a thread needs, in a warp that has its coordinates in registers.
template <class Team>
constexpr int REGISTERS_OF_KEYS = Team::IS_WARP ? 128 : Team::REGISTERS;

// The largest of the team's words, in every thread; `shared`, of a block, has room for one a warp.
template <class Team, class Real>
__device__ inline Word<Real> largest_of_team(Word<Real> word, Word<Real>* shared) {
    for (int lane_xor = WARP / 2; lane_xor > 0; lane_xor /= 2) {
        const Word<Real> other = word.from_lane(lane_xor);
        if (word < other) word = other;
    }
    if constexpr (Team::IS_WARP) return word;
    __syncthreads();  // the last call's results have been read
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = word;
    __syncthreads();
    for (int warp = 0; warp < int(blockDim.x) / WARP; ++warp)
        if (word < shared[warp]) word = shared[warp];
    return word;
}

// y by the k-th largest word, found by k maxima.
template <class Team, class Real>
__device__ inline void mark_by_maxima(const Real* p, int d, int k, Word<Real>* shared, int* y) {
    Word<Real> last = {};
    for (int taken = 0; taken < k; ++taken) {
        Word<Real> best = {};  // below every word of a score
        for (int i = Team::thread(); i < d; i += Team::threads()) {
            const Word<Real> word = Word<Real>::of(p[i], i);
            if (best < word && (taken == 0 || word < last)) best = word;
        }
        last = largest_of_team<Team>(best, shared);
    }
    for (int i = Team::thread(); i < d; i += Team::threads())
        y[i] = !(Word<Real>::of(p[i], i) < last);
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

// y by a warp, bit by bit: the largest threshold that k scores reach. Coordinates are in registers.
template <int ITEMS, class Real>
__device__ inline void mark_by_bits(const Real* p, int d, int k, int* y) {
    using Key = typename Word<Real>::Key;
    const int lane = threadIdx.x % WARP;
    Key keys[ITEMS];
#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
        const int i = j * WARP + lane;
        keys[j] = i < d ? Word<Real>::key_of(p[i]) : Key(0);  // 0 is below every score
    }
    const auto number = [&](auto holds) {
        int count = 0;
#pragma unroll
        for (int j = 0; j < ITEMS; ++j) count += holds(keys[j]);
        return sum_of_warp(count);
    };
    Key threshold = 0;
    int reaching = d;
    for (Key bit = Key(1) << (8 * sizeof(Key) - 1); bit != 0 && reaching > k; bit >>= 1) {
        const Key next = threshold | bit;
        const int count = number([&](Key key) { return key >= next; });
        if (count < k) continue;
        threshold = next;
        reaching = count;
    }
    // Of those that tie at the threshold, if they are too many, the first.
    int of_tied = d;
    if (reaching > k) of_tied = k - number([&](Key key) { return key > threshold; });
#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
        const int i = j * WARP + lane;
        const u32 tied = __ballot_sync(ALL_LANES, i < d && keys[j] == threshold);
        const int before = __popc(tied & ((1u << lane) - 1));
        const bool in = keys[j] > threshold || (keys[j] == threshold && before < of_tied);
        of_tied -= __popc(tied);
        if (i < d) y[i] = in;
    }
}

// CAPACITY: coordinates of shared memory, for warps a power of two; for blocks also 0.
template <class Draw, class Team, int CAPACITY, class Real = typename Draw::Real>
__global__ void __launch_bounds__(Team::MAX_THREADS,
                                  SOLVING_BLOCKS<Draw, Team, REGISTERS_OF_KEYS<Team>>)
    topk(Rows<Real> rows, Wanted<Real> wanted, Workspace<Real> workspace, int k) {
    constexpr bool SHARED = CAPACITY > 0;
    alignas(16) __shared__ Real p[Team::TEAMS_OF_BLOCK][SHARED ? CAPACITY : 1];
    __shared__ Word<Real> word_of_warp[Team::MAX_THREADS / WARP];
    __shared__ int histogram[RADIX], prefix[Word<Real>::BYTES];
    const auto solve = [&](const Real* p, int* y, i64) {
        if (k <= ONE_BY_ONE<Team>)
            mark_by_maxima<Team>(p, rows.d, k, word_of_warp, y);
        else if constexpr (Team::IS_WARP)
            mark_by_bits<CAPACITY / WARP>(p, rows.d, k, y);
        else
            mark_by_radix(p, rows.d, k, histogram, prefix, y);
    };
    Real* mine = SHARED ? p[Team::in_block()] : nullptr;
    solve_samples<Draw, Team, true>(rows, wanted, workspace, mine, solve);
}

// A sample is a thread, with FEW_COORDINATES at most: what beats all but fewer than k others is in.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(COLUMNS)
    topk_in_lanes(Rows<Real> rows, Wanted<Real> wanted, int k) {
    __shared__ Columns<Real> columns;
    const auto is_in = [&](int i) { return int(beaten(columns, rows.d, i) >= rows.d - k); };
    solve_in_lanes<Draw>(rows, wanted, columns, is_in);
}
