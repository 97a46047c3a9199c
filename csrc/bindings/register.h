// One register_* function per bind_*.cpp, called by module.cpp in this order: a class must be registered before
// another's signature or default argument mentions it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "context.h"

namespace donabe::bindings {

namespace py = pybind11;

using ContextClass = py::class_<Context, std::shared_ptr<Context>>;

void register_devices(py::module_ & m);
void register_gguf(py::module_ & m);
void register_quantize(py::module_ & m);
void register_vocab(py::module_ & m);
void register_model(py::module_ & m);
void register_batch(py::module_ & m);
void register_memory(py::module_ & m);
ContextClass register_context(py::module_ & m);
void register_sampler(py::module_ & m);
void register_step(py::module_ & m, ContextClass & context); // also adds Context.decode_and_sample
void register_chat(py::module_ & m);

} // namespace donabe::bindings
