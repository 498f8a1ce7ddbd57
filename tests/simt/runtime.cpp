// A block of CUDA threads on one CPU thread: fibers, meetings, and a look at every memory access.
//
// Every thread is a fiber. One runs until it meets others (a barrier, a shuffle, a vote), then any
// other that can run takes over, in an order drawn from a seed. Blocks run one after another, in a
// random order too. What is caught:
//
//   meetings    a barrier that not all threads reach, or at different lines; a shuffle whose mask
//               names a lane that left or is elsewhere, or that reads from a lane outside the mask
//   accesses    out of the bounds of every buffer; shared memory read before it is written; two
//               threads at one address, one of them writing, with no barrier between (also across
//               blocks), unless both are atomic
//
// Accesses arrive through the hooks that -fsanitize=thread plants: the compiler's half of that
// sanitizer is used, and this file takes the place of its library (as the Linux kernel does). In a
// build without these hooks (address and undefined-behaviour sanitizers) only meetings are checked
// and shared memory starts as NaN.
#include "runtime.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "fibers.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

// ------------------------------------------------------------------------------------------- state

enum class State { READY, MEETING, DONE };

struct Thread {
    Context context;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    State state;
    Meeting meeting;
    unsigned mask;
    int source, line;
    uint64_t value, result;
    unsigned warp_epoch;  // barriers of the warp so far
};

/// Who touched a cell of four bytes last.
struct Access {
    unsigned block = 0;  // 1 + its index; 0 is nobody
    unsigned block_epoch, warp_epoch;
    short thread;  // MANY_WARPS, or -1 - warp for several threads of one warp
    bool atomic;
};
constexpr short MANY_WARPS = -1000;

struct Cell {
    Access write, read;
};

struct Buffer {
    const char *begin, *end;
    std::vector<Cell> cells;
    bool shared;
};

struct Launch {
    void (*kernel)(void**);
    void** arguments;
    uint3 grid, block;
    int threads;
    std::vector<Buffer> buffers;
    const char *image, *statics, *image_end;
};

Launch launch;
std::vector<Thread> pool;
std::vector<int> ready;
Context scheduler;
uint3 block_at;
unsigned block_id, block_epoch;
int current, block_waiting, done;
unsigned warp_waiting[MAX_THREADS / WARP];
uint64_t random_state;
bool failed;
char message[1000];

unsigned draw(unsigned n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return unsigned(random_state >> 32) % n;
}

#if defined(__SANITIZE_ADDRESS__)
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_bytes;
#endif

void to_scheduler(bool for_good = false) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, scheduler_stack,
                                   scheduler_stack_bytes);
#endif
    pool[current].context.switch_to(scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    (void)for_good;
}

void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
    launch.kernel(launch.arguments);
    pool[current].state = State::DONE;
    to_scheduler(true);
}

void to_thread(int thread) {
    current = thread;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, pool[thread].stack.get(), STACK_BYTES);
#endif
    scheduler.switch_to(pool[thread].context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

/// Ends the launch, after the block's number.
void say(const char* format, va_list arguments) {
    const int n = snprintf(message, sizeof message, "block %u: ", block_id);
    vsnprintf(message + n, sizeof message - n, format, arguments);
    failed = true;
}

/// An error found by the scheduler itself.
void complain(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
}

// ---------------------------------------------------------------------------------------- meetings

void make_ready(int thread) {
    pool[thread].state = State::READY;
    ready.push_back(thread);
}

/// Whether the block's barrier is complete; lets it go if so.
void try_block() {
    if (block_waiting < launch.threads) return;
    int count = 0;
    for (int t = 0; t < launch.threads; ++t) {
        count += pool[t].value != 0;
        if (pool[t].line != pool[0].line)
            return complain("divergent barrier: thread 0 is at line %d, thread %d at line %d",
                            pool[0].line, t, pool[t].line);
    }
    block_waiting = 0;
    ++block_epoch;
    for (int t = 0; t < launch.threads; ++t) {
        pool[t].result = count;
        make_ready(t);
    }
}

/// Whether all lanes that `thread` waits for are there; lets them go if so.
void try_warp(int thread) {
    const Thread& mine = pool[thread];
    const int warp = thread / WARP;
    if ((warp_waiting[warp] & mine.mask) != mine.mask) return;
    unsigned epoch = 0;
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(mine.mask >> lane & 1)) continue;
        const Thread& other = pool[warp * WARP + lane];
        if (other.meeting != mine.meeting || other.mask != mine.mask || other.line != mine.line)
            return complain(
                "divergent warp: thread %d is at line %d with mask %x, thread %d at line %d with "
                "%x",
                thread, mine.line, mine.mask, warp * WARP + lane, other.line, other.mask);
        epoch = std::max(epoch, other.warp_epoch);
    }
    unsigned votes = 0;
    for (int lane = 0; lane < WARP; ++lane)
        if (mine.mask >> lane & 1) votes |= unsigned(pool[warp * WARP + lane].value != 0) << lane;
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(mine.mask >> lane & 1)) continue;
        Thread& other = pool[warp * WARP + lane];
        other.result = other.source < 0 ? votes : pool[warp * WARP + other.source].value;
        if (mine.meeting == Meeting::WARP_BARRIER) other.warp_epoch = epoch + 1;
        make_ready(warp * WARP + lane);
    }
    warp_waiting[warp] &= ~mine.mask;
}

