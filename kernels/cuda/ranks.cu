// Perturbed ranks on the GPU, ascending 1 .. d: of equal scores the lowest index gets the largest
// rank. Twin of kernels/cpu/ranks.py.
//
//     rank_i = 1 + #{j : word_j < word_i},    word_i = (p_i, -i)
//
// Counting, up to FEW_COORDINATES: the formula, each thread on a sample of its own (lanes.cuh).
// Sorting, above, and where samples are few: a word's place is its rank. A warp sorts up to 1024
// words in its registers, a block some thousands in shared memory and more in global memory.
//
// solve.cuh has the mapping, the memory and what is deterministic.
#include "lanes.cuh"
#include "solve.cuh"
#include "sort.cuh"

// y by a warp.
template <int ITEMS, class Real>
__device__ inline void rank_in_registers(const Real* p, int d, int* y) {
    Word<Real> words[ITEMS];
    load_words(p, d, words);
    sort_in_registers(words);
#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
        const int place = OneWarp::thread() * ITEMS + j;
        if (place < d) y[words[j].index()] = place + 1;
    }
}

// y by a block.
template <class Real>
__device__ inline void rank_in_memory(const Real* p, int d, Word<Real>* words, int* y) {
    sort_in_memory(p, d, words);
    for (int place = threadIdx.x; place < d; place += blockDim.x)
        y[words[place].index()] = place + 1;
}

// CAPACITY: coordinates of shared memory, a power of two; for blocks also 0, to use `words`,
// (blocks, n) of 16 bytes, n the power of two at or above d.
template <class Draw, class Team, int CAPACITY, class Real = typename Draw::Real>
__global__ void __launch_bounds__(Team::MAX_THREADS,
                                  SOLVING_BLOCKS<Draw, Team, SORTING_REGISTERS<Team, CAPACITY>>)
    ranks(Rows<Real> rows, Wanted<Real> wanted, Workspace<Real> workspace, u64* words, int n) {
    constexpr bool SHARED = CAPACITY > 0;
    alignas(16) __shared__ Real p[Team::TEAMS_OF_BLOCK][SHARED ? CAPACITY : 1];
    __shared__ Word<Real> words_of_block[SHARED && !Team::IS_WARP ? CAPACITY : 1];
    auto* to_sort =
        SHARED ? words_of_block : reinterpret_cast<Word<Real>*>(words + i64(blockIdx.x) * 2 * n);
    const auto solve = [&](const Real* p, int* y, i64) {
        if constexpr (Team::IS_WARP)
            rank_in_registers<CAPACITY / WARP>(p, rows.d, y);
        else
            rank_in_memory(p, rows.d, to_sort, y);
    };
    Real* mine = SHARED ? p[Team::in_block()] : nullptr;
    solve_samples<Draw, Team, false>(rows, wanted, workspace, mine, solve);
}

// A sample is a thread, with FEW_COORDINATES at most.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(COLUMNS) ranks_in_lanes(Rows<Real> rows, Wanted<Real> wanted) {
    __shared__ Columns<Real> columns;
    const auto rank = [&](int i) { return 1 + beaten(columns, rows.d, i); };
    solve_in_lanes<Draw>(rows, wanted, columns, rank);
}
