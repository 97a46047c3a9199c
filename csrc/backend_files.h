// ggml's backend libraries in the package's own folder (builds with DONABE_BACKEND_DL): which there are, which CPU
// variant suits this machine, and loading them, by absolute path alone. Call under the lock of devices_init.
#pragma once

#include <filesystem>
#include <string>

namespace donabe {

// The folder with this package's backend libraries; empty where they are linked in.
std::filesystem::path backend_files_default_dir();

// Load the CPU variant `cpu_variant` ("": the best one that this CPU can run) and every other backend in `dir`. Returns
// the variant's name, "" where there is none. Throws invalid_argument for a variant that does not exist, unsupported
// for one that this CPU can't run, load for a library that does not load.
std::string backend_files_load(const std::filesystem::path & dir, const std::string & cpu_variant);

} // namespace donabe
