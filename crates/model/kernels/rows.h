// Whole rows: embedding, gather, and the hash that fills weights for trials. A block for each row, but for the hash.
#pragma once

#include "args.h"
#include "checksum.h"
#include "machine.h"

template <class T>
DEVICE void embed(const EmbedArgs& args, char* shared) {
    const int64_t hidden = args.hidden, row = block_x();
    const uint32_t token = args.tokens[row];
    const T* from = static_cast<const T*>(args.weight) + token * hidden;
    T* to = static_cast<T*>(args.out) + row * hidden;
    const float scale = static_cast<float>(args.scale);
    unsigned long long checksum = thread() == 0 ? mixed(static_cast<uint64_t>(hidden), token) : 0;
    for (int64_t i = thread() * Pack<T>::SIZE; i < hidden; i += threads() * Pack<T>::SIZE) {
        Pack<T> pack = load_pack(from + i);
        for (T& value : pack.values) value = from_float<T>(to_float(value) * scale);
        store_pack(to + i, pack);
        if (!args.checksums) continue;
        for (int k = 0; k < Pack<T>::SIZE; k++) checksum += mixed(static_cast<uint64_t>(i + k), to_float(pack.values[k]));
    }
    if (!args.checksums) return;
    checksum = block_checksum(checksum, reinterpret_cast<unsigned long long*>(shared));
    if (thread() == 0) args.checksums[row] = checksum;
}

template <class T>
DEVICE void gather(const GatherArgs& args, char*) {
    const int64_t row = args.rows[block_x()];
    const bool here = args.first <= row && row < args.end;
    const T* from = static_cast<const T*>(args.x) + (here ? row - args.first : 0) * args.stride;
    T* to = static_cast<T*>(args.out) + block_x() * args.width;
    Pack<T> zeros;
    for (T& value : zeros.values) value = from_float<T>(0.0f);
    for (int64_t i = thread() * Pack<T>::SIZE; i < args.width; i += threads() * Pack<T>::SIZE) {
        store_pack(to + i, here ? load_pack(from + i) : zeros);
    }
}

// SplitMix64 (Steele, Lea, Flood 2014), its output function on a counter. The upper 24 bits as a number in [0, 1).
DEVICE float uniform(uint64_t seed, uint64_t counter) {
    uint64_t x = seed + (counter + 1) * 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    x ^= x >> 31;
    return static_cast<float>(x >> 40) * (1.0f / 16777216.0f);
}

template <class T>
DEVICE void fill(const FillArgs& args, char*) {
    constexpr int EACH = 16;  // numbers for each thread
    T* out = static_cast<T*>(args.out);
    const int64_t first = static_cast<int64_t>(block_x()) * threads() * EACH + thread();
    for (int k = 0; k < EACH; k++) {
        const int64_t i = first + static_cast<int64_t>(k) * threads();
        if (i >= args.count) return;
        const float x = (uniform(args.seed, i) - 0.5f) * static_cast<float>(args.scale) + static_cast<float>(args.offset);
        out[i] = from_float<T>(x);
    }
}
