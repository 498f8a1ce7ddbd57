// What compiled kernels ask of the runtime: who am I, meet the others, look at my memory accesses.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

namespace simt {

constexpr int WARP = 32;
constexpr int MAX_THREADS = 1024;

/// Where threads meet. Exchanges do not order memory accesses, as on the device: barriers do.
enum class Meeting { BLOCK_BARRIER, WARP_BARRIER, EXCHANGE };

uint3 thread_index();
uint3 block_index();
uint3 block_size();
uint3 grid_size();

/// Wait for the lanes of `mask` (or for the block); returns what `source` brought along.
uint64_t meet(Meeting meeting, unsigned mask, uint64_t value, int source, int line);
/// As `meet`, and returns one bit a lane: whether it brought anything but 0.
unsigned vote(unsigned mask, bool value, int line);
/// Wait for the whole block; returns how many threads brought `true`.
int count_block(bool value, int line);

/// Look at an atomic access before it is done.
void note_atomic(const void* address, size_t size);

/// Abandon the launch.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace simt
