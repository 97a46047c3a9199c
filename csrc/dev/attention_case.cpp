#include "attention_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace donabe::dev {

namespace {

constexpr double WORK_MAX = 2e7; // multiplications of the reference, so that a case takes some 20 ms

struct HeadSize {
    int64_t dk, dv;
    bool v_inside_k;
};

// Those of real models, and odd ones for the tails of every loop.
const HeadSize HEAD_SIZES[] = {{64, 64, false},   {128, 128, false}, {256, 256, false}, {96, 96, false},
                               {192, 128, false}, {576, 512, true},  {576, 512, false}, {32, 32, false},
                               {40, 40, false},   {72, 72, false},   {80, 80, false},   {112, 112, false}};

size_t row_bytes(ggml_type type, int64_t n) {
    return ggml_row_size(type, n);
}

// Stores rows of random values; returns what they decode to.
std::vector<float> fill_rows(ggml_tensor * t, Random & random) {
    const int64_t d = t->ne[0], n_rows = ggml_nrows(t);
    std::vector<float> values(d * n_rows);
    for (float & value : values) {
        value = random.normal();
    }
    ggml_quantize_chunk(t->type, values.data(), t->data, 0, n_rows, d, nullptr);
    const auto to_float = ggml_get_type_traits(t->type)->to_float;
    for (int64_t i = 0; i < n_rows && t->type != GGML_TYPE_F32; i++) {
        to_float(static_cast<const char *>(t->data) + i * t->nb[1], values.data() + i * d, d);
    }
    return values;
}

// K or V as the operator sees it, [d, cells, heads, streams], over storage in either order.
ggml_tensor * view_heads(ggml_context * ctx, ggml_tensor * rows, const AttentionCase & c, int64_t d) {
    const size_t row = rows->nb[1];
    const size_t nb_cell = c.cells_first ? row * c.n_heads_kv : row;
    const size_t nb_head = c.cells_first ? row : row * c.n_cells;
    return ggml_view_4d(ctx, rows, d, c.n_cells, c.n_heads_kv, c.n_streams, nb_cell, nb_head,
                        row * c.n_heads_kv * c.n_cells, 0);
}

// From storage order to [stream][head][cell][d].
std::vector<float> by_head(const std::vector<float> & stored, const AttentionCase & c, int64_t d_stored, int64_t d) {
    std::vector<float> result;
    result.reserve(c.n_streams * c.n_heads_kv * c.n_cells * d);
    for (int64_t s = 0; s < c.n_streams; s++) {
        for (int64_t h = 0; h < c.n_heads_kv; h++) {
            for (int64_t i = 0; i < c.n_cells; i++) {
                const int64_t in_stream = c.cells_first ? i * c.n_heads_kv + h : h * c.n_cells + i;
                const float * row = stored.data() + (s * c.n_heads_kv * c.n_cells + in_stream) * d_stored;
                result.insert(result.end(), row, row + d);
            }
        }
    }
    return result;
}

bool visible(const AttentionCase & c, int64_t query, int64_t cell, uint64_t salt) {
    switch (c.mask) {
    case MASK_CAUSAL: // the queries are the last cells
        return cell <= c.n_cells - c.n_queries + query || cell == 0;
    case MASK_RUNS: { // runs of other sequences' cells, cut at odd places
        Random run(salt + static_cast<uint64_t>(query * 7919 + (cell + query) / 37));
        return run.chance(0.3);
    }
    case MASK_INTERLEAVED: // sequences that were decoded together
        return cell % 5 == static_cast<int64_t>((query + salt) % 5);
    case MASK_DEAD_ROWS:
        return query % 3 != static_cast<int64_t>(salt % 3) && cell % 2 == 0;
    case MASK_ALL_DEAD:
        return false;
    default:
        return true;
    }
}

void fill_mask(AttentionData & data, const AttentionCase & c, Random & random) {
    const int64_t n_heads = c.mask_per_head ? c.n_heads() : 1;
    data.mask.resize(c.n_streams * n_heads * c.n_queries * c.n_cells);
    size_t i = 0;
    for (int64_t sh = 0; sh < c.n_streams * n_heads; sh++) {
        const uint64_t salt = random.next() % 1000;
        for (int64_t query = 0; query < c.n_queries; query++) {
            for (int64_t cell = 0; cell < c.n_cells; cell++, i++) {
                const bool live = visible(c, query, cell, salt);
                const float distance = c.max_bias > 0.0f ? -std::fabs(static_cast<float>(cell - query)) : 0.0f;
                data.mask[i] = ggml_fp32_to_fp16(live ? distance : -INFINITY);
            }
        }
    }
}

// Cells that no row sees may hold anything: here NaN in every byte pattern of the type (all bits set).
void poison_dead_cells(const AttentionCase & c, const AttentionData & data, ggml_tensor * t) {
    const int64_t n_heads = c.mask_per_head ? c.n_heads() : 1;
    for (int64_t s = 0; s < c.n_streams; s++) {
        for (int64_t cell = 0; cell < c.n_cells; cell++) {
            bool live = false;
            for (int64_t row = 0; row < n_heads * c.n_queries; row++) {
                const int64_t i = (s * n_heads * c.n_queries + row) * c.n_cells + cell;
                live = live || !std::isinf(ggml_fp16_to_fp32(data.mask[i]));
            }
            for (int64_t h = 0; !live && h < c.n_heads_kv; h++) {
                char * row = static_cast<char *>(t->data) + s * t->nb[3] + h * t->nb[2] + cell * t->nb[1];
                std::memset(row, 0xFF, row_bytes(t->type, t->ne[0]));
            }
        }
    }
}

double alibi_slope(const AttentionCase & c, int64_t head) {
    if (c.max_bias <= 0.0f) {
        return 1.0;
    }
    const int64_t n_log2 = int64_t(1) << static_cast<int64_t>(std::floor(std::log2(c.n_heads())));
    const double m0 = std::pow(2.0, -double(c.max_bias) / n_log2), m1 = std::pow(2.0, -double(c.max_bias) / 2 / n_log2);
    return head < n_log2 ? std::pow(m0, head + 1) : std::pow(m1, 2 * (head - n_log2) + 1);
}

} // namespace

