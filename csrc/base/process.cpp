#include "base/process.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#elif defined(__APPLE__)
#include <pthread.h>
#include <sys/sysctl.h>
#endif

#include "base/errors.h"

namespace donabe {
namespace {

std::atomic<bool> is_forked{false};

#if defined(__linux__)

std::string first_line(const std::string & path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// One entry per physical core: SMT siblings list each other in the same words.
int32_t count_affinity_cores() {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof(mask), &mask) != 0) {
        return 0;
    }
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &mask)) {
            const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
            const std::string siblings = first_line(topology + "thread_siblings_list");
            cores.insert(siblings.empty() ? "cpu" + std::to_string(cpu) : siblings);
        }
    }
    return static_cast<int32_t>(cores.size());
}

// A container's CPU quota: threads beyond it are only throttled. 0: none.
int32_t count_quota_cores() {
    long long quota = 0;
    long long period = 0;
    const std::string v2 = first_line("/sys/fs/cgroup/cpu.max");
    if (std::sscanf(v2.c_str(), "%lld %lld", &quota, &period) != 2) {
        quota = std::atoll(first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").c_str());
        period = std::atoll(first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us").c_str());
    }
    if (quota <= 0 || period <= 0) {
        return 0;
    }
    return static_cast<int32_t>(std::min((quota + period - 1) / period, 4096LL));
}

#elif defined(__APPLE__)

int32_t count_affinity_cores() {
    for (const char * name : {"hw.perflevel0.physicalcpu", "hw.physicalcpu"}) {
        int32_t n = 0;
        size_t size = sizeof(n);
        if (sysctlbyname(name, &n, &size, nullptr, 0) == 0 && n > 0) {
            return n;
        }
    }
    return 0;
}

int32_t count_quota_cores() {
    return 0;
}

#else

int32_t count_affinity_cores() {
    return 0;
}
int32_t count_quota_cores() {
    return 0;
}

#endif

} // namespace

void process_install_fork_guard() {
#if defined(__linux__) || defined(__APPLE__)
    static std::once_flag once;
    std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { is_forked.store(true); }); });
#endif
}

bool process_is_forked() noexcept {
    return is_forked.load(std::memory_order_relaxed);
}

void process_require_not_forked() {
    if (process_is_forked()) {
        throw Error(ErrorCode::unsupported, "the native module can't be used in a forked child process",
                    "start the process with spawn (multiprocessing.get_context(\"spawn\")) or subprocess");
    }
}

int32_t process_n_physical_cores() {
    int32_t n = count_affinity_cores();
    if (n <= 0) {
        n = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
    }
    const int32_t quota = count_quota_cores();
    return quota > 0 ? std::min(n, quota) : n;
}

} // namespace donabe
