// Perturbed ranks on the GPU, ascending 1 .. d: of equal scores the lowest index gets the largest
// rank. Twin of kernels/cpu/ranks.py.
//
//     rank_i = 1 + #{j : word_j < word_i},    word_i = (p_i, -i)
//
// Counting, up to COUNTED coordinates: the formula, all threads reading the same word at a time;
// or, up to FEW_COORDINATES, each thread on a sample of its own (lanes.cuh). Sorting, above: a
// bitonic network over words in shared memory, or in global memory where they do not fit; a word's
// place is its rank.
//
// solve.cuh has the mapping, the memory and what is deterministic.
#include "lanes.cuh"
#include "solve.cuh"
#include "words.cuh"

constexpr int MAX_THREADS = 256;
constexpr int COUNTED = 64;

template <class Real>
__device__ inline void count_ranks(const Real* p, int d, int* y) {
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const Real x = p[i];
        int rank = 1;
        for (int j = 0; j < d; ++j) rank += j < i ? x > p[j] : (j > i && x >= p[j]);
        y[i] = rank;
    }
}

// Sort n words, a power of two: blocks of `size` are bitonic after each pass.
template <class Real>
__device__ inline void sort_words(Word<Real>* words, int n) {
    for (int size = 2; size <= n; size *= 2) {
        for (int distance = size / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (int pair = threadIdx.x; pair < n / 2; pair += blockDim.x) {
                const int low = pair / distance * 2 * distance + pair % distance;
                const int high = low + distance;
                const bool falling = low & size;
                const Word<Real> a = words[low], b = words[high];
                if ((b < a) != falling) {
                    words[low] = b;
                    words[high] = a;
                }
            }
        }
    }
    __syncthreads();
}

template <class Real>
__device__ inline void sort_ranks(const Real* p, int d, Word<Real>* words, int* y) {
    int n = 1;
    while (n < d) n *= 2;
    // What is no coordinate sorts last.
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        words[i] = i < d ? Word<Real>::of(p[i], i) : Word<Real>::last();
    sort_words(words, n);
    for (int place = threadIdx.x; place < d; place += blockDim.x)
        y[words[place].index()] = place + 1;
}

// CAPACITY: coordinates of shared memory, a power of two; 0 to use `seen`, (blocks, 4 quads), and
// `words`, (blocks, n) of 16 bytes, n the power of two at or above d.
template <class Draw, int CAPACITY, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, SOLVING_BLOCKS<Draw>)
    ranks(const Real* scores, const Real* scales, const u32* seed, const u32* directions,
          int digits, const i64* row_ids, int d, i64 num_samples, u32 first_sample, i64 rows,
          int batch, i64* counts, int squares, const Real* v, const Real* mean, Real pull,
          Real* weights, double* values, int* solutions, int* workspace, i64* sums, Real* seen,
          u64* words, int n) {
    constexpr bool SORTED_HERE = CAPACITY > COUNTED;
    alignas(16) __shared__ Real p_of_block[CAPACITY > 0 ? CAPACITY : 4];
    __shared__ Word<Real> words_of_block[SORTED_HERE ? CAPACITY : 1];
    Real* p = CAPACITY > 0 ? p_of_block : seen + i64(blockIdx.x) * 4 * quads_of(d);
    auto* to_sort = CAPACITY > 0 ? words_of_block
                                 : reinterpret_cast<Word<Real>*>(words + i64(blockIdx.x) * 2 * n);
    const auto solve = [&](const Real* p, int* y, i64) {
        if (CAPACITY > 0 && CAPACITY <= COUNTED)
            count_ranks(p, d, y);
        else
            sort_ranks(p, d, to_sort, y);
    };
    solve_samples<Draw>({d, rows, num_samples, first_sample, batch}, scores, scales, seed,
                        directions, digits, row_ids,
                        {counts, squares, v, mean, pull, weights, values, solutions}, p, workspace,
                        sums, solve);
}

// As ranks, for at most FEW_COORDINATES coordinates.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(COLUMNS)
    ranks_in_lanes(const Real* scores, const Real* scales, const u32* seed, const u32* directions,
                   int digits, const i64* row_ids, int d, i64 num_samples, u32 first_sample,
                   i64 rows, i64* counts, int squares, const Real* v, const Real* mean, Real pull,
                   Real* weights, double* values, int* solutions) {
    __shared__ Columns<Real> columns;
    const auto rank = [&](int i) { return 1 + beaten(columns, d, i); };
    solve_in_lanes<Draw>(
        {d, rows, num_samples, first_sample, 0}, scores, scales, seed, directions, digits, row_ids,
        {counts, squares, v, mean, pull, weights, values, solutions}, columns, rank);
}