float AttentionCase::scale() const {
    return sharpness / std::sqrt(float(dk));
}

std::string AttentionCase::describe() const {
    const auto number = [](const char * name, double value) {
        std::string text = std::to_string(value);
        text.erase(text.find_last_not_of('0') + 1);
        return "\"" + std::string(name) + "\": " + text + (text.back() == '.' ? "0, " : ", ");
    };
    return "\"k\": \"" + std::string(ggml_type_name(type_k)) + "\", \"v\": \"" + ggml_type_name(type_v) + "\", " +
           number("dk", dk) + number("dv", dv) + number("heads_kv", n_heads_kv) + number("groups", n_groups) +
           number("queries", n_queries) + number("cells", n_cells) + number("streams", n_streams) +
           number("mask", mask) + number("mask_per_head", mask_per_head) + number("sinks", sinks) +
           number("cells_first", cells_first) + number("v_inside_k", v_inside_k) + number("nan_in_dead", nan_in_dead) +
           number("sharpness", sharpness) + number("max_bias", max_bias) + number("softcap", softcap) +
           number("threads", n_threads);
}

AttentionCase random_case(Random & random, ggml_type type_k, ggml_type type_v) {
    AttentionCase c;
    c.type_k = type_k;
    c.type_v = type_v;
    const int64_t block = std::max(ggml_blck_size(type_k), ggml_blck_size(type_v));
    do {
        const HeadSize & size = HEAD_SIZES[random.between(0, std::size(HEAD_SIZES) - 1)];
        c.dk = size.dk;
        c.dv = size.dv;
        c.v_inside_k = size.v_inside_k && type_k == type_v;
    } while (c.dk % block != 0 || c.dv % block != 0);
    c.n_queries = random.chance(0.4) ? 1 : random.between(1, 70);
    c.n_cells = random.chance(0.3) ? random.between(1, 70) : random.between(c.n_queries, 1300);
    c.n_groups = random.chance(0.1) ? random.between(1, 71) : random.between(1, 9);
    c.n_heads_kv = c.v_inside_k ? 1 : random.between(1, 9);
    c.n_streams = random.chance(0.15) ? 2 : 1;
    const auto work = [&c] { return double(c.dk + c.dv) * c.n_heads() * c.n_queries * c.n_cells * c.n_streams; };
    while (work() > WORK_MAX) { // shrink what is largest, one query and one head stay possible
        int64_t & largest = c.n_queries >= c.n_groups && c.n_queries > 1 ? c.n_queries
                            : c.n_groups > 1                             ? c.n_groups
                            : c.n_heads_kv > 1                           ? c.n_heads_kv
                                                                         : c.n_cells;
        largest = (largest + 1) / 2;
    }
    c.mask = MaskKind(random.between(0, MASK_KINDS - 1));
    if (c.mask == MASK_ALL_DEAD && random.chance(0.5)) {
        c.mask = MASK_CAUSAL;
    }
    c.mask_per_head = c.mask != MASK_NONE && random.chance(0.2);
    c.nan_in_dead = c.mask != MASK_NONE && !c.v_inside_k && random.chance(0.7);
    c.sinks = random.chance(0.25);
    c.cells_first = random.chance(0.7);
    c.sharpness = random.chance(0.5) ? 1.0f : 4.0f;
    c.max_bias = c.mask != MASK_NONE && random.chance(0.2) ? 8.0f : 0.0f;
    c.softcap = random.chance(0.2) ? 5.0f : 0.0f;
    c.n_threads = int(random.between(1, 4));
    return c;
}

