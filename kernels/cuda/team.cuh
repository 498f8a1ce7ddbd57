// Who solves a sample together: a whole block, or one warp of it.
//
// Warps need no barrier of the block, and none waits for another: the way for small samples, of
// which there are many. Kernels take the team as a type.
#pragma once
#include "row.cuh"

// The sum over a warp's lanes, in every lane.
__device__ inline int sum_of_warp(int x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return int(__reduce_add_sync(ALL_LANES, u32(x)));
#else
    for (int lane_xor = WARP / 2; lane_xor > 0; lane_xor /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, lane_xor);
    return x;
#endif
}

struct WholeBlock {
    static constexpr bool IS_WARP = false;
    static constexpr int MAX_THREADS = 256;   // of a block
    static constexpr int TEAMS_OF_BLOCK = 1;  // at most
    static constexpr int REGISTERS = 80;      // a thread, where training lives

    __device__ static int in_block() { return 0; }
    __device__ static i64 index() { return blockIdx.x; }
    __device__ static i64 number() { return gridDim.x; }
    __device__ static int thread() { return threadIdx.x; }
    __device__ static int threads() { return blockDim.x; }
    __device__ static void sync() { __syncthreads(); }
    // Whether x is true of any thread; a barrier, too.
    __device__ static bool any(bool x) { return __syncthreads_or(x); }
};

struct OneWarp {
    static constexpr bool IS_WARP = true;
    static constexpr int MAX_THREADS = 128;
    static constexpr int TEAMS_OF_BLOCK = MAX_THREADS / WARP;
    static constexpr int REGISTERS = 96;

    __device__ static int in_block() { return threadIdx.x / WARP; }
    __device__ static i64 index() { return number_before(blockIdx.x) + in_block(); }
    __device__ static i64 number() { return number_before(gridDim.x); }
    __device__ static int thread() { return threadIdx.x % WARP; }
    __device__ static int threads() { return WARP; }
    __device__ static void sync() { __syncwarp(); }
    __device__ static bool any(bool x) {
        const bool found = __any_sync(ALL_LANES, x);
        __syncwarp();  // a vote does not order memory
        return found;
    }

  private:
    __device__ static i64 number_before(int block) { return i64(block) * (blockDim.x / WARP); }
};
