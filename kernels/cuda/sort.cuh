// Bitonic sorts of words: in the registers of a warp, or in memory by a whole block.
//
// For size = 2, 4, ... n and distance = size / 2, ... 1, the words at places e and e ^ distance are
// put in order: rising where e & size is 0, else falling. Words differ but for those that fill up,
// so the order is the one order.
#pragma once
#include "team.cuh"
#include "words.cuh"

// What a thread needs, in kernels whose warps sort so many words.
template <class Team, int WORDS>
constexpr int SORTING_REGISTERS = Team::IS_WARP ? (WORDS > 512 ? 255 : 128) : Team::REGISTERS;

template <class Real>
__device__ inline void put_in_order(Word<Real>& low, Word<Real>& high, bool falling) {
    const Word<Real> a = low, b = high;
    const bool swap = (b < a) != falling;
    low = swap ? b : a;
    high = swap ? a : b;
}

// Sort a warp's words. Lane l has the places l ITEMS, l ITEMS + 1, ... of the result: what is less
// than ITEMS apart is in one lane, and needs no shuffle.
template <class Real, int ITEMS>
__device__ inline void sort_in_registers(Word<Real> (&words)[ITEMS]) {
    const int first = int(threadIdx.x % WARP) * ITEMS;
#pragma unroll
    for (int size = 2; size <= ITEMS; size *= 2) {
#pragma unroll
        for (int distance = size / 2; distance > 0; distance /= 2) {
#pragma unroll
            for (int j = 0; j < ITEMS; ++j)
                if (!(j & distance))
                    put_in_order(words[j], words[j | distance], (first | j) & size);
        }
    }
    for (int size = 2 * ITEMS; size <= WARP * ITEMS; size *= 2) {
        const bool falling = first & size;
        for (int distance = size / 2; distance >= ITEMS; distance /= 2) {
            const bool smaller = !(first & distance) != falling;
#pragma unroll
            for (int j = 0; j < ITEMS; ++j) {
                const Word<Real> other = words[j].from_lane(distance / ITEMS);
                if ((other < words[j]) == smaller) words[j] = other;
            }
        }
#pragma unroll
        for (int distance = ITEMS / 2; distance > 0; distance /= 2) {
#pragma unroll
            for (int j = 0; j < ITEMS; ++j)
                if (!(j & distance)) put_in_order(words[j], words[j | distance], falling);
        }
    }
}

// A warp's words of p: the coordinates j 32 + lane, then words that sort last.
template <class Real, int ITEMS>
__device__ inline void load_words(const Real* p, int d, Word<Real> (&words)[ITEMS]) {
#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
        const int i = j * WARP + int(threadIdx.x % WARP);
        words[j] = i < d ? Word<Real>::of(p[i], i) : Word<Real>::last();
    }
}

// Sort n words, a power of two, by a block.
template <class Real>
__device__ inline void sort_words(Word<Real>* words, int n) {
    for (int size = 2; size <= n; size *= 2) {
        for (int distance = size / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (int pair = threadIdx.x; pair < n / 2; pair += blockDim.x) {
                const int low = 2 * pair - (pair & (distance - 1));
                put_in_order(words[low], words[low + distance], low & size);
            }
        }
    }
    __syncthreads();
}

// Sort the words of p, by a block; `words` has room for the power of two at or above d.
template <class Real>
__device__ inline void sort_in_memory(const Real* p, int d, Word<Real>* words) {
    int n = 1;
    while (n < d) n *= 2;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        words[i] = i < d ? Word<Real>::of(p[i], i) : Word<Real>::last();
    sort_words(words, n);
}
