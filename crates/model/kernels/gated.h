// The gated activation of the MLP: act(gate) * up, from one fused matmul. x sigmoid(kx) covers both activations:
// silu(x) = x sigmoid(x), and gelu with tanh, x (1 + tanh(y)) / 2 = x sigmoid(2y), y = sqrt(2/pi) (x + 0.044715 x^3).
#pragma once

#include "args.h"
#include "machine.h"

// 1 / (1 + e^-y): exactly for f32, as exactly as 16 bits can tell for others.
template <class T>
DEVICE float sigmoid(float y) {
    if (sizeof(T) == sizeof(float)) return 1.0f / (1.0f + expf(-y));
    return reciprocal_quick(1.0f + exp2_quick(-LOG2_E * y));
}

// Block x is the row; block y counts stretches of the row.
template <class T>
DEVICE void gated(const GatedArgs& args, char*) {
    const int64_t i = (static_cast<int64_t>(block_y()) * threads() + thread()) * Pack<T>::SIZE;
    if (i >= args.width) return;
    const T* row = static_cast<const T*>(args.gate_up) + block_x() * 2 * args.width;
    const Pack<T> gate = load_pack(row + i), up = load_pack(row + args.width + i);
    Pack<T> out;
    for (int k = 0; k < Pack<T>::SIZE; k++) {
        const float x = to_float(gate.values[k]);
        const float y = args.gelu ? 1.5957691216057308f * (x + 0.044715f * x * x * x) : x;
        out.values[k] = from_float<T>(x * sigmoid<T>(y) * to_float(up.values[k]));
    }
    store_pack(static_cast<T*>(args.out) + block_x() * args.width + i, out);
}
