#include "devices.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>

#include "ggml.h"
#include "llama.h"

#include "backend_files.h"
#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"

namespace donabe {
namespace {

namespace fs = std::filesystem;

std::mutex init_mutex;
bool is_initialised = false;
std::string & chosen_cpu_variant() {
    static auto * instance = new std::string;
    return *instance;
}
std::set<std::string> & loaded_plugins() {
    static auto * instance = new std::set<std::string>;
    return *instance;
}

char abort_report_path[4096]; // static, because an abort must not allocate

void on_abort(const char * message) {
    std::fprintf(stderr, "%s\n", message);
    if (abort_report_path[0] == '\0') {
        return;
    }
    if (FILE * file = std::fopen(abort_report_path, "w")) {
        std::fprintf(file, "%s\n", message);
        for (const std::string & line : log_tail_take()) {
            std::fprintf(file, "%s\n", line.c_str());
        }
        std::fclose(file);
    }
}

// DONABE_CPU_VARIANT names the CPU variant to use, to compare or to work around one: every process of donabe obeys it.
void load_own_backends(const std::string & backend_dir) {
    const fs::path dir = backend_dir.empty() ? backend_files_default_dir() : fs::path(backend_dir);
    const char * named = std::getenv("DONABE_CPU_VARIANT");
    const std::string variant = named == nullptr ? "" : named;
    std::error_code failed;
    if (backend_dir.empty() && !dir.empty() && !fs::is_directory(dir, failed)) {
        throw Error(ErrorCode::load, "the folder of the backend libraries is missing: " + dir.string(),
                    "reinstall donabe");
    }
    if (!dir.empty()) {
        chosen_cpu_variant() = backend_files_load(dir, variant);
    } else if (!variant.empty()) {
        throw Error(ErrorCode::unsupported, "DONABE_CPU_VARIANT is set, but this build of donabe has no CPU variants",
                    "unset it, or install donabe from a wheel");
    }
}

void load_plugin(const std::string & path) {
    std::error_code failed;
    if (!fs::path(path).is_absolute() || !fs::is_regular_file(path, failed)) {
        throw Error(ErrorCode::invalid_argument, "a plugin must be the absolute path of a file, not '" + path + "'");
    }
    if (loaded_plugins().count(path) != 0) {
        return;
    }
    if (ggml_backend_load(path.c_str()) == nullptr) {
        throw Error(ErrorCode::load, "the backend plugin '" + fs::path(path).filename().string() + "' can't be loaded",
                    "check that it has the version of this package and that its driver is installed");
    }
    loaded_plugins().insert(path);
}

const char * kind_name(ggml_backend_dev_t device) {
    switch (ggml_backend_dev_type(device)) {
    case GGML_BACKEND_DEVICE_TYPE_CPU:
        return "cpu";
    case GGML_BACKEND_DEVICE_TYPE_IGPU:
        return "igpu";
    case GGML_BACKEND_DEVICE_TYPE_ACCEL:
        return "accel";
    case GGML_BACKEND_DEVICE_TYPE_GPU:
    case GGML_BACKEND_DEVICE_TYPE_META:
        break;
    }
    return "gpu";
}

} // namespace

void devices_init(const std::string & backend_dir, const std::vector<std::string> & plugins) {
    process_require_not_forked();
    std::lock_guard<std::mutex> held(init_mutex);
    log_tail_reset();
    ggml_set_abort_callback(&on_abort);
    if (!is_initialised) {
        load_own_backends(backend_dir);
    }
    for (const std::string & plugin : plugins) {
        load_plugin(plugin);
    }
    // Checked before llama_backend_init, which otherwise searches the working directory for libraries to load.
    if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
        throw Error(ErrorCode::load, "no CPU backend was found", "reinstall donabe, or pass init() the backend folder");
    }
    if (!is_initialised) {
        llama_backend_init();
        is_initialised = true;
    }
}

void devices_require_init() {
    {
        std::lock_guard<std::mutex> held(init_mutex);
        if (is_initialised) {
            return;
        }
    }
    devices_init({}, {});
}

std::vector<DeviceInfo> devices_list() {
    process_require_not_forked();
    std::vector<DeviceInfo> devices;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        ggml_backend_dev_props props;
        ggml_backend_dev_get_props(device, &props);
        devices.push_back({props.name, props.description, ggml_backend_reg_name(ggml_backend_dev_backend_reg(device)),
                           kind_name(device), props.device_id == nullptr ? "" : props.device_id, props.memory_total,
                           props.memory_free});
    }
    return devices;
}

ggml_backend_dev_t devices_find(const std::string & name) {
    if (ggml_backend_dev_t device = ggml_backend_dev_by_name(name.c_str())) {
        return device;
    }
    std::string known;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        known += (i == 0 ? "" : ", ") + std::string(ggml_backend_dev_name(ggml_backend_dev_get(i)));
    }
    throw Error(ErrorCode::invalid_argument, "there is no device '" + name + "'", "devices here: " + known);
}

std::string devices_system_info() {
    devices_require_init();
    return llama_print_system_info();
}

BuildInfo devices_build_info() {
    BuildInfo info;
    info.build_id = DONABE_BUILD_ID;
    info.cpu_variant = chosen_cpu_variant();
    info.llama_version = llama_version();
    info.ggml_version = ggml_version();
    info.ggml_commit = ggml_commit();
#if defined(__clang__) || defined(__GNUC__)
    info.compiler = __VERSION__;
#if !defined(__clang__)
    info.compiler = "gcc " + info.compiler;
#endif
#elif defined(_MSC_VER)
    info.compiler = "msvc " + std::to_string(_MSC_VER);
#endif
#if defined(DONABE_BACKEND_DL)
    info.has_dynamic_backends = true;
#else
    info.has_dynamic_backends = false;
#endif
#if defined(NDEBUG)
    info.has_asserts = false;
#else
    info.has_asserts = true;
#endif
    return info;
}

void devices_set_abort_report(const std::string & path) {
    if (path.size() >= sizeof(abort_report_path)) {
        throw Error(ErrorCode::invalid_argument, "the path of the abort report is longer than 4095 bytes");
    }
    std::memcpy(abort_report_path, path.c_str(), path.size() + 1);
    ggml_set_abort_callback(&on_abort);
}

} // namespace donabe
