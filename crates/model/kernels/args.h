// What each kernel is told. Every field is 8 bytes wide, so that the Rust side (src/device/kernels.rs) is a list of
// words in the same order. Pointers are to the memory of the device; matrices are row-major, strides count numbers.
#pragma once

#include <stdint.h>

// A run of query rows of one segment. src/device/plan.rs
struct Tile {
    uint32_t row;       // of the query matrix, the first one
    uint32_t rows;      // at most TILE_ROWS
    uint32_t position;  // of the first row in its conversation
    uint32_t segment;
};

// A segment of the prefix tree. src/device/plan.rs
struct Segment {
    uint32_t row;       // of the key and value matrices, the first one
    uint32_t position;  // of its first token
    uint32_t parent;    // itself where there is none
    uint32_t unused;
};

struct EmbedArgs {
    const uint32_t* tokens;  // [rows]
    const void* weight;      // [vocab, hidden]
    void* out;               // [rows, hidden]
    int64_t hidden;
    double scale;
    uint64_t* checksums;  // [rows], or null: of each token's id and row
};

// x = the sum of `parts` in order; b = branch_weight ? norm(x) * branch_weight : x; h = residual ? residual + b : b.
// h goes to `residual_out`, norm(h) * weight to `out`, each if wanted.
struct NormArgs {
    const void* x;  // [parts][rows, hidden]
    int64_t parts;
    int64_t part_stride;
    const void* residual;       // [rows, hidden], or null
    void* residual_out;         // [rows, hidden], or null; may be `residual`
    const float* branch_weight;  // [hidden], or null
    const float* weight;         // [hidden], or null
    void* out;                   // [rows, hidden], with `weight`
    int64_t hidden;
    double eps;
};

struct RopeTableArgs {
    const uint32_t* positions;         // [rows]
    const float* inverse_frequencies;  // [pairs]
    float* table;                      // [rows, pairs, 2]: cosine, sine
    int64_t pairs;
};

// Rotates heads in place; before that adds a bias if there is one, and normalises them if there are weights.
struct RopeArgs {
    void* x;  // [rows, heads x head_dim]
    int64_t stride;
    const float* table;  // [rows, head_dim / 2, 2]
    int64_t heads;
    int64_t head_dim;
    const float* bias;    // [heads x head_dim], or null
    const float* weight;  // [head_dim], or null
    double eps;
};

struct GatedArgs {
    const void* gate_up;  // [rows, 2 x width]: gate, then up
    void* out;            // [rows, width]
    int64_t width;
    int64_t gelu;  // gelu with tanh, or silu
};

struct AttentionArgs {
    const void* queries;  // [rows, heads x head_dim]
    int64_t query_stride;
    const void* keys;  // [rows, kv_heads x head_dim]
    const void* values;
    const float* value_bias;  // [kv_heads x head_dim], or null
    int64_t key_stride;
    void* out;  // [rows, heads x head_dim]
    int64_t out_stride;
    const Tile* tiles;
    const Segment* segments;
    int64_t head_dim;
    int64_t group;  // query heads for each key head
    double scale;
    double soft_cap;  // 0: none
    int64_t window;   // keys that a query sees, itself included; 0: all
};

// What NormArgs computes, for pooled rows; then the part of the score head for columns first .. first + columns.
struct HeadArgs {
    NormArgs norm;
    const float* weight;  // [outputs, columns]
    int64_t first;
    int64_t columns;
    int64_t outputs;
    float* logits;        // [rows, outputs]
    uint64_t* checksums;  // [rows]
};

// out[i] = x[rows[i]]. With first <= rows[i] < end only: other rows of `out` become zeros.
struct GatherArgs {
    const void* x;
    const uint32_t* rows;
    void* out;  // [count, width]
    int64_t width;
    int64_t stride;  // of x
    int64_t first;
    int64_t end;
};

// Numbers of a counter-based hash: out[i] = (uniform(seed, i) - 1/2) * scale + offset.
struct FillArgs {
    void* out;
    int64_t count;
    uint64_t seed;
    double scale;
    double offset;
};
