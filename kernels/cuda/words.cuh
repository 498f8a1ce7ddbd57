// Words that sort like (score, -index): of equal scores the lower index is the larger word, so all
// words of a sample differ and ties are settled once.
#pragma once
#include "row.cuh"

template <class Real>
struct Word;

// float32: one integer, the score's bits made monotone above ~index.
template <>
struct Word<float> {
    using Key = u32;
    static constexpr int BYTES = 8;
    u64 bits;

    // Sorts like the score, and is not 0.
    __device__ static Key key_of(float x) {
        const int b = bits::float_bits(x + 0.0f);  // one zero only
        return u32(b ^ (b >> 31 & 0x7FFFFFFF)) ^ 0x80000000u;
    }
    __device__ static Word of(float x, int i) { return {u64(key_of(x)) << 32 | u32(~i)}; }
    // Above every word of a score.
    __device__ static Word last() { return {~u64(0)}; }
    __device__ bool operator<(const Word& other) const { return bits < other.bits; }
    __device__ int index() const { return int(~u32(bits)); }
    __device__ float score() const {
        const int b = int(u32(bits >> 32) ^ 0x80000000u);
        return bits::bits_float(b ^ (b >> 31 & 0x7FFFFFFF));
    }
    // Byte k, the highest first.
    __device__ int byte(int k) const { return int(bits >> (56 - 8 * k) & 0xFF); }
    __device__ Word from_lane(int lane_xor) const {
        return {__shfl_xor_sync(ALL_LANES, bits, lane_xor)};
    }
};

// float64: the same in two integers.
template <>
struct Word<double> {
    using Key = u64;
    static constexpr int BYTES = 12;
    u64 key;
    u32 low;

    __device__ static Key key_of(double x) {
        const i64 b = bits::float_bits(x + 0.0);
        return u64(b ^ (b >> 63 & 0x7FFFFFFFFFFFFFFF)) ^ 0x8000000000000000u;
    }
    __device__ static Word of(double x, int i) { return {key_of(x), u32(~i)}; }
    __device__ static Word last() { return {~u64(0), ~0u}; }
    __device__ bool operator<(const Word& other) const {
        return key < other.key || (key == other.key && low < other.low);
    }
    __device__ int index() const { return int(~low); }
    __device__ double score() const {
        const i64 b = i64(key ^ 0x8000000000000000u);
        return bits::bits_float(b ^ (b >> 63 & 0x7FFFFFFFFFFFFFFF));
    }
    __device__ int byte(int k) const {
        return k < 8 ? int(key >> (56 - 8 * k) & 0xFF) : int(low >> (88 - 8 * k) & 0xFF);
    }
    __device__ Word from_lane(int lane_xor) const {
        return {__shfl_xor_sync(ALL_LANES, key, lane_xor),
                __shfl_xor_sync(ALL_LANES, low, lane_xor)};
    }
};
