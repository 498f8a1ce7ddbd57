// Philox4x32-10, the counter-based generator: twin of kernels/philox.py.
//
//     coordinate i of sample m of row b reads
//     word i % 4 of philox4x32(counter = (i / 4, m, b, stream), key = (seed_lo, seed_hi))
//
// so noise never depends on a launch: on block sizes, on who computes what, on how work is split.
#pragma once
#include "bits.cuh"

constexpr u32 MULTIPLIER_0 = 0xD2511F53u;
constexpr u32 MULTIPLIER_1 = 0xCD9E8D57u;
constexpr u32 WEYL_0 = 0x9E3779B9u;
constexpr u32 WEYL_1 = 0xBB67AE85u;

constexpr u32 STREAM_NOISE = 0;   // the words every noise family reads
constexpr u32 STREAM_REFINE = 1;  // the second words of float64 noise
constexpr u32 STREAM_SHIFT = 2;   // the random digital shifts of quasi-Monte-Carlo points

// Four neighbouring coordinates: those of one Philox block. Loads as one or two vectors.
template <class T>
struct alignas(16) Quad {
    T x[4];
    __device__ T& operator[](int k) { return x[k]; }
    __device__ const T& operator[](int k) const { return x[k]; }
};

struct Key {
    u32 k0, k1;
};

// Four words from the counter (c0, c1, c2, c3). Where part of the counter is the same for all
// iterations of a loop, the compiler takes that part of the first two rounds out of it.
__device__ inline Quad<u32> philox4x32(u32 c0, u32 c1, u32 c2, u32 c3, Key key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = u64(MULTIPLIER_0) * c0;
        const u64 p1 = u64(MULTIPLIER_1) * c2;
        c0 = u32(p1 >> 32) ^ c1 ^ key.k0;
        c1 = u32(p1);
        c2 = u32(p0 >> 32) ^ c3 ^ key.k1;
        c3 = u32(p0);
        key.k0 += WEYL_0;
        key.k1 += WEYL_1;
    }
    return {{c0, c1, c2, c3}};
}
