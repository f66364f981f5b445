// Attention over the prefix tree: a tile of query rows of one segment sees the keys of its ancestors and its own, read
// in place, causal, with soft-cap and window by absolute position. Keys are taken in blocks that begin at absolute
// multiples of BLOCK_KEYS, from the tile's last position down: what a row computes depends on its own path alone.
// A bias of the values is added to the result: weights sum to one, and so nobody has to go over the values before.
// Block x is the tile, block y the query head.
#pragma once

#include "args.h"
#include "machine.h"

constexpr int TILE_ROWS = 64;

// Finds the row of the key matrix that holds a position, for positions that only fall.
struct KeyCursor {
    const Segment* segments;
    Segment segment;

    DEVICE KeyCursor(const Segment* segments, uint32_t number) : segments(segments), segment(segments[number]) {}

    DEVICE int64_t row(int position) {
        while (position < static_cast<int>(segment.position)) segment = segments[segment.parent];
        return static_cast<int64_t>(segment.row) + position - segment.position;
    }
};

// A window of 0 keys means all: more than there are positions.
DEVICE int window_of(const AttentionArgs& args) { return args.window ? static_cast<int>(args.window) : 1 << 30; }

DEVICE bool visible(int query, int key, int window) { return key <= query && key > query - window; }

// Which keys a tile sees.
struct KeyRange {
    int last;         // position of the tile's last row, the highest key
    int first_block;  // blocks that hold a visible key for some row
    int last_block;

    DEVICE KeyRange(const Tile& tile, int window, int block_keys) {
        last = static_cast<int>(tile.position + tile.rows) - 1;
        const int lowest = static_cast<int>(tile.position) - window + 1;
        first_block = lowest > 0 ? lowest / block_keys : 0;
        last_block = last / block_keys;
    }
};

// === on tensor cores, for bf16 and f16 ===

// FlashAttention-2 (Dao 2023) on mma.m16n8k16: four warps of 16 query rows each; keys and values pass through shared
// memory, whose 16-byte chunks are swapped within a row so that eight rows of a matrix lie in different banks.
template <class T, int HEAD_DIM>
struct AttentionTile {
    static constexpr int BLOCK_KEYS = HEAD_DIM > 128 ? 32 : 64;  // the wide one would not fit the registers
    static constexpr int CHUNKS = HEAD_DIM / 8;  // of 16 bytes, in a row
    static constexpr int THREADS = 128;
    
    const AttentionArgs& args;
    Tile tile;
    int window;
    KeyRange keys;
    int64_t head;
    T *q, *k, *v;       // shared: [TILE_ROWS, HEAD_DIM], then twice [BLOCK_KEYS, HEAD_DIM]
    int64_t* key_rows;  // shared: [2][BLOCK_KEYS], -1 where there is no key

    float scores[BLOCK_KEYS / 8][4];  // (16 rows, 8 keys) each
    float out[HEAD_DIM / 8][4];       // (16 rows, 8 columns) each
    float highest[2], sum[2];         // of rows lane / 4 and lane / 4 + 8

    DEVICE AttentionTile(const AttentionArgs& args, char* shared)
        : args(args),
          tile(args.tiles[block_x()]),
          window(window_of(args)),
          keys(tile, window, BLOCK_KEYS),
          head(block_y()),
          q(reinterpret_cast<T*>(shared)),
          k(q + TILE_ROWS * HEAD_DIM),
          v(k + BLOCK_KEYS * HEAD_DIM),
          key_rows(reinterpret_cast<int64_t*>(v + BLOCK_KEYS * HEAD_DIM)) {}

    static DEVICE int place(int row, int chunk) { return row * HEAD_DIM + ((chunk ^ (row & 7)) & (CHUNKS - 1)) * 8; }

    DEVICE void load_queries() {
        const T* from = static_cast<const T*>(args.queries) + tile.row * args.query_stride + head * HEAD_DIM;
        for (int i = thread(); i < TILE_ROWS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            const bool valid = row < static_cast<int>(tile.rows);
            copy_async(q + place(row, chunk), from + (valid ? row : 0) * args.query_stride + chunk * 8, valid);
        }
    }

    DEVICE void load_keys(T* to, const void* matrix, int block) {
        const T* from = static_cast<const T*>(matrix) + head / args.group * HEAD_DIM;
        const int64_t* rows = key_rows + block % 2 * BLOCK_KEYS;
        for (int i = thread(); i < BLOCK_KEYS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            const int64_t key = rows[row];
            copy_async(to + place(row, chunk), from + (key < 0 ? 0 : key) * args.key_stride + chunk * 8, key >= 0);
        }
    }

