// Vectors of floats, their functions, and how work is shared among threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

// Floats in a vector: what one register of the instruction set holds, never more. GCC takes a longer vector apart
// through memory, which made whole training steps five times slower on chips without AVX-512.
#if defined(__AVX512F__)
constexpr long N = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr long N = 8, REGISTERS = 16;
#elif defined(__ARM_NEON)
constexpr long N = 4, REGISTERS = 32;
#else  // SSE2 and whatever else a compiler makes of four floats
constexpr long N = 4, REGISTERS = 16;
#endif
constexpr long BYTES = 4 * N;
typedef float Vec __attribute__((vector_size(BYTES)));
typedef int32_t IntVec __attribute__((vector_size(BYTES)));
typedef float Four __attribute__((vector_size(16)));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// The first n floats of a vector, the rest zero.
inline Vec load(const float* p, long n) {
  if (n >= N) return load(p);
  Vec v = {};
  std::memcpy(&v, p, 4 * n);
  return v;
}

inline void store(float* p, Vec v, long n) { std::memcpy(p, &v, 4 * std::min(n, N)); }

inline float sum(Vec v) {
  Four part[N / 4];
  std::memcpy(part, &v, sizeof v);
  for (long width = N / 8; width > 0; width /= 2)
    for (long i = 0; i < width; ++i) part[i] += part[i + width];
  const Four q = part[0];
  return (q[0] + q[1]) + (q[2] + q[3]);
}

inline Vec exponential(Vec x) {
  // Cody and Waite's reduction, Cephes' polynomial: 1 to 2 units in the last place. A NaN stays one.
  const Vec low = Vec{} - 87.0f, high = Vec{} + 88.0f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = (x * 1.44269504f + shift) - shift;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const IntVec bits = (__builtin_convertvector(n, IntVec) + 127) << 23;
  Vec scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

// Exact to 1e-7 of one, not of itself near zero: what the LSTM and the CGRU need.
inline Vec hyperbolic_tangent(Vec x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

inline long round_up(long n, long to) { return (n + to - 1) / to * to; }

// Unset floats that begin where a vector may.
class Scratch {
 public:
  explicit Scratch(long floats) : storage_(new float[floats + N]) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.get());
    begin_ = storage_.get() + (BYTES - address % BYTES) % BYTES / 4;
  }
  float* data() { return begin_; }
  float* at(long offset) { return begin_ + offset; }

 private:
  std::unique_ptr<float[]> storage_;
  float* begin_;
};

// The same, zeroed.
class Buffer : public Scratch {
 public:
  explicit Buffer(long floats) : Scratch(floats) { std::fill_n(data(), floats, 0.0f); }
};

// Call block(first, last, thread) on contiguous blocks of `count` things, one a thread.
template <class Block>
void in_blocks(long count, long threads, const Block& block) {
  threads = std::max(1L, std::min(threads, count));
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (long thread = 0; thread < threads; ++thread) {
    block(count * thread / threads, count * (thread + 1) / threads, thread);
  }
}

}  // namespace
