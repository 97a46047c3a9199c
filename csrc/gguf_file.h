// Metadata of a GGUF file as ggml's own reader sees it. Not the validator for files of unknown origin: that is
// donabe.store.gguf. Immutable after construction.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

struct gguf_context;

namespace donabe {

// One value; arrays hold values of one kind. Strings are bytes as in the file.
using GgufValue = std::variant<bool, uint64_t, int64_t, double, std::string, std::vector<bool>, std::vector<uint64_t>,
                               std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;

struct GgufTensor {
    std::string name;
    std::string type;
    std::vector<int64_t> shape; // fastest dimension first
    uint64_t offset;            // from the start of the data section
};

class GgufFile {
  public:
    explicit GgufFile(const std::string & path); // throws load
    ~GgufFile();
    GgufFile(const GgufFile &) = delete;
    GgufFile & operator=(const GgufFile &) = delete;

    uint32_t version() const;
    std::vector<std::pair<std::string, GgufValue>> meta() const;
    std::vector<GgufTensor> tensors() const;

  private:
    gguf_context * gguf_;
};

} // namespace donabe