    DEVICE void find_rows(KeyCursor& cursor, int block) {
        if (thread() >= BLOCK_KEYS) return;
        const int position = block * BLOCK_KEYS + thread();
        key_rows[block % 2 * BLOCK_KEYS + thread()] = position <= keys.last ? cursor.row(position) : -1;
    }

    DEVICE void multiply_queries() {
        for (auto& fragment : scores)
            for (float& score : fragment) score = 0;
        UNROLL_BY_4
        for (int depth = 0; depth < HEAD_DIM / 16; depth++) {
            uint32_t a[4];
            load_matrices(a, q + place(warp() * 16 + lane() % 16, depth * 2 + lane() / 16));
        UNROLL
            for (int pair = 0; pair < BLOCK_KEYS / 16; pair++) {
                uint32_t b[4];
                load_matrices(b, k + place(pair * 16 + lane() / 16 * 8 + lane() % 8, depth * 2 + lane() / 8 % 2));
                mma<T>(scores[pair * 2], a, b[0], b[1]);
                mma<T>(scores[pair * 2 + 1], a, b[2], b[3]);
            }
        }
    }

    // Scale, soft-cap and mask, as exponents of two.
    DEVICE void finish_scores(int block) {
        const float scale = static_cast<float>(args.scale), cap = static_cast<float>(args.soft_cap);
        const int query = static_cast<int>(tile.position) + warp() * 16 + lane() / 4;
        UNROLL
        for (int n = 0; n < BLOCK_KEYS / 8; n++) {
        UNROLL
            for (int i = 0; i < 4; i++) {
                float s = scores[n][i] * scale;
                // cap tanh(s / cap), by tanh(y) = 1 - 2 / (1 + e^2y)
                if (cap > 0) s = cap - 2 * cap * reciprocal_quick(1 + exp2_quick(s * (2 * LOG2_E / cap)));
                const int key = block * BLOCK_KEYS + n * 8 + lane() % 4 * 2 + i % 2;
                scores[n][i] = visible(query + i / 2 * 8, key, window) ? s * LOG2_E : -INFINITY;
            }
        }
    }

    // The online softmax: scores become probabilities to the highest score so far, sums and output are rescaled.
    DEVICE void softmax() {
        UNROLL
        for (int half = 0; half < 2; half++) {
            float high = highest[half];
            for (auto& fragment : scores) high = fmaxf(high, fmaxf(fragment[half * 2], fragment[half * 2 + 1]));
            high = fmaxf(high, shuffle_xor(high, 1));
            high = fmaxf(high, shuffle_xor(high, 2));
            const float zero = high == -INFINITY ? 0.0f : high;  // nothing visible yet
            const float rescale = exp2_quick(highest[half] - zero);
            highest[half] = high;
            sum[half] *= rescale;
            for (auto& fragment : out) {
                fragment[half * 2] *= rescale;
                fragment[half * 2 + 1] *= rescale;
            }
            for (auto& fragment : scores) {
                for (int i = half * 2; i < half * 2 + 2; i++) {
                    fragment[i] = exp2_quick(fragment[i] - zero);
                    sum[half] += fragment[i];
                }
            }
        }
    }

    DEVICE void multiply_values() {
        UNROLL
        for (int depth = 0; depth < BLOCK_KEYS / 16; depth++) {
            const auto &first = scores[depth * 2], &second = scores[depth * 2 + 1];
            const uint32_t a[4] = {pack_two<T>(first[0], first[1]), pack_two<T>(first[2], first[3]),
                                   pack_two<T>(second[0], second[1]), pack_two<T>(second[2], second[3])};
        UNROLL
            for (int pair = 0; pair < HEAD_DIM / 16; pair++) {
                uint32_t b[4];
                load_matrices_transposed(b, v + place(depth * 16 + lane() % 16, pair * 2 + lane() / 16));
                mma<T>(out[pair * 2], a, b[0], b[1]);
                mma<T>(out[pair * 2 + 1], a, b[2], b[3]);
            }
        }
    }

    DEVICE void store() {
        UNROLL
        for (int half = 0; half < 2; half++) {
            float total = sum[half];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            const int row = warp() * 16 + lane() / 4 + half * 8;
            if (row >= static_cast<int>(tile.rows)) continue;
            const float factor = 1.0f / total;
            const float* bias = args.value_bias ? args.value_bias + head / args.group * HEAD_DIM + lane() % 4 * 2 : nullptr;
            T* to = static_cast<T*>(args.out) + (tile.row + row) * args.out_stride + head * HEAD_DIM + lane() % 4 * 2;
        UNROLL
            for (int n = 0; n < HEAD_DIM / 8; n++) {
                float first = out[n][half * 2] * factor, second = out[n][half * 2 + 1] * factor;
                if (bias) {
                    first += bias[n * 8];
                    second += bias[n * 8 + 1];
                }
                *reinterpret_cast<uint32_t*>(to + n * 8) = pack_two<T>(first, second);
            }
        }
    }

