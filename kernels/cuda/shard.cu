// The best of a shard's coordinates: top-k of rows of any length. Twin of kernels/cpu/shard.py.
//
//     values[b, m, j], indices[b, m, j]    the k best of part j / k of the row, as sample m sees
//     them
//
// A shard of an argmax is decided by argmax.cu; the sums of scores of either by accumulate.cu.
//
// Mapping. A block is a part of a row's coordinates for one sample, and takes them four a thread at
// a time. What beats the k-th best so far joins a list; where that could overflow, the k best of it
// are kept: after the first thousands of coordinates few are better, so a block draws noise and
// compares.
//
// Memory. `words` has room for `capacity` of every block: a power of two, of at least 2 k and
// k + 4 threads.
//
// Determinism. Words differ, so which k are the best does not depend on the order in which they
// join. They are returned in no order.
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

// A part has at least k coordinates.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, Draw::min_blocks)
    best_k(Rows<Real> rows, int k, int parts, int capacity, u64* words, Real* values,
           int* indices) {
    __shared__ int listed;
    const int quads = rows.quads();
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
                    const auto word = Word<Real>::of(perturbed<Draw>(x[j], e[j], z[j]), i);
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
        for (int j = threadIdx.x; j < k; j += blockDim.x) {
            values[task * k + j] = list[j].score();
            indices[task * k + j] = list[j].index();
        }
    }
}
