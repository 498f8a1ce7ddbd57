// Rows as kernels read them: padded to whole quads, their noise, their temperatures.
#pragma once
#include "perturb.cuh"

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xFFFFFFFFu;

__host__ __device__ constexpr int quads_of(int d) { return (d + 3) / 4; }

// Rows and samples of a launch: what every kernel that draws noise is given. Fields are in the
// order of calls.py.
template <class Real>
struct Rows {
    const Real* scores;       // (rows, 4 quads)
    const Real* scales;       // temperatures: (rows, 1), or (rows, 4 quads)
    const u32* seed;          // (2), read on the device: a graph can be replayed with another
    const u32* noise_data;    // a table of the noise, then Sobol' directions; or null
    const i64* row_ids;       // what rows are called in the noise contract; null for 0, 1, ...
    u32 seed_low, seed_high;  // the seed, where the pointer is null
    i64 number, num_samples;
    u32 first_sample, first_quad;
    int d, digits;

    __device__ int quads() const { return quads_of(d); }
    __device__ const Quad<Real>* quads_of_row(i64 b) const {
        return reinterpret_cast<const Quad<Real>*>(scores) + b * quads();
    }
};

// Temperatures of one row: one for all coordinates, or (4 quads) of them.
template <class Draw>
struct Scale {
    using Real = typename Draw::Real;
    const Real* values;

    __device__ Scale(const Rows<Real>& rows, i64 b)
        : values(rows.scales + b * (Draw::per_coordinate ? 4 * rows.quads() : 1)) {}
    __device__ Quad<Real> quad(int q) const {
        if constexpr (Draw::per_coordinate) return reinterpret_cast<const Quad<Real>*>(values)[q];
        const Real x = values[0];
        return {{x, x, x, x}};
    }
    __device__ Real at(int i) const { return values[Draw::per_coordinate ? i : 0]; }
};

// The noise of row b.
template <class Draw, class Real = typename Draw::Real>
__device__ inline Noise<Draw> noise_of(const Rows<Real>& rows, i64 b) {
    const u32 row = rows.row_ids ? u32(rows.row_ids[b]) : u32(b);
    const Key fixed = {rows.seed_low, rows.seed_high};
    const Key key = rows.seed ? Key{rows.seed[0], rows.seed[1]} : fixed;
    return {key, row, rows.first_quad, rows.noise_data, rows.digits};
}