    DEVICE void run() {
        const bool busy = warp() * 16 < static_cast<int>(tile.rows);
        for (int half = 0; half < 2; half++) {
            highest[half] = -INFINITY;
            sum[half] = 0;
        }
        for (auto& fragment : out)
            for (float& x : fragment) x = 0;
        KeyCursor cursor(args.segments, tile.segment);
        find_rows(cursor, keys.last_block);
        sync();
        load_queries();
        load_keys(k, args.keys, keys.last_block);
        copy_async_commit();
        for (int block = keys.last_block; block >= keys.first_block; block--) {
            load_keys(v, args.values, block);
            copy_async_commit();
            copy_async_wait<1>();  // queries and keys are there
            sync();
            if (busy) multiply_queries();
            if (block > keys.first_block) find_rows(cursor, block - 1);
            sync();  // the keys have been used
            if (block > keys.first_block) load_keys(k, args.keys, block - 1);
            copy_async_commit();
            if (busy) {
                finish_scores(block);
                softmax();
            }
            copy_async_wait<1>();  // the values are there
            sync();
            if (busy) multiply_values();
            sync();  // the values have been used
        }
        if (busy) store();
    }
};

template <class T, int HEAD_DIM>
DEVICE void attention(const AttentionArgs& args, char* shared) {
    AttentionTile<T, HEAD_DIM>(args, shared).run();
}

// === plain, for f32 and for every head_dim up to 512 ===

// A warp for each query row; a lane for each key of a block, then for each column of the output.
template <class T>
DEVICE void attention_plain(const AttentionArgs& args, char* shared) {
    constexpr int BLOCK_KEYS = WARP;
    constexpr int MOST = 16;  // columns of the output for each lane
    const Tile tile = args.tiles[block_x()];
    const int window = window_of(args);
    const int64_t head = block_y(), head_dim = args.head_dim, kv_column = head / args.group * head_dim;
    float* weights = reinterpret_cast<float*>(shared) + warp() * BLOCK_KEYS;
    int64_t* rows = reinterpret_cast<int64_t*>(shared + threads() * sizeof(float)) + warp() * BLOCK_KEYS;
    for (int row = warp(); row < static_cast<int>(tile.rows); row += threads() / WARP) {
        const T* query = static_cast<const T*>(args.queries) + (tile.row + row) * args.query_stride + head * head_dim;
        const int position = static_cast<int>(tile.position) + row;
        const KeyRange keys({0, 1, static_cast<uint32_t>(position), 0}, window, BLOCK_KEYS);
        KeyCursor cursor(args.segments, tile.segment);
        float highest = -INFINITY, sum = 0, out[MOST] = {};
        for (int block = keys.last_block; block >= keys.first_block; block--) {
            const int key = block * BLOCK_KEYS + lane();
            float score = -INFINITY;
            int64_t key_row = 0;
            if (key <= position) key_row = cursor.row(key);
            if (visible(position, key, window)) {
                const T* from = static_cast<const T*>(args.keys) + key_row * args.key_stride + kv_column;
                float product = 0;
                for (int64_t i = 0; i < head_dim; i++) product += to_float(query[i]) * to_float(from[i]);
                score = product * static_cast<float>(args.scale);
                if (args.soft_cap > 0) score = static_cast<float>(args.soft_cap) * tanhf(score / static_cast<float>(args.soft_cap));
            }
            const float high = fmaxf(highest, warp_max(score));
            const float zero = high == -INFINITY ? 0.0f : high;
            const float rescale = expf(highest - zero), weight = expf(score - zero);
            highest = high;
            sum = sum * rescale + warp_sum(weight);
            weights[lane()] = weight;
            rows[lane()] = key_row;
            sync_warp();
            for (int j = 0; j < MOST; j++) {
                const int64_t column = j * WARP + lane();
                if (column >= head_dim) break;
                const T* from = static_cast<const T*>(args.values) + kv_column + column;
                float x = out[j] * rescale;
                for (int i = 0; i < BLOCK_KEYS; i++) {
                    if (weights[i] != 0) x += weights[i] * to_float(from[rows[i] * args.key_stride]);
                }
                out[j] = x;
            }
            sync_warp();  // the weights have been used
        }
        T* to = static_cast<T*>(args.out) + (tile.row + row) * args.out_stride + head * head_dim;
        for (int j = 0; j < MOST; j++) {
            const int64_t column = j * WARP + lane();
            if (column >= head_dim) break;
            const float x = out[j] / sum;
            to[column] = from_float<T>(args.value_bias ? x + args.value_bias[kv_column + column] : x);
        }
    }
}
