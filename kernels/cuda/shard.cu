// The best of a shard's coordinates: top-k of rows of any length. Twin of kernels/cpu/shard.py.
//
//     best_k         values[b, m, j], numbers[b, m, j]: the k best of every part of a row
//     merge_best     the same of the lists of several parts, or shards
//     count_winners  counts[b, i] = #{(m, j) : winners[b, m, j] is coordinate i of the shard}
//     project        products[b, m] = sum_j v[b, winners[b, m, j]], of the shard's
//
// Lists are in the order of numbers, which are those of the whole problem. A shard of an argmax is
// decided by argmax.cu; the sums of scores of either by accumulate.cu.
//
// Mapping. best_k: a block is a part of a row's coordinates for one sample, and takes them four a
// thread at a time. What beats the k-th best so far joins a list; where that could overflow, the k
// best of it are kept: after the first thousands of coordinates few are better, so a block draws
// noise and compares. merge_best: a block is a sample. The others: a thread is a winner, a sample.
//
// Memory. `words` has room for `capacity` of every block: a power of two, of at least 2 k and what
// is listed at a time.
//
// Determinism. Words differ, so which k are the best does not depend on the order in which they
// join.
#include "sort.cuh"

constexpr int MAX_THREADS = 256;

// The k largest of n words to the front, the least of them first; what is missing is below all. All
// threads of a block call it.
template <class Real>
__device__ inline void keep_best(Word<Real>* words, int n, int k) {
    int size = 2;
    while (size < n || size < 2 * k) size *= 2;
    for (int j = n + threadIdx.x; j < size; j += blockDim.x) words[j] = {};
    sort_words(words, size);
    for (int j = threadIdx.x; j < k; j += blockDim.x) words[j] = words[size - k + j];
    __syncthreads();
}

// k words by number.
template <class Real>
__device__ inline void write_in_order(const Word<Real>* words, int k, Real* values, i64* numbers) {
    for (int j = threadIdx.x; j < k; j += blockDim.x) {
        const u32 number = words[j].index();
        int place = 0;
        for (int other = 0; other < k; ++other) place += u32(words[other].index()) < number;
        values[place] = words[j].score();
        numbers[place] = number;
    }
}

// A part has at least k coordinates.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, Draw::min_blocks)
    best_k(Rows<Real> rows, int k, int parts, int capacity, u64* words, Real* values,
           i64* numbers) {
    __shared__ int listed;
    const int quads = rows.quads();
    const u32 offset = 4 * rows.first_quad;
    const i64 tasks = rows.number * rows.num_samples * parts;
    auto* list = reinterpret_cast<Word<Real>*>(words) + i64(blockIdx.x) * capacity;
    for (i64 task = blockIdx.x; task < tasks; task += gridDim.x) {
        const i64 problem = task / parts, b = problem / rows.num_samples;
        const u32 sample = rows.first_sample + u32(problem % rows.num_samples);
        const i64 part = task % parts;
        const int begin = int(quads * part / parts), end = int(quads * (part + 1) / parts);
        const auto noise = noise_of<Draw>(rows, b);
        const auto* scores = rows.quads_of_row(b);
        const Scale<Draw> scale(rows, b);
        Word<Real> worst = {};  // that is kept: below all until there are k
        if (threadIdx.x == 0) listed = 0;
        __syncthreads();
        for (int first = begin; first < end; first += blockDim.x) {
            const int q = first + int(threadIdx.x);
            if (q < end) {
                const Quad<Real> z = noise.decision(q, sample), x = scores[q], e = scale.quad(q);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int i = 4 * q + j;
                    const Real p = perturbed<Draw>(x[j], e[j], z[j]);
                    const auto word = Word<Real>::of(p, int(offset + u32(i)));
                    if (i < rows.d && worst < word) list[atomicAdd(&listed, 1)] = word;
                }
            }
            __syncthreads();
            const int n = listed;
            const bool last = end - first <= int(blockDim.x);
            __syncthreads();  // all have read it
            if (!last && n + 4 * int(blockDim.x) <= capacity) continue;
            keep_best(list, n, k);
            worst = list[0];
            if (threadIdx.x == 0) listed = k;
            __syncthreads();
        }
        write_in_order(list, k, values + task * k, numbers + task * k);
    }
}

// lists: (problems, size), of at least k that exist. What does not has the last number, and -inf.
template <class Real>
__global__ void __launch_bounds__(MAX_THREADS)
    merge_best(const Real* lists, const i64* of_lists, i64 problems, int size, int k, int capacity,
               u64* words, Real* values, i64* numbers) {
    auto* list = reinterpret_cast<Word<Real>*>(words) + i64(blockIdx.x) * capacity;
    for (i64 problem = blockIdx.x; problem < problems; problem += gridDim.x) {
        for (int j = threadIdx.x; j < size; j += blockDim.x) {
            const i64 at = problem * size + j;
            list[j] = Word<Real>::of(lists[at], int(u32(of_lists[at])));
        }
        keep_best(list, size, k);
        write_in_order(list, k, values + problem * k, numbers + problem * k);
        __syncthreads();  // the list is free
    }
}

// Add to counts, (rows, d), the winners of a shard from coordinate `first` on; `of_row` of a row.
template <class Count>
__global__ void __launch_bounds__(MAX_THREADS)
    count_winners(const i64* winners, i64 number, i64 of_row, i64 first, i64 d, Count* counts) {
    const i64 entry = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (entry >= number) return;
    const i64 place = winners[entry] - first;
    if (place >= 0 && place < d) atomicAdd(&counts[entry / of_row * d + place], Count(1));
}

template <class Real>
__global__ void __launch_bounds__(MAX_THREADS)
    project(const Real* v, const i64* winners, i64 problems, i64 num_samples, int k, i64 first,
            i64 d, Real* products) {
    const i64 problem = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (problem >= problems) return;
    Real product = 0;
    for (int j = 0; j < k; ++j) {
        const i64 place = winners[problem * k + j] - first;
        if (place >= 0 && place < d) product += v[problem / num_samples * d + place];
    }
    products[problem] = product;
}
