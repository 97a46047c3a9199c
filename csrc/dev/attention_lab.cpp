// donabe-attention-lab: ggml's flash attention on the CPU against double precision, and its time.
//
//   check SEED COUNT TYPE_K TYPE_V      random cases, one JSON object a line with the worst row's relative error
//   rows  SEED COUNT TYPE_K TYPE_V      random cases without a mask, one JSON object a line with the number of values
//   that
//                                       differ when a query is computed alone
//   time  TYPE_K TYPE_V DK HEADS_KV GROUPS QUERIES CELLS LAYERS THREADS ROUNDS [MASK]
//                                       milliseconds of a graph of LAYERS attentions: best, median, best CPU time;
//                                       CPU time counts waiting threads too, so compare it with one thread

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <stdexcept>

#include "attention_case.h"
#include "ggml-cpu.h"

using namespace donabe::dev;

namespace {

using Context = std::unique_ptr<ggml_context, decltype(&ggml_free)>;

Context make_context(size_t bytes) {
    return Context(ggml_init({bytes, nullptr, false}), ggml_free);
}

ggml_type parse_type(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * known = ggml_type_name(ggml_type(i));
        if (known != nullptr && name == known) {
            return ggml_type(i);
        }
    }
    throw std::invalid_argument("unknown type " + name);
}

size_t bytes_needed(const AttentionCase & c) {
    const size_t cells = size_t(c.n_heads_kv * c.n_cells * c.n_streams) * (c.dk + c.dv) * 4;
    const size_t rows = size_t(c.n_heads() * c.n_queries * c.n_streams) * (c.dk + c.dv) * 4;
    return cells + rows + size_t(c.n_cells * c.n_queries * c.n_streams) * c.n_heads() * 2 + (1 << 20);
}

class Runner {
  public:
    Runner(ggml_cgraph * graph_, int n_threads) : graph(graph_) {
        ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
        pool = ggml_threadpool_new(&params);
        plan = ggml_graph_plan(graph, n_threads, pool);
        work.resize(plan.work_size);
        plan.work_data = work.data();
    }
    ~Runner() { ggml_threadpool_free(pool); }
    Runner(const Runner &) = delete;
    Runner & operator=(const Runner &) = delete;

    void run() {
        if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) {
            throw std::runtime_error("the graph was not computed");
        }
    }

  private:
    ggml_cgraph * graph;
    ggml_threadpool * pool;
    ggml_cplan plan;
    std::vector<uint8_t> work;
};

double worst_row_error(const AttentionCase & c, const float * got, const std::vector<double> & expected) {
    double worst = 0.0;
    for (size_t row = 0; row < expected.size(); row += c.dv) {
        double difference = 0.0, magnitude = 0.0;
        for (size_t i = row; i < row + c.dv; i++) {
            const double one = std::fabs(got[i] - expected[i]);
            difference = std::isnan(one) ? INFINITY : std::max(difference, one);
            magnitude = std::max(magnitude, std::fabs(expected[i]));
        }
        worst = std::max(worst, difference > 0.0 ? difference / std::max(magnitude, 1e-30) : 0.0);
    }
    return worst;
}

// Whether this CPU, and the build, have what the path of patch 0003 needs.
bool has_grouped() {
    return (ggml_cpu_has_avx2() != 0 && ggml_cpu_has_f16c() != 0) ||
           (ggml_cpu_has_neon() != 0 && ggml_cpu_has_sve() == 0);
}

void check(uint64_t seed, int count, ggml_type type_k, ggml_type type_v) {
    for (int i = 0; i < count; i++) {
        Random random(seed * 1000003 + uint64_t(i));
        const AttentionCase c = random_case(random, type_k, type_v);
        const Context ctx = make_context(bytes_needed(c));
        const AttentionData data = build_attention(ctx.get(), c, random);
        ggml_cgraph * graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, data.t_out);
        Runner(graph, c.n_threads).run();
        const double error =
            worst_row_error(c, static_cast<const float *>(data.t_out->data), reference_attention(c, data));
        std::printf("{%s\"has_grouped\": %d, \"error\": %.3e}\n", c.describe().c_str(), has_grouped(),
                    std::isinf(error) ? 1e30 : error);
    }
}

// The same attention for one of its queries.
ggml_tensor * attention_of_query(ggml_context * ctx, const AttentionCase & c, const ggml_tensor * all, int64_t query) {
    ggml_tensor * q = all->src[0];
    ggml_tensor * one = ggml_view_4d(ctx, q, q->ne[0], 1, q->ne[2], q->ne[3], q->nb[1], q->nb[2], q->nb[3],
                                     static_cast<size_t>(query) * q->nb[1]);
    ggml_tensor * out =
        ggml_flash_attn_ext(ctx, one, all->src[1], all->src[2], nullptr, c.scale(), c.max_bias, c.softcap);
    ggml_flash_attn_ext_add_sinks(out, all->src[4]);
    return out;
}

