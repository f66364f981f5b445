// The machine is a CPU that plays the blocks of a kernel one after another. The threads of a block are fibers on one
// thread of the system; they change places where they wait for each other. Slow, and the same arithmetic.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#define DEVICE inline
#define UNROLL
#define UNROLL_BY_4

// === numbers ===

struct bf16 {
    uint16_t bits;
};
struct f16 {
    _Float16 value;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline float to_float(f16 x) { return static_cast<float>(x.value); }

template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) { return x; }
template <>
inline bf16 from_float<bf16>(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return bf16{0x7fff};
    return bf16{static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
inline f16 from_float<f16>(float x) { return f16{static_cast<_Float16>(x)}; }

template <class T>
uint32_t pack_two(float first, float second) {
    const T two[2] = {from_float<T>(first), from_float<T>(second)};
    uint32_t word;
    memcpy(&word, two, sizeof word);
    return word;
}

inline float exp2_quick(float x) { return exp2f(x); }
inline float reciprocal_quick(float x) { return 1.0f / x; }

// === the block ===

namespace host {

constexpr int LANES = 32;
constexpr size_t STACK = 64 << 10;

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    char* stack = nullptr;
    bool started = false, done = false;
    unsigned exchanges = 0;  // warp exchanges so far: its parity chooses the slots
};

// Stacks of earlier launches on this thread.
inline char* stack(size_t number) {
    static thread_local std::vector<std::unique_ptr<char[]>> stacks;
    while (stacks.size() <= number) stacks.emplace_back(new char[STACK]);
    return stacks[number].get();
}

// Where threads wait for the others: of a warp, or of the block.
struct Barrier {
    int size = 0, arrived = 0;
    unsigned generation = 0;
};

// A number from each lane of a warp; two sets, so that the next exchange can begin while this one is read.
struct Slots {
    uint64_t words[2][LANES][8];
};

struct Block {
    int threads = 0, x = 0, y = 0, current = 0;
    void (*kernel)(const void*, char*) = nullptr;
    const void* args = nullptr;
    char* shared = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Barrier> warps;
    std::vector<Slots> slots;
    Barrier all;
    jmp_buf scheduler;
};

inline Block*& block() {
    static thread_local Block* current = nullptr;
    return current;
}

inline void yield() {
    Block& b = *block();
    if (_setjmp(b.fibers[b.current].place) == 0) _longjmp(b.scheduler, 1);
}

inline void wait(Barrier& barrier) {
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    while (barrier.generation == generation) yield();
}

inline void fiber_main() {
    Block& b = *block();
    b.kernel(b.args, b.shared);
    b.fibers[b.current].done = true;
    _longjmp(b.scheduler, 1);
}

// Goes to a fiber and returns when it yields or ends.
inline void resume(Block& b, int number) {
    Fiber& fiber = b.fibers[number];
    b.current = number;
    if (_setjmp(b.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

inline void run(Block& b) {
    for (Fiber& fiber : b.fibers) {
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack;
        fiber.start.uc_stack.ss_size = STACK;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, fiber_main, 0);
        fiber.started = fiber.done = false;
        fiber.exchanges = 0;
    }
    for (bool running = true; running;) {
        running = false;
        for (int number = 0; number < b.threads; number++) {
            if (b.fibers[number].done) continue;
            running = true;
            resume(b, number);
        }
    }
}

// Runs a kernel on a grid of blocks.
inline void launch(void (*kernel)(const void*, char*), const void* args, const unsigned (&shape)[4]) {
    const unsigned grid_x = shape[0], grid_y = shape[1], threads = shape[2], shared = shape[3];
    Block b;
    b.threads = static_cast<int>(threads);
    b.kernel = kernel;
    b.args = args;
    std::vector<uint64_t> memory(shared / 8 + 2);
    b.shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory.data()) + 15) / 16 * 16);
    b.fibers.resize(threads);
    for (size_t number = 0; number < threads; number++) b.fibers[number].stack = stack(number);
    b.warps.resize(threads / LANES);
    for (Barrier& warp : b.warps) warp.size = LANES;
    b.slots.resize(threads / LANES);
    b.all.size = static_cast<int>(threads);
    block() = &b;
    for (unsigned y = 0; y < grid_y; y++) {
        for (unsigned x = 0; x < grid_x; x++) {
            b.x = static_cast<int>(x);
            b.y = static_cast<int>(y);
            run(b);
        }
    }
    block() = nullptr;
}

// Every lane's words, after every lane has given its own.
template <class Words>
const uint64_t (*exchange(const Words& own))[8] {
    static_assert(sizeof(Words) <= 8 * sizeof(uint64_t), "more than a slot holds");
    Block& b = *block();
    const int number = b.current, warp = number / LANES;
    const unsigned set = b.fibers[number].exchanges++ % 2;
    memcpy(b.slots[warp].words[set][number % LANES], &own, sizeof own);
    wait(b.warps[warp]);
    return b.slots[warp].words[set];
}

template <class Words>
Words of_lane(const uint64_t (*words)[8], int lane) {
    Words value;
    memcpy(&value, words[lane], sizeof value);
    return value;
}

}  // namespace host

