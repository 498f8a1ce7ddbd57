// Rows as kernels read them: padded to whole quads, their noise, their temperatures.
#pragma once
#include "perturb.cuh"

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xFFFFFFFFu;

__host__ __device__ constexpr int quads_of(int d) { return (d + 3) / 4; }

// Temperatures of one row: one for all coordinates, or (4 quads) of them.
template <class Draw>
struct Scale {
    using Real = typename Draw::Real;
    const Real* values;

    __device__ Scale(const Real* scales, i64 row, int d)
        : values(scales + row * (Draw::per_coordinate ? 4 * quads_of(d) : 1)) {}
    __device__ Quad<Real> quad(int q) const {
        if constexpr (Draw::per_coordinate) return reinterpret_cast<const Quad<Real>*>(values)[q];
        const Real x = values[0];
        return {{x, x, x, x}};
    }
    __device__ Real at(int i) const { return values[Draw::per_coordinate ? i : 0]; }
};

// The noise of row b, called row_ids[b] in the noise contract (b itself by default). The seed is
// read from device memory, so that a captured graph can be replayed with another.
template <class Draw>
__device__ inline Noise<Draw> noise_of(i64 b, const u32* seed, const u32* directions, int digits,
                                       const i64* row_ids) {
    const u32 row = row_ids ? u32(row_ids[b]) : u32(b);
    return {{seed[0], seed[1]}, row, directions, digits};
}
