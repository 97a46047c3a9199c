// donabe-matmul-lab: ggml's products of repacked weights on the CPU against double precision, and their time.
//
//   check LAYOUT SEED COUNT TYPE             random shapes, one JSON object a line with the worst relative error,
//                                           and whether the first row has the bits that it has alone
//   time  LAYOUT TYPE K N LAYERS ROUNDS ROWS...  CPU milliseconds of LAYERS products by number of rows, one thread,
//   best round
//
// LAYOUT is CPU_REPACK or AMX: a buffer type in which the CPU lays weights out anew.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "random.h"

using donabe::dev::Random;

namespace {

using Context = std::unique_ptr<ggml_context, decltype(&ggml_free)>;
using Buffer = std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)>;
using Pool = std::unique_ptr<ggml_threadpool, decltype(&ggml_threadpool_free)>;

ggml_type parse_type(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * known = ggml_type_name(ggml_type(i));
        if (known != nullptr && name == known) {
            return ggml_type(i);
        }
    }
    throw std::invalid_argument("unknown type " + name);
}

// Where weights are laid out anew for the CPU's kernels, as a model's are; null where this CPU has no such layout.
ggml_backend_buffer_type_t layout_type(const std::string & name) {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    const auto extra_types = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
    for (ggml_backend_buffer_type_t * type = extra_types(device); type != nullptr && *type != nullptr; type++) {
        if (std::string(ggml_backend_buft_name(*type)) == name) {
            return *type;
        }
    }
    return nullptr;
}

struct Shape {
    int64_t k, n, n_rows; // weights [n][k], activations [n_rows][k]
    int n_threads;
};

// A graph of one product. The activations are whole numbers with -127 in every block of 32, so Q8_0 holds them exactly.
class Product {
  public:
    Product(const std::string & layout, ggml_type type, const Shape & shape_, Random & random)
        : shape(shape_), weight_ctx(ggml_init({ggml_tensor_overhead(), nullptr, true}), ggml_free),
          ctx(ggml_init({size_t((shape.k + shape.n) * shape.n_rows) * 4 + (1 << 20), nullptr, false}), ggml_free),
          buffer(nullptr, ggml_backend_buffer_free), pool(nullptr, ggml_threadpool_free) {
        ggml_tensor * w = ggml_new_tensor_2d(weight_ctx.get(), type, shape.k, shape.n);
        activations = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, shape.k, shape.n_rows);
        out = ggml_mul_mat(ctx.get(), w, activations);
        place(w, layout);
        fill_weights(w, random);
        float * a = static_cast<float *>(activations->data);
        for (int64_t i = 0; i < shape.k * shape.n_rows; i++) {
            a[i] = i % 32 == i / 32 % 32 ? -127.0f : float(random.between(-127, 127));
        }
        std::memset(out->data, 0xFF, ggml_nbytes(out)); // NaN where nothing is written
        graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, out);
        ggml_threadpool_params params = ggml_threadpool_params_default(shape.n_threads);
        pool.reset(ggml_threadpool_new(&params));
        plan = ggml_graph_plan(graph, shape.n_threads, pool.get());
        work.resize(plan.work_size);
        plan.work_data = work.data();
    }

    void run() {
        if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) {
            throw std::runtime_error("the graph was not computed");
        }
    }

    bool repacked() const { return is_repacked; }

    // Largest difference from double precision, relative to the sum of the terms' magnitudes.
    double worst_error() const {
        double worst = 0.0;
        for (int64_t row = 0; row < shape.n_rows; row++) {
            const float * a = static_cast<const float *>(activations->data) + row * shape.k;
            for (int64_t i = 0; i < shape.n; i++) {
                double sum = 0.0, magnitude = 0.0;
                for (int64_t k = 0; k < shape.k; k++) {
                    const double term = double(weights[i * shape.k + k]) * a[k];
                    sum += term;
                    magnitude += std::fabs(term);
                }
                const double error = std::fabs(static_cast<const float *>(out->data)[row * shape.n + i] - sum);
                worst = std::isnan(error) ? 1e30 : std::max(worst, error / std::max(magnitude, 1e-30));
            }
        }
        return worst;
    }

    // Whether the first row has the same bits as the other product's.
    bool starts_as(const Product & other) const {
        return std::memcmp(out->data, other.out->data, size_t(shape.n) * sizeof(float)) == 0;
    }

  private:
    void place(ggml_tensor * w, const std::string & layout) {
        ggml_backend_buffer_type_t type = layout_type(layout);
        ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        if (type != nullptr) {
            // as llama.cpp asks: an empty buffer of the type stands for the one to come
            Buffer empty(ggml_backend_buft_alloc_buffer(type, 0), ggml_backend_buffer_free);
            w->buffer = empty.get();
            is_repacked = ggml_backend_dev_supports_op(device, out);
            w->buffer = nullptr;
        }
        buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(weight_ctx.get(),
                                                              is_repacked ? type : ggml_backend_cpu_buffer_type()));
    }

    void fill_weights(ggml_tensor * w, Random & random) {
        weights.resize(shape.k * shape.n);
        for (float & value : weights) {
            value = random.normal();
        }
        std::vector<uint8_t> stored(ggml_nbytes(w));
        ggml_quantize_chunk(w->type, weights.data(), stored.data(), 0, shape.n, shape.k, nullptr);
        ggml_get_type_traits(w->type)->to_float(stored.data(), weights.data(), shape.k * shape.n);
        ggml_backend_tensor_set(w, stored.data(), 0, stored.size());
    }

    Shape shape;
    Context weight_ctx, ctx;
    Buffer buffer;
    Pool pool;
    bool is_repacked = false;
    std::vector<float> weights; // what the stored ones decode to
    ggml_tensor *activations = nullptr, *out = nullptr;
    ggml_cgraph * graph = nullptr;
    ggml_cplan plan{};
    std::vector<uint8_t> work;
};

