// Module functions about devices, logs and the build.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "llama.h"

#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "bindings/text.h"
#include "devices.h"
#include "rpc.h"

namespace donabe::bindings {
namespace {

std::vector<DeviceInfo> init(const std::optional<std::string> & backend_dir, const std::vector<std::string> & plugins) {
    return without_gil([&] { // loading drivers takes seconds; devices_init has its own lock
        devices_init(backend_dir.value_or(""), plugins);
        return devices_list();
    });
}

py::list drain_logs(int64_t max_lines) {
    process_require_not_forked();
    require_range("max_lines", max_lines, 0, int64_t{1} << 30);
    py::list lines;
    for (const auto & [level, text] : log_drain(static_cast<size_t>(max_lines))) {
        lines.append(py::make_tuple(level, text_from_bytes(text)));
    }
    return lines;
}

void rpc_add(const std::string & address) {
    without_gil([&] { rpc_add_worker(address); }); // waits for the network; has its own lock
}

void rpc_serve(int64_t connection, const std::vector<std::string> & devices, int64_t n_threads,
               const std::string & cache_dir) {
    require_range("connection", connection, 0, int64_t{1} << 30);
    require_range("n_threads", n_threads, 1, 1024);
    without_gil([&] { // for as long as the peer stays; it is the only user of the devices in its process
        rpc_serve_connection(static_cast<int>(connection), devices, static_cast<int>(n_threads), cache_dir);
    });
}

void set_log_level(int64_t level) {
    require_range("level", level, 1, 5);
    log_set_level(static_cast<int>(level));
}

py::dict build_info() {
    const BuildInfo info = devices_build_info();
    py::dict dict;
    dict["version"] = DONABE_VERSION;
    dict["build_id"] = info.build_id;
    dict["llama_version"] = info.llama_version;
    dict["ggml_version"] = info.ggml_version;
    dict["ggml_commit"] = info.ggml_commit;
    dict["compiler"] = info.compiler;
    dict["cpu_variant"] = info.cpu_variant;
    dict["rpc_protocol"] = rpc_protocol_version();
    dict["backend_dl"] = info.has_dynamic_backends;
    dict["asserts"] = info.has_asserts;
    return dict;
}

} // namespace

void register_devices(py::module_ & m) {
    py::class_<DeviceInfo>(m, "DeviceInfo", py::is_final())
        .def_property_readonly("name", [](const DeviceInfo & d) { return text_from_bytes(d.name); })
        .def_property_readonly("description", [](const DeviceInfo & d) { return text_from_bytes(d.description); })
        .def_property_readonly("backend", [](const DeviceInfo & d) { return text_from_bytes(d.backend); })
        .def_readonly("kind", &DeviceInfo::kind)
        .def_property_readonly("pci_id", [](const DeviceInfo & d) { return text_from_bytes(d.pci_id); })
        .def_readonly("memory_total_bytes", &DeviceInfo::memory_total_bytes)
        .def_readonly("memory_free_bytes", &DeviceInfo::memory_free_bytes);

    m.def("init", &init, py::arg("backend_dir") = py::none(), py::arg("plugins") = py::tuple());
    m.def("devices", [] { return without_gil(&devices_list); });
    m.def("system_info", [] { return without_gil(&devices_system_info); });
    m.def("build_info", &build_info);
    m.def("drain_logs", &drain_logs, py::arg("max_lines") = 1000);
    m.def("set_log_level", &set_log_level, py::arg("level"));
    m.def("max_sequences", [] { return llama_max_parallel_sequences(); });
    m.def("n_physical_cores", &process_n_physical_cores);
    m.def("rpc_add_worker", &rpc_add, py::arg("address"));
    m.def("rpc_serve_connection", &rpc_serve, py::arg("connection"), py::arg("devices"), py::arg("n_threads"),
          py::arg("cache_dir") = "");
    m.def(
        "rpc_cache_file_is_sound",
        [](const std::string & path) { return without_gil([&] { return rpc_cache_file_is_sound(path); }); }, // reads it
        py::arg("path"));
    m.def("set_abort_callback_report", &devices_set_abort_report, py::arg("path"));
}

} // namespace donabe::bindings