void complain_of_deadlock() {
    for (int t = 0; t < launch.threads; ++t) {
        const Thread& thread = pool[t];
        if (thread.state != State::MEETING) continue;
        if (thread.meeting == Meeting::BLOCK_BARRIER)
            return complain(
                "thread %d waits at the block barrier of line %d; %d of %d threads do, "
                "%d have left",
                t, thread.line, block_waiting, launch.threads, done);
        return complain("thread %d waits at line %d for lanes %x; only %x are there", t,
                        thread.line, thread.mask, warp_waiting[t / WARP] & thread.mask);
    }
}

// ------------------------------------------------------------------------------------------ blocks

__attribute__((no_sanitize("address"))) void poison_shared_memory() {
    for (volatile char* p = const_cast<char*>(launch.statics); p < launch.image_end; ++p)
        *p = char(0xFF);  // NaN in every floating-point type
}

void run_block() {
    poison_shared_memory();
    ready.clear();
    block_epoch = block_waiting = done = 0;
    std::fill(std::begin(warp_waiting), std::end(warp_waiting), 0);
    for (int t = 0; t < launch.threads; ++t) {
        pool[t].warp_epoch = 0;
        pool[t].context.start(pool[t].stack.get(), run_thread);
        make_ready(t);
    }
    while (!ready.empty() && !failed) {
        std::swap(ready[draw(ready.size())], ready.back());
        const int t = ready.back();
        ready.pop_back();
        to_thread(t);
        if (failed) return;
        if (pool[t].state == State::DONE) {
            ++done;
        } else if (pool[t].meeting == Meeting::BLOCK_BARRIER) {
            ++block_waiting;
            try_block();
        } else {
            warp_waiting[t / WARP] |= 1u << t % WARP;
            try_warp(t);
        }
    }
    if (!failed && done < launch.threads) complain_of_deadlock();
}

// ---------------------------------------------------------------------------------------- accesses

/// Whether something the same block's `thread` did is ordered before what `current` does now.
bool ordered(const Access& before) {
    if (before.block_epoch < block_epoch) return true;
    if (before.thread == current) return true;
    const int warp = before.thread >= 0 ? before.thread / WARP : -1 - before.thread;
    return before.thread != MANY_WARPS && warp == current / WARP &&
           before.warp_epoch < pool[current].warp_epoch;
}

void check_race(const Access& before, bool shared, bool atomic, const char* what) {
    if (before.block == 0 || (atomic && before.atomic)) return;
    if (before.block != block_id + 1) {
        if (!shared)
            fail("race: thread %d %s what block %u touches too", current, what, before.block - 1);
    } else if (!ordered(before)) {
        fail("race: thread %d %s what thread %d touched, with no barrier between", current, what,
             before.thread);
    }
}

void remember(Access& slot, bool atomic) {
    const bool fresh = slot.block != block_id + 1 || slot.block_epoch < block_epoch;
    const bool same_warp =
        !fresh && slot.thread != MANY_WARPS &&
        (slot.thread >= 0 ? slot.thread / WARP : -1 - slot.thread) == current / WARP;
    const bool joined = !fresh && !ordered(slot);
    const int who = !joined || slot.thread == current ? current
                    : same_warp                       ? -1 - current / WARP
                                                      : MANY_WARPS;
    slot = {block_id + 1, block_epoch, pool[current].warp_epoch, short(who), atomic};
}

void note(const char* address, size_t size, bool writes, bool atomic) {
    const char* stack = pool[current].stack.get();
    if (address >= stack && address < stack + STACK_BYTES) return;
    for (Buffer& buffer : launch.buffers) {
        if (address < buffer.begin || address >= buffer.end) continue;
        if (address + size > buffer.end) break;
        const size_t first = (address - buffer.begin) / 4;
        const size_t last = (address + size - 1 - buffer.begin) / 4;
        for (size_t i = first; i <= last; ++i) {
            Cell& cell = buffer.cells[i];
            if (buffer.shared && !writes && cell.write.block != block_id + 1)
                fail("thread %d reads shared memory that nobody has written", current);
            check_race(cell.write, buffer.shared, atomic, writes ? "writes" : "reads");
            if (writes) check_race(cell.read, buffer.shared, atomic, "writes");
            remember(writes ? cell.write : cell.read, atomic);
        }
        return;
    }
    const bool constant = address >= launch.image && address + size <= launch.statics;
    if (!constant || writes)
        fail("thread %d %s %zu bytes at %p, out of the bounds of every buffer", current,
             writes ? "writes" : "reads", size, static_cast<const void*>(address));
}

}  // namespace

// -------------------------------------------------------------------------- what kernels ask

