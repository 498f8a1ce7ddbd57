// One correct kernel, and its neighbours with one defect each: what the simulator must see.
#include "bits.cuh"

constexpr int SIZE = 64;

// y[i] = x[SIZE - 1 - i], through shared memory.
__global__ void reverse(const int* x, int* y) {
    __shared__ int shared[SIZE];
    shared[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = shared[SIZE - 1 - threadIdx.x];
}

__global__ void missing_barrier(const int* x, int* y) {
    __shared__ int shared[SIZE];
    shared[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = shared[SIZE - 1 - threadIdx.x];
}

// A barrier of the warp does not order the two halves of the block.
__global__ void warp_barrier_for_block_barrier(const int* x, int* y) {
    __shared__ int shared[SIZE];
    shared[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = shared[SIZE - 1 - threadIdx.x];
}

// All threads count in one place, but not atomically.
__global__ void race(const int* x, int* y) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (x[threadIdx.x] >= 0) count += 1;
    __syncthreads();
    y[threadIdx.x] = count;
}

// The same place of global memory from every block.
__global__ void race_between_blocks(const int* x, int* y) {
    if (threadIdx.x == 0) y[0] = x[blockIdx.x];
}

// The next round overwrites what slower threads of this one still read.
__global__ void missing_barrier_in_a_loop(const int* x, int* y) {
    __shared__ int shared[SIZE];
    int sum = 0;
    for (int round = 0; round < 2; ++round) {
        shared[threadIdx.x] = x[threadIdx.x] + round;
        __syncthreads();
        sum += shared[(threadIdx.x + 1) % SIZE];
    }
    y[threadIdx.x] = sum;
}

__global__ void write_out_of_bounds(const int* x, int* y) { y[threadIdx.x + 1] = x[threadIdx.x]; }

__global__ void read_out_of_bounds(const int* x, int* y) {
    y[threadIdx.x] = x[int(threadIdx.x) - 1];
}

__global__ void unwritten_shared_memory(const int* x, int* y) {
    __shared__ int shared[SIZE];
    if (threadIdx.x != 5) shared[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x];
}

__global__ void divergent_barrier(const int* x, int* y) {
    if (threadIdx.x < 32) __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}

__global__ void two_barriers(const int* x, int* y) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = x[threadIdx.x];
}

__global__ void inactive_lane(const int* x, int* y) {
    if (threadIdx.x % 32 == 7) return;
    y[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, x[threadIdx.x], 1);
}

__global__ void lane_outside_the_mask(const int* x, int* y) {
    if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_sync(0xFFFFu, x[threadIdx.x], 20);
}

__global__ void divergent_warp(const int* x, int* y) {
    int value = x[threadIdx.x];
    if (threadIdx.x % 2) {
        value = __shfl_xor_sync(0xFFFFFFFFu, value, 1);
    } else {
        value = __shfl_xor_sync(0xFFFFFFFFu, value, 2);
    }
    y[threadIdx.x] = value;
}

// For the compiler's sanitizers.
__global__ void shared_out_of_bounds(const int* x, int* y) {
    __shared__ int shared[SIZE];
    shared[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x + 1];
}

__global__ void overflow(const int* x, int* y) {
    y[threadIdx.x] = x[threadIdx.x] + int(threadIdx.x) * 0x7FFFFFFF;
}
