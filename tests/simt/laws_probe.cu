// The noise laws at given points: what tests compare with kernels/exact/laws.py. A thread is a
// point, and a row of `out` is one quantity.
#include "laws.cuh"

template <class Real, int FAMILY>
__global__ void law(const Real* u, int n, Real* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const auto [minus_log, r] = laws::hazard<FAMILY>(u[i]);
    const auto [f, above, below] = laws::density<FAMILY>(u[i]);
    const auto [s, slope_of_s] = laws::score<FAMILY>(u[i], below);
    const Real alone = laws::hazard_alone<FAMILY>(u[i]);
    const Real slope = laws::hazard_slope<FAMILY>(u[i], r),
               bend = laws::hazard_bend<FAMILY>(u[i], r);
    const Real all[] = {minus_log, r, alone, slope, bend, f, above, below, s, slope_of_s};
    for (int k = 0; k < 10; ++k) out[k * n + i] = all[k];
}

template <class Real, int FAMILY>
__global__ void difference(const Real* x, int n, Real* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const auto [h, slope, bend, rest] = laws::difference<FAMILY>(x[i]);
    const Real all[] = {h, slope, bend, rest};
    for (int k = 0; k < 4; ++k) out[k * n + i] = all[k];
}