// A word that is guessed and verified among others must not differ from the same word computed alone: to the bit.
void check_rows(uint64_t seed, int count, ggml_type type_k, ggml_type type_v) {
    for (int i = 0; i < count; i++) {
        Random random(seed * 1000003 + uint64_t(i));
        AttentionCase c = random_case(random, type_k, type_v);
        c.mask = MASK_NONE;
        c.mask_per_head = c.nan_in_dead = false;
        c.max_bias = 0.0f;
        c.n_queries = std::max<int64_t>(c.n_queries, 2);
        c.n_streams = 1;
        const Context ctx = make_context(2 * bytes_needed(c));
        const AttentionData data = build_attention(ctx.get(), c, random);
        ggml_cgraph * graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, data.t_out);
        const int64_t query = random.between(0, c.n_queries - 1);
        ggml_tensor * alone = attention_of_query(ctx.get(), c, data.t_out, query);
        ggml_build_forward_expand(graph, alone);
        Runner(graph, c.n_threads).run();
        const size_t n_values = size_t(c.dv * c.n_heads());
        const float * among = static_cast<const float *>(data.t_out->data) + size_t(query) * n_values;
        size_t n_different = 0;
        for (size_t value = 0; value < n_values; value++) {
            n_different +=
                std::memcmp(among + value, static_cast<const float *>(alone->data) + value, sizeof(float)) != 0;
        }
        std::printf("{%s\"has_grouped\": %d, \"different\": %zu}\n", c.describe().c_str(), has_grouped(), n_different);
    }
}

// Other memory passes through the caches between two rounds, as a model's weights do.
void evict_caches(std::vector<uint8_t> & other) {
    for (size_t i = 0; i < other.size(); i += 64) {
        other[i]++;
    }
}

void measure(const AttentionCase & c, int n_layers, int n_rounds) {
    const Context ctx = make_context(bytes_needed(c) * n_layers);
    ggml_cgraph * graph = ggml_new_graph(ctx.get());
    Random random(1);
    for (int layer = 0; layer < n_layers; layer++) {
        ggml_build_forward_expand(graph, build_attention(ctx.get(), c, random).t_out);
    }
    Runner runner(graph, c.n_threads);
    std::vector<uint8_t> other(96 << 20);
    std::vector<double> times, cpu_times;
    for (int round = 0; round < n_rounds; round++) {
        evict_caches(other);
        const std::clock_t cpu_start = std::clock();
        const auto start = std::chrono::steady_clock::now();
        runner.run();
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
        cpu_times.push_back(1e3 * double(std::clock() - cpu_start) / CLOCKS_PER_SEC);
    }
    std::sort(times.begin(), times.end());
    const double cpu = *std::min_element(cpu_times.begin(), cpu_times.end());
    std::printf("%.3f %.3f %.3f\n", times.front(), times[times.size() / 2], cpu);
}

int run(const std::vector<std::string> & args) {
    if (args.size() == 5 && args[0] == "check") {
        check(std::stoull(args[1]), std::stoi(args[2]), parse_type(args[3]), parse_type(args[4]));
        return 0;
    }
    if (args.size() == 5 && args[0] == "rows") {
        check_rows(std::stoull(args[1]), std::stoi(args[2]), parse_type(args[3]), parse_type(args[4]));
        return 0;
    }
    if ((args.size() == 11 || args.size() == 12) && args[0] == "time") {
        AttentionCase c;
        c.type_k = parse_type(args[1]);
        c.type_v = parse_type(args[2]);
        c.dk = c.dv = std::stoll(args[3]);
        c.n_heads_kv = std::stoll(args[4]);
        c.n_groups = std::stoll(args[5]);
        c.n_queries = std::stoll(args[6]);
        c.n_cells = std::stoll(args[7]);
        c.n_threads = std::stoi(args[9]);
        c.mask = args.size() == 12 ? MaskKind(std::stoi(args[11])) : MASK_CAUSAL;
        measure(c, std::stoi(args[8]), std::stoi(args[10]));
        return 0;
    }
    std::fprintf(stderr,
                 "usage: donabe-attention-lab check|rows SEED COUNT TYPE_K TYPE_V | time TYPE_K TYPE_V DK HEADS_KV "
                 "GROUPS QUERIES CELLS LAYERS THREADS ROUNDS [MASK]\n");
    return 2;
}

} // namespace

int main(int argc, char ** argv) {
    try {
        return run(std::vector<std::string>(argv + 1, argv + argc));
    } catch (const std::exception & error) {
        std::fprintf(stderr, "donabe-attention-lab: %s\n", error.what());
        return 1;
    }
}
