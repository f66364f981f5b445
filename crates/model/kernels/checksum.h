// Checksums of rows: sums of a hash of each number and its place, which do not depend on the order.
#pragma once

#include "machine.h"

// A word's share of the checksum of a row (SplitMix64's finish).
DEVICE uint64_t mixed(uint64_t place, uint32_t bits) {
    uint64_t x = (place << 32 | bits) + 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

DEVICE uint64_t mixed(uint64_t place, float value) {
    union {
        float value;
        uint32_t bits;
    } number = {value};
    return mixed(place, number.bits);
}

// The sum over a block, on every thread; `scratch` holds a word for each warp, and nobody else uses it.
DEVICE uint64_t block_checksum(unsigned long long sum, unsigned long long* scratch) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane() == 0) scratch[warp()] = sum;
    sync();
    sum = 0;
    for (int other = 0; other < threads() / WARP; other++) sum += scratch[other];
    return sum;
}
