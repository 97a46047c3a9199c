// Backends and their devices, and process-wide facts about ggml and llama.cpp. Threads: init is locked, the rest reads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml-backend.h"

namespace donabe {

struct DeviceInfo {
    std::string name;
    std::string description;
    std::string backend;
    std::string kind;   // cpu, gpu, igpu, accel
    std::string pci_id; // as in /sys/bus/pci/devices; empty where the backend does not tell
    uint64_t memory_total_bytes;
    uint64_t memory_free_bytes;
};

struct BuildInfo {
    std::string build_id; // changes with anything that makes backend plugins incompatible
    std::string llama_version;
    std::string ggml_version;
    std::string ggml_commit;
    std::string compiler;
    std::string cpu_variant; // of the loaded CPU backend; empty before init, and where the backend is linked in
    bool has_dynamic_backends;
    bool has_asserts;
};

// Load the backends in `backend_dir` ("": the `lib` folder beside this library, where there is one), then each plugin,
// and start llama.cpp. A second call only loads plugins that are new. Throws load, invalid_argument.
void devices_init(const std::string & backend_dir, const std::vector<std::string> & plugins);
// devices_init with defaults, unless it ran already.
void devices_require_init();

std::vector<DeviceInfo> devices_list();
ggml_backend_dev_t devices_find(const std::string & name); // throws invalid_argument
std::string devices_system_info();
BuildInfo devices_build_info();

// Where the abort callback writes its last report; "" stops it. Throws invalid_argument for an over-long path.
void devices_set_abort_report(const std::string & path);

} // namespace donabe