uint3 thread_index() {
    const unsigned x = launch.block.x, y = launch.block.y;
    return {current % x, current / x % y, current / (x * y)};
}
uint3 block_index() { return block_at; }
uint3 block_size() { return launch.block; }
uint3 grid_size() { return launch.grid; }

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    to_scheduler(true);
    __builtin_unreachable();
}

uint64_t meet(Meeting meeting, unsigned mask, uint64_t value, int source, int line) {
    const int lane = current % WARP, warp = current / WARP * WARP;
    if (meeting != Meeting::BLOCK_BARRIER) {
        if (!(mask >> lane & 1))
            fail("thread %d is not in its own mask %x at line %d", current, mask, line);
        if (source >= 0 && !(mask >> source & 1))
            fail("thread %d reads from lane %d outside the mask %x at line %d", current, source,
                 mask, line);
        for (int other = 0; other < WARP; ++other)
            if ((mask >> other & 1) &&
                (warp + other >= launch.threads || pool[warp + other].state == State::DONE))
                fail("the mask %x at line %d names lane %d, which is not there", mask, line, other);
    }
    Thread& mine = pool[current];
    mine.state = State::MEETING;
    mine.meeting = meeting;
    mine.mask = mask;
    mine.source = source;
    mine.line = line;
    mine.value = value;
    to_scheduler();
    return pool[current].result;
}

unsigned vote(unsigned mask, bool value, int line) {
    return unsigned(meet(Meeting::EXCHANGE, mask, value, -1, line));
}

int count_block(bool value, int line) {
    return int(meet(Meeting::BLOCK_BARRIER, 0, value, -1, line));
}

void note_atomic(const void* address, size_t size) {
#if !defined(__SANITIZE_ADDRESS__)
    note(static_cast<const char*>(address), size, true, true);
#else
    (void)address, (void)size;
#endif
}

}  // namespace simt

// --------------------------------------------------------------------------- what NumPy asks

/// Run a grid. `buffers` are (begin, bytes) of the arrays among the arguments. Returns an error's
/// text, or null.
extern "C" const char* simt_launch(void (*kernel)(void**), void** arguments, char** image,
                                   const unsigned* grid, const unsigned* block, int num_buffers,
                                   const uint64_t* buffers, uint64_t seed) {
    using namespace simt;
    launch = {kernel,
              arguments,
              {grid[0], grid[1], grid[2]},
              {block[0], block[1], block[2]},
              0,
              {},
              image[0],
              image[1],
              image[2]};
    launch.threads = block[0] * block[1] * block[2];
    auto add = [](const char* begin, size_t bytes, bool shared) {
        launch.buffers.push_back({begin, begin + bytes, std::vector<Cell>(bytes / 4 + 1), shared});
    };
    add(launch.statics, launch.image_end - launch.statics, true);
    for (int i = 0; i < num_buffers; ++i)
        add(reinterpret_cast<const char*>(buffers[2 * i]), buffers[2 * i + 1], false);
    if (pool.size() < size_t(launch.threads)) pool.resize(launch.threads);
    random_state = (seed + 1) * 0x9E3779B97F4A7C15u;
    failed = false;
    std::vector<unsigned> blocks(size_t(grid[0]) * grid[1] * grid[2]);
    for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
    for (unsigned i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[draw(i)]);
    for (unsigned i : blocks) {
        block_id = i;
        block_at = {i % grid[0], i / grid[0] % grid[1], i / (grid[0] * grid[1])};
        run_block();
        if (failed) break;
    }
    launch.buffers.clear();
    return failed ? message : nullptr;
}

// The hooks that -fsanitize=thread plants.
#define SIMT_HOOKS(size)                                                                    \
    extern "C" void __tsan_read##size(const char* p) { simt::note(p, size, false, false); } \
    extern "C" void __tsan_write##size(const char* p) { simt::note(p, size, true, false); } \
    extern "C" void __tsan_unaligned_read##size(const char* p) {                            \
        simt::note(p, size, false, false);                                                  \
    }                                                                                       \
    extern "C" void __tsan_unaligned_write##size(const char* p) {                           \
        simt::note(p, size, true, false);                                                   \
    }
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)
extern "C" void __tsan_read_range(const char* p, size_t n) { simt::note(p, n, false, false); }
extern "C" void __tsan_write_range(const char* p, size_t n) { simt::note(p, n, true, false); }
extern "C" void __tsan_init() {}

// What kernels/cuda/user.cu is linked to: here the loop over samples of
// kernels/cpu/user_function.py, whose address the test sets.
extern "C" std::uint64_t simt_solve = 0;
extern "C" long long dpo_solve(long long scores, long long solution, long long shared,
                               long long row, long long work, long long layout) {
    using I = long long;
    using Rows = I (*)(I, I, I, I, I, I, I, I, I, I, I);
    static const I which = 0;
    return reinterpret_cast<Rows>(simt_solve)(scores, 0, solution, 0, 1, I(&which), shared, row, 0,
                                              work, layout);
}
