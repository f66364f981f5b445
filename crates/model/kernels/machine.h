// What a kernel asks of the machine that runs it, in one vocabulary: the GPU answers with its instructions
// (machine_cuda.h), the CPU plays a block of threads with fibers (machine_host.h), down to the layout of the
// tensor cores' fragments. So the kernels' index arithmetic is tested where there is no GPU.
//
//   thread(), threads(), block_x(), block_y()      who I am; blocks are one-dimensional
//   sync()                                         all threads of the block
//   sync_warp(), shuffle_xor(x, mask)              the 32 threads of a warp
//   load_matrices, load_matrices_transposed, mma   the tensor cores: PTX ISA, ldmatrix and mma.m16n8k16
//   copy_async, copy_async_commit, copy_async_wait 16 bytes to shared memory; zeros where not valid
//   to_float, from_float<T>                        bf16 and f16, rounded to nearest even
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#include "machine_cuda.h"
#else
#include "machine_host.h"
#endif

constexpr int WARP = 32;
constexpr float LOG2_E = 1.4426950408889634f;

DEVICE int lane() { return thread() % WARP; }
DEVICE int warp() { return thread() / WARP; }

// 16 bytes of numbers: what a thread loads at a time.
template <class T>
struct alignas(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T values[SIZE];
};

template <class T>
DEVICE Pack<T> load_pack(const T* from) {
    return *reinterpret_cast<const Pack<T>*>(from);
}

// Numbers of f32 beside those of a pack: loaded 16 bytes at a time.
template <int SIZE>
struct Floats {
    float values[SIZE];
};

template <int SIZE>
DEVICE Floats<SIZE> load_floats(const float* from) {
    Floats<SIZE> floats;
    UNROLL
    for (int i = 0; i < SIZE; i += Pack<float>::SIZE) {
        const Pack<float> pack = load_pack(from + i);
        UNROLL
        for (int k = 0; k < Pack<float>::SIZE; k++) floats.values[i + k] = pack.values[k];
    }
    return floats;
}

template <class T>
DEVICE void store_pack(T* to, const Pack<T>& pack) {
    *reinterpret_cast<Pack<T>*>(to) = pack;
}

// The sum over a warp, on every lane; a fixed order.
DEVICE float warp_sum(float x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

DEVICE float warp_max(float x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}

// The sum over a block, on every thread; `scratch` holds a float for each warp. A fixed order.
DEVICE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    sync();  // an earlier sum has been read
    if (lane() == 0) scratch[warp()] = x;
    sync();
    float sum = 0;
    for (int other = 0; other < threads() / WARP; other++) sum += scratch[other];
    return sum;
}
