#include "bindings/register.h"

namespace donabe::bindings {

void register_sampler(py::module_ &) {}

} // namespace donabe::bindings
