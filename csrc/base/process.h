// Facts about this process: whether it is a fork of one that used llama.cpp (then nothing here may run: locks and
// thread pools did not survive), and how many cores it may use.
#pragma once

#include <cstdint>

namespace donabe {

// Register the fork handler. Idempotent; call at module import.
void process_install_fork_guard();
bool process_is_forked() noexcept;
// Throws unsupported in a forked child.
void process_require_not_forked();

// Physical cores among the CPUs in this process' affinity mask, at least 1. SMT siblings count once.
int32_t process_n_physical_cores();

} // namespace donabe