void check(const std::string & layout, uint64_t seed, int count, ggml_type type) {
    const int grain = layout == "AMX" ? 32 : 8; // of the number of weight rows
    for (int i = 0; i < count; i++) {
        Random random(seed * 1000003 + uint64_t(i));
        // every remainder of rows and blocks along K; now and then a K of many passes
        const Shape shape{32 * (random.chance(0.2) ? random.between(60, 200) : random.between(1, 40)),
                          grain * random.between(1, 240 / grain), i < 40 ? i + 1 : random.between(1, 40),
                          int(random.between(1, 4))};
        Random same = random;
        Product product(layout, type, shape, random);
        product.run();
        Product alone(layout, type, Shape{shape.k, shape.n, 1, shape.n_threads}, same);
        alone.run();
        std::printf("{\"k\": %lld, \"n\": %lld, \"rows\": %lld, \"threads\": %d, \"repacked\": %d, \"error\": %.3e, "
                    "\"as_alone\": %d}\n",
                    static_cast<long long>(shape.k), static_cast<long long>(shape.n),
                    static_cast<long long>(shape.n_rows), shape.n_threads, int(product.repacked()),
                    product.worst_error(), int(product.starts_as(alone)));
    }
}

void measure(const std::string & layout, ggml_type type, int64_t k, int64_t n, int n_layers, int n_rounds,
             int64_t n_rows) {
    Random random(1);
    std::vector<std::unique_ptr<Product>> products;
    for (int i = 0; i < n_layers; i++) {
        products.push_back(std::make_unique<Product>(layout, type, Shape{k, n, n_rows, 1}, random));
    }
    double best = INFINITY;
    for (int round = 0; round < n_rounds; round++) {
        const std::clock_t start = std::clock();
        for (const auto & product : products) {
            product->run();
        }
        best = std::min(best, 1e3 * double(std::clock() - start) / CLOCKS_PER_SEC);
    }
    const double n_products = double(k) * double(n) * double(n_rows) * n_layers;
    std::printf("rows %lld: %.3f ms, %.1f G products/s\n", static_cast<long long>(n_rows), best,
                n_products / best * 1e-6);
}

int run(const std::vector<std::string> & args) {
    if (args.size() == 5 && args[0] == "check") {
        check(args[1], std::stoull(args[2]), std::stoi(args[3]), parse_type(args[4]));
        return 0;
    }
    if (args.size() >= 8 && args[0] == "time") {
        for (size_t i = 7; i < args.size(); i++) {
            measure(args[1], parse_type(args[2]), std::stoll(args[3]), std::stoll(args[4]), std::stoi(args[5]),
                    std::stoi(args[6]), std::stoll(args[i]));
        }
        return 0;
    }
    std::fprintf(stderr, "usage: donabe-matmul-lab check LAYOUT SEED COUNT TYPE | "
                         "time LAYOUT TYPE K N LAYERS ROUNDS ROWS...\n");
    return 2;
}

} // namespace

int main(int argc, char ** argv) {
    try {
        return run(std::vector<std::string>(argv + 1, argv + argc));
    } catch (const std::exception & error) {
        std::fprintf(stderr, "donabe-matmul-lab: %s\n", error.what());
        return 1;
    }
}
