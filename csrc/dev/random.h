#pragma once

#include <cstdint>

namespace donabe::dev {

// splitmix64: the same cases from a seed on every platform.
class Random {
  public:
    explicit Random(uint64_t seed) : state(seed) {}
    uint64_t next() {
        uint64_t z = state += 0x9E3779B97F4A7C15ull;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }
    int64_t between(int64_t low, int64_t high) { return low + int64_t(next() % uint64_t(high - low + 1)); } // inclusive
    bool chance(double p) { return uniform() < p; }
    float normal() { // sum of four uniforms: close enough, and cheap
        double sum = 0.0;
        for (int i = 0; i < 4; i++) {
            sum += uniform() - 0.5;
        }
        return float(sum * 1.7320508);
    }

  private:
    double uniform() { return double(next() >> 11) * 0x1p-53; }

    uint64_t state;
};

} // namespace donabe::dev
