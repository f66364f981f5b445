// RMSNorm with everything that lies between two matmuls: the ranks' parts, the branch's own norm, the residual.
// A block for each row; f32 inside. Sources: transformers, Gemma2RMSNorm, LlamaRMSNorm.
#pragma once

#include "args.h"
#include "checksum.h"
#include "machine.h"

constexpr int NORM_SCRATCH = 32;  // floats: one for each warp

// Shared memory: [hidden] floats for the row, then the scratch of sums.
template <class T>
struct NormRow {
    const NormArgs& args;
    int64_t row, hidden;
    float* values;
    float* scratch;

    DEVICE NormRow(const NormArgs& args, char* shared)
        : args(args),
          row(block_x()),
          hidden(args.hidden),
          values(reinterpret_cast<float*>(shared)),
          scratch(reinterpret_cast<float*>(shared) + args.hidden) {}

    DEVICE int64_t first() const { return thread() * Pack<T>::SIZE; }
    DEVICE int64_t step() const { return threads() * Pack<T>::SIZE; }

    // x: the sum of the parts, in rank order. Returns the sum of its squares on this thread.
    DEVICE float add_parts() {
        float squares = 0;
        for (int64_t i = first(); i < hidden; i += step()) {
            float x[Pack<T>::SIZE] = {};
            for (int64_t part = 0; part < args.parts; part++) {
                const Pack<T> pack = load_pack(static_cast<const T*>(args.x) + part * args.part_stride + row * hidden + i);
                for (int k = 0; k < Pack<T>::SIZE; k++) x[k] = part == 0 ? to_float(pack.values[k]) : x[k] + to_float(pack.values[k]);
            }
            for (int k = 0; k < Pack<T>::SIZE; k++) {
                values[i + k] = x[k];
                squares += x[k] * x[k];
            }
        }
        return squares;
    }

    DEVICE float scale_of(float squares) {
        const float mean = block_sum(squares, scratch) / static_cast<float>(hidden);
        return 1.0f / sqrtf(mean + static_cast<float>(args.eps));
    }

    // h: the branch added to the residual, as it is stored. Returns the sum of its squares on this thread.
    DEVICE float add_residual(float branch_scale) {
        float squares = 0;
        for (int64_t i = first(); i < hidden; i += step()) {
            Pack<T> pack;
            if (args.residual) pack = load_pack(static_cast<const T*>(args.residual) + row * hidden + i);
            for (int k = 0; k < Pack<T>::SIZE; k++) {
                float h = values[i + k];
                if (args.branch_weight) h = h * branch_scale * args.branch_weight[i + k];
                if (args.residual) h += to_float(pack.values[k]);
                pack.values[k] = from_float<T>(h);
                h = to_float(pack.values[k]);
                values[i + k] = h;
                squares += h * h;
            }
            if (args.residual_out) store_pack(static_cast<T*>(args.residual_out) + row * hidden + i, pack);
        }
        return squares;
    }

    // The normed row's numbers i .. i + Pack<T>::SIZE.
    DEVICE Pack<T> normed(int64_t i, float scale) const {
        Pack<T> pack;
        for (int k = 0; k < Pack<T>::SIZE; k++) pack.values[k] = from_float<T>(values[i + k] * scale * args.weight[i + k]);
        return pack;
    }

    // Up to the factor that norms h.
    DEVICE float prepare() {
        const float squares = add_parts();
        const float branch_scale = args.branch_weight ? scale_of(squares) : 1.0f;
        const float h_squares = add_residual(branch_scale);
        return args.weight ? scale_of(h_squares) : 1.0f;
    }
};

template <class T>
DEVICE void norm(const NormArgs& args, char* shared) {
    NormRow<T> row(args, shared);
    const float scale = row.prepare();
    if (!args.weight) return;
    T* out = static_cast<T*>(args.out) + row.row * args.hidden;
    for (int64_t i = row.first(); i < args.hidden; i += row.step()) store_pack(out + i, row.normed(i, scale));
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
        for (int64_t i = row.first(); i < row.hidden; i += row.step()) {
            const Pack<T> pack = row.normed(i, scale);
            for (int k = 0; k < Pack<T>::SIZE; k++) {
                const float x = to_float(pack.values[k]);
                const int64_t column = i + k - args.first;
                if (0 <= column && column < args.columns) logit += x * weight[column];
                if (output == 0) checksum += mixed(static_cast<uint64_t>(i + k), x);
            }
        }
        logit = block_sum(logit, row.scratch);
        if (thread() == 0) args.logits[row.row * args.outputs + output] = logit;
    }
    sync();  // the row has been read
    checksum = block_checksum(checksum, reinterpret_cast<unsigned long long*>(row.values));
    if (thread() == 0) args.checksums[row.row] = checksum;
}
