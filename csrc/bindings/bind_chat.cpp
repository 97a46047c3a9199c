#include "bindings/register.h"

namespace donabe::bindings {

void register_chat(py::module_ &) {}

} // namespace donabe::bindings
