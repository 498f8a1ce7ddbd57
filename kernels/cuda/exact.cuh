// What the kernels of exact expectations share: operations, nodes, small reductions.
//
// Nodes of a trapezoid rule come in tiles of a warp's width, from the top down; `rule` and the
// ends are those of kernels/exact/nodes.py, computed on the host.
#pragma once
#include "accumulate.cuh"
#include "laws.cuh"

// What is integrated: kernels/exact/codes.py.
enum Expectation { VALUE, MOMENTS, PRODUCT, SCALE, SECOND, JACOBIAN };

constexpr int MAX_THREADS = 256;
constexpr int NODES = WARP;  // of a tile

// The larger of all threads' values, in every thread; `shared` has room for one a warp.
__device__ inline double largest_of_block(double x, double* shared) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        x = max(x, __shfl_xor_sync(ALL_LANES, x, distance));
    __syncthreads();  // the last call's results have been read
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int warp = 0; warp < int(blockDim.x) / WARP; ++warp) x = max(x, shared[warp]);
    return x;
}

__device__ inline double smallest_of_block(double x, double* shared) {
    return -largest_of_block(-x, shared);
}

// Their sum, likewise.
__device__ inline int sum_of_block(int x, double* shared) {
    x = tree_sum(x);
    __syncthreads();  // the last call's results have been read
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    double total = 0;
    for (int warp = 0; warp < int(blockDim.x) / WARP; ++warp) total += shared[warp];
    return int(total);
}

// Powers of 1 / unit that a derivative takes.
__device__ inline double per_unit(int operation, double unit) {
    if (operation <= MOMENTS) return 1;
    return operation == SECOND ? 1 / unit * (1 / unit) : 1 / unit;
}
