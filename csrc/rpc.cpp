#include "rpc.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <set>
#include <system_error>

#include "ggml-backend.h"
#include "ggml-rpc.h"

#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"
#include "devices.h"

namespace donabe {
namespace {

namespace fs = std::filesystem;

using AddServer = ggml_backend_reg_t (*)(const char *);
using StartServer = void (*)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *);

std::mutex workers_mutex;

// A function of the backend library, which is linked in or loaded at run time.
template <typename F> F backend_function(const char * name) {
#if defined(DONABE_BACKEND_DL)
    ggml_backend_reg_t backend = ggml_backend_reg_by_name("RPC");
#else
    ggml_backend_reg_t backend = ggml_backend_rpc_reg();
#endif
    void * function = backend == nullptr ? nullptr : ggml_backend_reg_get_proc_address(backend, name);
    if (function == nullptr) {
        throw Error(ErrorCode::unsupported, "this build of donabe has no RPC backend", "reinstall donabe");
    }
    return reinterpret_cast<F>(function);
}

} // namespace

std::string rpc_protocol_version() {
    return std::to_string(RPC_PROTO_MAJOR_VERSION) + "." + std::to_string(RPC_PROTO_MINOR_VERSION) + "." +
           std::to_string(RPC_PROTO_PATCH_VERSION);
}

void rpc_add_worker(const std::string & endpoint) {
    process_require_not_forked();
    devices_require_init();
    static auto * added = new std::set<std::string>;
    const std::lock_guard<std::mutex> held(workers_mutex);
    if (added->count(endpoint) != 0) {
        return;
    }
    log_tail_reset();
    ggml_backend_reg_t worker = backend_function<AddServer>("ggml_backend_rpc_add_server")(endpoint.c_str());
    if (worker == nullptr || ggml_backend_reg_dev_count(worker) == 0) {
        throw Error(ErrorCode::load, "the RPC worker " + endpoint + " lends no devices");
    }
    // ggml connects anew for every question as long as nothing holds the connection. Never freed, as the devices.
    if (ggml_backend_dev_init(ggml_backend_reg_dev_get(worker, 0), nullptr) == nullptr) {
        throw Error(ErrorCode::load, "the RPC worker " + endpoint + " can't be used");
    }
    ggml_backend_register(worker);
    added->insert(endpoint);
}

void rpc_serve_connection(int connection, const std::vector<std::string> & devices, int n_threads,
                          const std::string & cache_dir) {
    process_require_not_forked();
    require_range("connection", int64_t{connection}, 0, int64_t{1} << 30);
    require_range("n_threads", int64_t{n_threads}, 1, 1024);
    if (devices.empty()) {
        throw Error(ErrorCode::invalid_argument, "devices is empty");
    }
    devices_require_init();
#if defined(_WIN32)
    throw Error(ErrorCode::unsupported, "devices can't be lent from Windows");
#else
    std::vector<ggml_backend_dev_t> lent;
    for (const std::string & name : devices) {
        lent.push_back(devices_find(name));
    }
    auto start = backend_function<StartServer>("ggml_backend_rpc_start_server");
    log_tail_reset();
    // What rpc_sockets.cpp gives the backend instead of a new connection.
    setenv("DONABE_RPC_CONNECTION", std::to_string(connection).c_str(), 1);
    try {
        start("127.0.0.1:0", cache_dir.empty() ? nullptr : cache_dir.c_str(), static_cast<size_t>(n_threads),
              lent.size(), lent.data());
    } catch (const std::system_error & end) {
        // The number, because a category of another library's may be another object.
        if (end.code().value() == static_cast<int>(std::errc::connection_aborted)) {
            return; // the peer left, and the backend asked for the next one
        }
        throw Error(ErrorCode::load, std::string("serving the connection failed: ") + end.what());
    }
    throw Error(ErrorCode::load, "the RPC backend could not start serving"); // it says why on stderr
#endif
}

bool rpc_cache_file_is_sound(const std::string & path) {
    std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
    if (!file) {
        throw Error(ErrorCode::load, "the cache file " + fs::path(path).filename().string() + " can't be read");
    }
    uint64_t hash = 0xcbf29ce484222325ULL; // FNV-1a, as the backend names its files
    std::vector<unsigned char> block(1 << 20);
    while (const size_t n = std::fread(block.data(), 1, block.size(), file.get())) {
        for (size_t i = 0; i < n; i++) {
            hash = (hash ^ block[i]) * 0x100000001b3ULL;
        }
    }
    char name[17];
    std::snprintf(name, sizeof(name), "%016" PRIx64, hash);
    return fs::path(path).filename().string() == name;
}

} // namespace donabe