AttentionData build_attention(ggml_context * ctx, const AttentionCase & c, Random & random) {
    AttentionData data;
    const int64_t n_rows = c.n_heads_kv * c.n_cells * c.n_streams;
    ggml_tensor * k_rows = ggml_new_tensor_2d(ctx, c.type_k, c.dk, n_rows);
    const std::vector<float> k_stored = fill_rows(k_rows, random);
    data.k = by_head(k_stored, c, c.dk, c.dk);
    ggml_tensor * v_rows = k_rows;
    if (c.v_inside_k) {
        data.v = by_head(k_stored, c, c.dk, c.dv);
    } else {
        v_rows = ggml_new_tensor_2d(ctx, c.type_v, c.dv, n_rows);
        data.v = by_head(fill_rows(v_rows, random), c, c.dv, c.dv);
    }
    ggml_tensor * k = view_heads(ctx, k_rows, c, c.dk);
    ggml_tensor * v = view_heads(ctx, v_rows, c, c.dv);

    data.q.resize(c.dk * c.n_heads() * c.n_queries * c.n_streams);
    for (float & value : data.q) {
        value = random.normal();
    }
    // as llama.cpp makes it: heads of a query side by side, then permuted
    ggml_tensor * q = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, c.dk, c.n_heads(), c.n_queries, c.n_streams);
    std::memcpy(q->data, data.q.data(), ggml_nbytes(q));
    data.t_q = ggml_permute(ctx, q, 0, 2, 1, 3);

    ggml_tensor * mask = nullptr;
    if (c.mask != MASK_NONE) {
        fill_mask(data, c, random);
        mask = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, c.n_cells, c.n_queries, c.mask_per_head ? c.n_heads() : 1,
                                  c.n_streams);
        std::memcpy(mask->data, data.mask.data(), ggml_nbytes(mask));
        if (c.nan_in_dead) {
            poison_dead_cells(c, data, k);
            poison_dead_cells(c, data, v);
        }
    }
    data.t_out = ggml_flash_attn_ext(ctx, data.t_q, k, v, mask, c.scale(), c.max_bias, c.softcap);
    if (c.sinks) {
        ggml_tensor * sinks = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, c.n_heads());
        for (int64_t h = 0; h < c.n_heads(); h++) {
            data.sinks.push_back(random.normal());
        }
        std::memcpy(sinks->data, data.sinks.data(), ggml_nbytes(sinks));
        ggml_flash_attn_ext_add_sinks(data.t_out, sinks);
    }
    return data;
}

std::vector<double> reference_attention(const AttentionCase & c, const AttentionData & data) {
    std::vector<double> result(c.dv * c.n_heads() * c.n_queries * c.n_streams, 0.0);
    std::vector<double> scores(c.n_cells);
    double * out = result.data();
    for (int64_t s = 0; s < c.n_streams; s++) {
        for (int64_t query = 0; query < c.n_queries; query++) {
            for (int64_t head = 0; head < c.n_heads(); head++, out += c.dv) {
                const float * q = data.q.data() + ((s * c.n_queries + query) * c.n_heads() + head) * c.dk;
                const int64_t first_cell = (s * c.n_heads_kv + head / c.n_groups) * c.n_cells;
                const int64_t n_masks = c.mask_per_head ? c.n_heads() : 1;
                const int64_t mask_row = ((s * n_masks + head % n_masks) * c.n_queries + query) * c.n_cells;
                double max = c.sinks ? data.sinks[head] : -std::numeric_limits<double>::infinity();
                for (int64_t i = 0; i < c.n_cells; i++) {
                    const double bias = data.mask.empty() ? 0.0 : ggml_fp16_to_fp32(data.mask[mask_row + i]);
                    const float * k = data.k.data() + (first_cell + i) * c.dk;
                    double dot = 0.0;
                    for (int64_t d = 0; d < c.dk && !std::isinf(bias); d++) {
                        dot += double(q[d]) * k[d];
                    }
                    dot *= c.scale();
                    dot = c.softcap > 0.0f ? c.softcap * std::tanh(dot / c.softcap) : dot;
                    scores[i] = dot + alibi_slope(c, head) * bias;
                    max = std::max(max, scores[i]);
                }
                double sum = c.sinks ? std::exp(data.sinks[head] - max) : 0.0;
                for (int64_t i = 0; i < c.n_cells; i++) {
                    if (std::isinf(scores[i])) {
                        continue;
                    }
                    const double weight = std::exp(scores[i] - max);
                    const float * v = data.v.data() + (first_cell + i) * c.dv;
                    sum += weight;
                    for (int64_t d = 0; d < c.dv; d++) {
                        out[d] += weight * v[d];
                    }
                }
                for (int64_t d = 0; d < c.dv && sum > 0.0; d++) {
                    out[d] /= sum;
                }
            }
        }
    }
    return result;
}

} // namespace donabe::dev
