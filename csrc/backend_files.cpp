#include "backend_files.h"

#include <algorithm>
#include <utility>
#include <vector>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include "ggml-backend.h"

#include "base/errors.h"

namespace donabe {
namespace {

namespace fs = std::filesystem;

#if defined(_WIN32)
constexpr const char * file_prefix = "ggml-";
constexpr const char * file_suffix = ".dll";
#else
constexpr const char * file_prefix = "libggml-"; // on macOS too: they are modules, not libraries to link with
constexpr const char * file_suffix = ".so";
#endif
constexpr const char * cpu_prefix = "cpu-";

struct CpuVariant {
    std::string name;
    fs::path path;
    int score; // 0: this CPU lacks an instruction set that it was compiled for
};

bool starts_with(const std::string & text, const std::string & start) {
    return text.compare(0, start.size(), start) == 0;
}

// "cpu-haswell" of ".../libggml-cpu-haswell.so"; "" for other files.
std::string backend_name(const fs::path & path) {
    const std::string stem = path.stem().string();
    return path.extension() == file_suffix && starts_with(stem, file_prefix)
               ? stem.substr(std::char_traits<char>::length(file_prefix))
               : std::string();
}

// What the library says of itself on this CPU; the code that answers is compiled for every CPU.
int score_of(const fs::path & path) {
    using Score = int (*)();
#if defined(_WIN32)
    HMODULE library = LoadLibraryW(path.c_str());
    if (library == nullptr) {
        return 0;
    }
    auto score = reinterpret_cast<Score>(GetProcAddress(library, "ggml_backend_score"));
    const int value = score == nullptr ? 0 : score();
    FreeLibrary(library);
#else
    void * library = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) {
        return 0;
    }
    auto score = reinterpret_cast<Score>(dlsym(library, "ggml_backend_score"));
    const int value = score == nullptr ? 0 : score();
    dlclose(library);
#endif
    return value;
}

// Throws Error(load): the folder can't be read.
std::vector<fs::path> files_in(const fs::path & dir) {
    std::vector<fs::path> paths;
    std::error_code failed;
    for (auto entry = fs::directory_iterator(dir, failed); !failed && entry != fs::directory_iterator();
         entry.increment(failed)) {
        paths.push_back(entry->path());
    }
    if (failed) {
        throw Error(ErrorCode::load, "the folder of the backend libraries can't be read: " + failed.message(),
                    "check that " + dir.string() + " may be read, and the limit of open files");
    }
    return paths;
}

void load_file(const fs::path & path) {
    if (ggml_backend_load(path.string().c_str()) == nullptr) {
        throw Error(ErrorCode::load, "the backend library " + path.filename().string() + " can't be loaded",
                    "reinstall donabe");
    }
}

std::string names(const std::vector<CpuVariant> & variants, bool runnable_only) {
    std::string list;
    for (const CpuVariant & variant : variants) {
        if (!runnable_only || variant.score > 0) {
            list += (list.empty() ? "" : ", ") + variant.name;
        }
    }
    return list;
}

const CpuVariant & forced_variant(const std::vector<CpuVariant> & variants, const std::string & name) {
    const auto found = std::find_if(variants.begin(), variants.end(), [&](const auto & v) { return v.name == name; });
    if (found == variants.end()) {
        throw Error(ErrorCode::invalid_argument, "there is no CPU variant '" + name + "'",
                    "variants in this package: " + names(variants, false));
    }
    if (found->score == 0) {
        throw Error(ErrorCode::unsupported, "this CPU can't run the CPU variant '" + name + "'",
                    "it can run: " + names(variants, true));
    }
    return *found;
}

} // namespace

fs::path backend_files_default_dir() {
#if !defined(DONABE_BACKEND_DL)
    return {};
#elif defined(_WIN32)
    // Beside the extension, which is where the system looks for the libraries that the extension links with.
    HMODULE self = nullptr;
    wchar_t path[32768];
    if (!GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                            reinterpret_cast<LPCWSTR>(&backend_files_default_dir), &self) ||
        GetModuleFileNameW(self, path, 32768) == 0) {
        return {};
    }
    return fs::path(path).parent_path();
#else
    Dl_info info;
    if (dladdr(reinterpret_cast<const void *>(&backend_files_default_dir), &info) == 0 || info.dli_fname == nullptr) {
        return {};
    }
    return fs::absolute(info.dli_fname).parent_path() / "lib";
#endif
}

std::string backend_files_load(const fs::path & dir, const std::string & cpu_variant) {
    std::error_code failed;
    if (!dir.is_absolute() || !fs::is_directory(dir, failed)) {
        throw Error(ErrorCode::invalid_argument,
                    "backend_dir must be the absolute path of a folder, not '" + dir.string() + "'");
    }
    std::vector<CpuVariant> variants;
    std::vector<fs::path> others;
    for (const fs::path & path : files_in(dir)) {
        const std::string name = backend_name(path);
        if (starts_with(name, cpu_prefix)) {
            variants.push_back({name.substr(std::char_traits<char>::length(cpu_prefix)), path, score_of(path)});
        } else if (!name.empty()) {
            others.push_back(path);
        }
    }
    std::sort(variants.begin(), variants.end(),
              [](const auto & a, const auto & b) { return std::pair(-a.score, a.name) < std::pair(-b.score, b.name); });
    std::sort(others.begin(), others.end());
    std::string chosen;
    if (!cpu_variant.empty() || (!variants.empty() && variants.front().score > 0)) {
        const CpuVariant & variant = cpu_variant.empty() ? variants.front() : forced_variant(variants, cpu_variant);
        load_file(variant.path);
        chosen = variant.name;
    }
    for (const fs::path & path : others) {
        load_file(path);
    }
    return chosen;
}

} // namespace donabe
