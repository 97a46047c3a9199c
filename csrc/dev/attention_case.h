#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml.h"
#include "random.h"

namespace donabe::dev {

enum MaskKind : int32_t {
    MASK_NONE,
    MASK_CAUSAL,
    MASK_RUNS,
    MASK_INTERLEAVED,
    MASK_DEAD_ROWS,
    MASK_ALL_DEAD,
    MASK_KINDS
};

// One call of ggml_flash_attn_ext: shapes, types and options.
struct AttentionCase {
    int64_t dk = 64, dv = 64;
    int64_t n_heads_kv = 1, n_groups = 1; // query heads = n_heads_kv * n_groups
    int64_t n_queries = 1, n_cells = 1, n_streams = 1;
    ggml_type type_k = GGML_TYPE_F16, type_v = GGML_TYPE_F16;
    MaskKind mask = MASK_NONE;
    bool mask_per_head = false;
    bool sinks = false;
    bool cells_first = true; // a cell's heads lie side by side, as in a KV cache; else each head is contiguous
    bool v_inside_k = false; // V is the head of each K row (MLA)
    bool nan_in_dead = false;
    float sharpness = 1.0f, max_bias = 0.0f, softcap = 0.0f;
    int n_threads = 1;

    int64_t n_heads() const { return n_heads_kv * n_groups; }
    float scale() const;
    std::string describe() const; // one JSON object without braces
};

AttentionCase random_case(Random & random, ggml_type type_k, ggml_type type_v);

// What the operator reads, and the tensors that describe it (memory owned by the context).
struct AttentionData {
    std::vector<float> q, sinks;
    std::vector<float> k, v;       // what the stored rows decode to: [stream][head][cell][d]
    std::vector<ggml_fp16_t> mask; // [stream][head or 1][query][cell]
    ggml_tensor *t_q = nullptr, *t_out = nullptr;
};

AttentionData build_attention(ggml_context * ctx, const AttentionCase & c, Random & random);

// The same attention in double precision: [stream][query][head][d], as the operator writes it.
std::vector<double> reference_attention(const AttentionCase & c, const AttentionData & data);

} // namespace donabe::dev
