// Rotary position encoding, in the halves of transformers' rotate_half, with f32 angles; before it Qwen2's bias and
// Qwen3's norm of each head. Source: transformers, apply_rotary_pos_emb, Qwen2Attention, Qwen3Attention.
#pragma once

#include "args.h"
#include "machine.h"

// A thread for each pair of a row: block x is the row.
DEVICE void rope_table(const RopeTableArgs& args, char*) {
    const float position = static_cast<float>(args.positions[block_x()]);
    for (int64_t pair = thread(); pair < args.pairs; pair += threads()) {
        const float angle = position * args.inverse_frequencies[pair];
        float* to = args.table + (block_x() * args.pairs + pair) * 2;
        to[0] = cosf(angle);
        to[1] = sinf(angle);
    }
}

template <class T>
struct alignas(2 * sizeof(T)) Two {
    T values[2];
};

// A warp for each head of a row: block x is the row, block y counts groups of heads.
template <class T>
DEVICE void rope(const RopeArgs& args, char*) {
    constexpr int MOST = 4;  // pairs of neighbours for each lane: head_dim up to 512
    const int64_t head = static_cast<int64_t>(block_y()) * (threads() / WARP) + warp();
    if (head >= args.heads) return;
    const int64_t half = args.head_dim / 2;
    T* x = static_cast<T*>(args.x) + block_x() * args.stride + head * args.head_dim;
    const float* bias = args.bias ? args.bias + head * args.head_dim : nullptr;
    const float* table = args.table + block_x() * args.head_dim;
    float lower[MOST][2] = {}, upper[MOST][2] = {};
    float squares = 0;
    for (int k = 0; k < MOST; k++) {
        const int64_t pair = (k * WARP + lane()) * 2;
        if (pair >= half) break;
        const auto low = *reinterpret_cast<const Two<T>*>(x + pair), high = *reinterpret_cast<const Two<T>*>(x + half + pair);
        for (int j = 0; j < 2; j++) {
            lower[k][j] = to_float(low.values[j]);
            upper[k][j] = to_float(high.values[j]);
            if (bias) {
                lower[k][j] += bias[pair + j];
                upper[k][j] += bias[half + pair + j];
            }
            squares += lower[k][j] * lower[k][j] + upper[k][j] * upper[k][j];
        }
    }
    float scale = 1.0f;
    if (args.weight) scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(args.head_dim) + static_cast<float>(args.eps));
    for (int k = 0; k < MOST; k++) {
        const int64_t pair = (k * WARP + lane()) * 2;
        if (pair >= half) break;
        Two<T> low, high;
        for (int j = 0; j < 2; j++) {
            float a = lower[k][j], b = upper[k][j];
            if (args.weight) {
                a = a * scale * args.weight[pair + j];
                b = b * scale * args.weight[half + pair + j];
            }
            const float cosine = table[(pair + j) * 2], sine = table[(pair + j) * 2 + 1];
            low.values[j] = from_float<T>(a * cosine - b * sine);
            high.values[j] = from_float<T>(b * cosine + a * sine);
        }
        *reinterpret_cast<Two<T>*>(x + pair) = low;
        *reinterpret_cast<Two<T>*>(x + half + pair) = high;
    }
}
