// Every kernel by its name: what src/device/kernels.rs launches.
#pragma once

#include "attention.h"
#include "gated.h"
#include "norm.h"
#include "rope.h"
#include "rows.h"

// X(name, arguments, function) for each kernel of a type of numbers
#define KERNELS_OF(X, suffix, T)                              \
    X(embed_##suffix, EmbedArgs, embed<T>)                    \
    X(gather_##suffix, GatherArgs, gather<T>)                 \
    X(fill_##suffix, FillArgs, fill<T>)                       \
    X(norm_##suffix, NormArgs, norm<T>)                       \
    X(head_##suffix, HeadArgs, head<T>)                       \
    X(rope_##suffix, RopeArgs, rope<T>)                       \
    X(gated_##suffix, GatedArgs, gated<T>)                    \
    X(attention_plain_##suffix, AttentionArgs, attention_plain<T>)

#define TENSOR_CORE_KERNELS_OF(X, suffix, T)                                   \
    X(attention_64_##suffix, AttentionArgs, (attention<T, 64>))                \
    X(attention_128_##suffix, AttentionArgs, (attention<T, 128>))              \
    X(attention_256_##suffix, AttentionArgs, (attention<T, 256>))

#define KERNELS(X)                         \
    X(rope_table, RopeTableArgs, rope_table) \
    KERNELS_OF(X, f32, float)              \
    KERNELS_OF(X, bf16, bf16)              \
    KERNELS_OF(X, f16, f16)                \
    TENSOR_CORE_KERNELS_OF(X, bf16, bf16)  \
    TENSOR_CORE_KERNELS_OF(X, f16, f16)
