// RMSNorm with everything that lies between two matmuls: the ranks' parts, the branch's own norm, the residual.
// A block for each row; f32 inside. Sources: transformers, Gemma2RMSNorm, LlamaRMSNorm.
#pragma once

#include "args.h"
#include "checksum.h"
#include "machine.h"

// Shared memory: a float for each warp, for sums. The row itself is in registers: a thread holds every so many packs.
template <class T>
struct NormRow {
    static constexpr int SIZE = Pack<T>::SIZE;
    static constexpr int TURNS = 48 / SIZE;  // packs of a thread at most: WIDEST_ROW of src/device/kernels.rs

    const NormArgs& args;
    int64_t row;
    int hidden;
    float* scratch;
    float values[TURNS][SIZE];

    DEVICE NormRow(const NormArgs& args, char* shared)
        : args(args), row(block_x()), hidden(static_cast<int>(args.hidden)), scratch(reinterpret_cast<float*>(shared)) {}

    // Where a thread's packs begin; there may be fewer than turns.
    DEVICE int place(int turn) const { return (turn * threads() + thread()) * SIZE; }

    // x: the sum of the parts, in rank order. Returns the sum of its squares on this thread.
    DEVICE float add_parts() {
        const T* x = static_cast<const T*>(args.x) + row * hidden;
        float squares = 0;
        UNROLL
        for (int turn = 0; turn < TURNS; turn++) {
            if (place(turn) >= hidden) break;
            const Pack<T> first = load_pack(x + place(turn));
            UNROLL
            for (int k = 0; k < SIZE; k++) values[turn][k] = to_float(first.values[k]);
            for (int64_t part = 1; part < args.parts; part++) {
                const Pack<T> pack = load_pack(x + part * args.part_stride + place(turn));
                UNROLL
                for (int k = 0; k < SIZE; k++) values[turn][k] += to_float(pack.values[k]);
            }
            UNROLL
            for (int k = 0; k < SIZE; k++) squares += values[turn][k] * values[turn][k];
        }
        return squares;
    }

    DEVICE float scale_of(float squares) {
        const float mean = block_sum(squares, scratch) / static_cast<float>(hidden);
        return 1.0f / sqrtf(mean + static_cast<float>(args.eps));
    }

    // h: the branch added to the residual, as it is stored. Returns the sum of its squares on this thread.
    DEVICE float add_residual(float branch_scale) {
        const T* residual = static_cast<const T*>(args.residual) + row * hidden;
        T* residual_out = static_cast<T*>(args.residual_out) + row * hidden;
        float squares = 0;
        UNROLL
        for (int turn = 0; turn < TURNS; turn++) {
            const int i = place(turn);
            if (i >= hidden) break;
            float(&h)[SIZE] = values[turn];
            if (args.branch_weight) {
                const Floats<SIZE> weight = load_floats<SIZE>(args.branch_weight + i);
                UNROLL
                for (int k = 0; k < SIZE; k++) h[k] = h[k] * branch_scale * weight.values[k];
            }
            if (args.residual) {
                const Pack<T> pack = load_pack(residual + i);
                UNROLL
                for (int k = 0; k < SIZE; k++) h[k] += to_float(pack.values[k]);
            }
            Pack<T> pack;
            UNROLL
            for (int k = 0; k < SIZE; k++) {
                pack.values[k] = from_float<T>(h[k]);
                h[k] = to_float(pack.values[k]);
                squares += h[k] * h[k];
            }
            if (args.residual_out) store_pack(residual_out + i, pack);
        }
        return squares;
    }

    // Up to the factor that norms h.
    DEVICE float prepare() {
        const float squares = add_parts();
        const float branch_scale = args.branch_weight ? scale_of(squares) : 1.0f;
        const float h_squares = add_residual(branch_scale);
        return args.weight ? scale_of(h_squares) : 1.0f;
    }

    // Gives the packs of the normed row to `use`, each with its place in the row.
    template <class Use>
    DEVICE void normed(float scale, Use use) const {
        UNROLL
        for (int turn = 0; turn < TURNS; turn++) {
            const int i = place(turn);
            if (i >= hidden) break;
            const Floats<SIZE> weight = load_floats<SIZE>(args.weight + i);
            Pack<T> pack;
            UNROLL
            for (int k = 0; k < SIZE; k++) pack.values[k] = from_float<T>(values[turn][k] * scale * weight.values[k]);
            use(i, pack);
        }
    }
};

template <class T>
DEVICE void norm(const NormArgs& args, char* shared) {
    NormRow<T> row(args, shared);
    const float scale = row.prepare();
    if (!args.weight) return;
    T* out = static_cast<T*>(args.out) + row.row * row.hidden;
    row.normed(scale, [&](int i, const Pack<T>& pack) { store_pack(out + i, pack); });
}

// The last norm, a rank's part of each output in f32, and the checksum of the whole row, for pooled rows.
template <class T>
DEVICE void head(const HeadArgs& args, char* shared) {
    NormRow<T> row(args.norm, shared);
    const float scale = row.prepare();
    unsigned long long checksum = 0;
    for (int64_t output = 0; output < args.outputs; output++) {
        const float* weight = args.weight + output * args.columns;
        float logit = 0;
        row.normed(scale, [&](int i, const Pack<T>& pack) {
            for (int k = 0; k < Pack<T>::SIZE; k++) {
                const float x = to_float(pack.values[k]);
                const int64_t column = i + k - args.first;
                if (0 <= column && column < args.columns) logit += x * weight[column];
                if (output == 0) checksum += mixed(static_cast<uint64_t>(i + k), x);
            }
        });
        logit = block_sum(logit, row.scratch);
        if (thread() == 0) args.logits[row.row * args.outputs + output] = logit;
    }
    sync();  // the sums have been read
    checksum = block_checksum(checksum, reinterpret_cast<unsigned long long*>(shared));
    if (thread() == 0) args.checksums[row.row] = checksum;
}
