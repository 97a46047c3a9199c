#include "bindings/register.h"

namespace donabe::bindings {

void register_step(py::module_ &, ContextClass &) {}

} // namespace donabe::bindings