inline int thread() { return host::block()->current; }
inline int threads() { return host::block()->threads; }
inline int block_x() { return host::block()->x; }
inline int block_y() { return host::block()->y; }
inline void sync() { host::wait(host::block()->all); }
inline void sync_warp() { host::wait(host::block()->warps[static_cast<size_t>(thread() / host::LANES)]); }

template <class X>
X shuffle_xor(X x, int mask) {
    return host::of_lane<X>(host::exchange(x), (thread() % host::LANES) ^ mask);
}

// === tensor cores: the fragments of PTX ISA 9.7.14.5.8 (mma.m16n8k16) and 9.7.14.5.15 (ldmatrix) ===

inline void load_matrices(uint32_t (&r)[4], const void* row) {
    const auto* rows = host::exchange(row);
    const int lane = thread() % host::LANES;
    for (int matrix = 0; matrix < 4; matrix++) {
        const auto* from = static_cast<const char*>(host::of_lane<const void*>(rows, matrix * 8 + lane / 4));
        memcpy(&r[matrix], from + lane % 4 * 4, 4);
    }
}

inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
    const auto* rows = host::exchange(row);
    const int lane = thread() % host::LANES;
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t two[2];
        for (int k = 0; k < 2; k++) {
            const auto* from = static_cast<const char*>(host::of_lane<const void*>(rows, matrix * 8 + lane % 4 * 2 + k));
            memcpy(&two[k], from + lane / 4 * 2, 2);
        }
        memcpy(&r[matrix], two, 4);
    }
}

template <class T>
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct Fragments {
        T a[4][2];
        T b[2][2];
    } own;
    memcpy(own.a, a, sizeof own.a);
    memcpy(own.b[0], &b0, 4);
    memcpy(own.b[1], &b1, 4);
    const auto* all = host::exchange(own);
    const int lane = thread() % host::LANES, group = lane / 4, member = lane % 4;
    for (int k = 0; k < 16; k++) {
        // element (row, k) of a is with lane row % 8 * 4 + k % 8 / 2, register row / 8 + k / 8 * 2, half k % 2
        const int holder = k % 8 / 2;
        const auto upper = host::of_lane<Fragments>(all, group * 4 + holder);
        for (int column = 0; column < 2; column++) {
            const auto right = host::of_lane<Fragments>(all, (member * 2 + column) * 4 + holder);
            const float b = to_float(right.b[k / 8][k % 2]);
            c[column] += to_float(upper.a[k / 8 * 2][k % 2]) * b;
            c[2 + column] += to_float(upper.a[k / 8 * 2 + 1][k % 2]) * b;
        }
    }
}

inline void copy_async(void* to_shared, const void* from, bool valid) {
    if (valid) {
        memcpy(to_shared, from, 16);
    } else {
        memset(to_shared, 0, 16);
    }
}
inline void copy_async_commit() {}
template <int PENDING>
void copy_async_wait() {}
