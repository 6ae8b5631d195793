// The convolutional gated recurrent unit (seqgen/ops/gated_canvas.py): 3 x 3 convolutions of an image's planes.
//
// A plane lies flat with a zero after every row and rows of zeros above and below, so that a neighbour is an offset and
// no border needs care: pixel (y, x) is at lead + y * (width + 1) + x.

#include "vectors.h"

namespace {

// Add the threads' partial sums, each `size` floats, into `total`.
void add_up(std::vector<Buffer>& parts, long size, float* total) {
  for (long i = 0; i < size; ++i) {
    float sum = 0;
    for (auto& part : parts) sum += part.data()[i];
    total[i] = sum;
  }
}

struct Plane {
  long height, width, stride, lead, length, size;
  explicit Plane(long h, long w) : height(h), width(w), stride(w + 1) {
    lead = round_up(stride + 1, N);
    length = round_up(h * stride, 4 * N);
    size = round_up(lead + length + stride + 1, N);
  }
  long offset(long tap) const { return (tap / 3 - 1) * stride + tap % 3 - 1; }
  void fill(const float* image, float* plane) const {
    for (long y = 0; y < height; ++y) std::memcpy(plane + lead + y * stride, image + y * width, 4 * width);
  }
  void take(const float* plane, float* image) const {
    for (long y = 0; y < height; ++y) std::memcpy(image + y * width, plane + lead + y * stride, 4 * width);
  }
};

// Weights as [output / 4][input][tap][4]; outputs beyond the last have weight zero.
std::vector<float> pack(const float* weight, long outputs, long inputs, bool transposed) {
  const long blocks = (outputs + 3) / 4;
  std::vector<float> packed(blocks * inputs * 36, 0.0f);
  for (long o = 0; o < outputs; ++o)
    for (long c = 0; c < inputs; ++c)
      for (long tap = 0; tap < 9; ++tap) {
        // The transposed convolution exchanges inputs with outputs and turns the kernel around.
        const float w = transposed ? weight[(c * outputs + o) * 9 + 8 - tap] : weight[(o * inputs + c) * 9 + tap];
        packed[((o / 4 * inputs + c) * 9 + tap) * 4 + o % 4] = w;
      }
  return packed;
}

// Every sum stays in a register: four outputs times as many vectors of pixels as there is room for.
constexpr long ACROSS = REGISTERS >= 32 ? 4 : 2;

// to[o] = bias[o] + sum_c weight[o, c] * from[c]; `to` has room for a multiple of four planes.
void convolve(const Plane& plane, const float* from, long inputs, const std::vector<float>& packed,
              const float* bias, float* to, long outputs) {
  for (long first = 0; first < outputs; first += 4) {
    const float* weights = packed.data() + first / 4 * inputs * 36;
    for (long at = plane.lead; at < plane.lead + plane.length; at += ACROSS * N) {
      Vec sums[4][ACROSS];
      for (long o = 0; o < 4; ++o)
        for (long v = 0; v < ACROSS; ++v) sums[o][v] = Vec{} + (bias && first + o < outputs ? bias[first + o] : 0.0f);
      const float* w = weights;
      for (long c = 0; c < inputs; ++c)
        for (long tap = 0; tap < 9; ++tap, w += 4) {
          const float* p = from + c * plane.size + at + plane.offset(tap);
          Vec x[ACROSS];
          for (long v = 0; v < ACROSS; ++v) x[v] = load(p + v * N);
          for (long o = 0; o < 4; ++o)
            for (long v = 0; v < ACROSS; ++v) sums[o][v] += w[o] * x[v];
        }
      for (long o = 0; o < 4; ++o)
        for (long v = 0; v < ACROSS; ++v) store(to + (first + o) * plane.size + at + v * N, sums[o][v]);
    }
  }
}

// sums[o, c, tap] += sum over pixels of grad[o] * from[c] shifted by the tap, N partial sums each;
// then sums of grad[o] alone, the biases'. `grad` has a multiple of four planes.
void correlate(const Plane& plane, const float* grad, long outputs, const float* from, long inputs, float* sums) {
  for (long first = 0; first < outputs; first += 4) {
    const float* g = grad + first * plane.size;
    for (long c = 0; c < inputs; ++c)
      for (long row = 0; row < 3; ++row) {
        Vec total[4][3] = {};
        const float* p = from + c * plane.size + plane.offset(3 * row);
        for (long at = plane.lead; at < plane.lead + plane.length; at += N) {
          const Vec x0 = load(p + at), x1 = load(p + at + 1), x2 = load(p + at + 2);
          for (long o = 0; o < 4; ++o) {
            const Vec y = load(g + o * plane.size + at);
            total[o][0] += y * x0;
            total[o][1] += y * x1;
            total[o][2] += y * x2;
          }
        }
        for (long o = 0; o < std::min(4L, outputs - first); ++o)
          for (long column = 0; column < 3; ++column) {
            float* s = sums + (((first + o) * inputs + c) * 9 + 3 * row + column) * N;
            store(s, load(s) + total[o][column]);
          }
      }
  }
  for (long o = 0; o < outputs; ++o) {
    Vec total = {};
    for (long at = plane.lead; at < plane.lead + plane.length; at += N) total += load(grad + o * plane.size + at);
    float* s = sums + (outputs * inputs * 9 + o) * N;
    store(s, load(s) + total);
  }
}

}  // namespace

extern "C" {

// Floats of `kept` for one image: the planes s, update, reset and candidate as the backward pass wants them.
long cgru_kept(long channels, long height, long width) { return 4 * channels * Plane(height, width).size; }

// CGRU(s) of eq. 10 (see GatedCanvas): s, next [B,C,H,W], gates' weight [2C,C,3,3], candidate's [C,C,3,3].
void cgru_forward(long batch, long channels, long height, long width, long threads, const float* s_, const float* gates_w,
                  const float* gates_b, const float* candidate_w, const float* candidate_b, float* next, float* kept) {
  const Plane plane(height, width);
  const long image = channels * height * width, block = channels * plane.size;
  const auto gates_packed = pack(gates_w, 2 * channels, channels, false);
  const auto candidate_packed = pack(candidate_w, channels, channels, false);
  in_blocks(batch, threads, [&](long first, long last, long) {
    Buffer s(block), gates((round_up(2 * channels, 4)) * plane.size), rs(block);
    Buffer candidate(round_up(channels, 4) * plane.size);
    for (long b = first; b < last; ++b) {
      for (long c = 0; c < channels; ++c)
        plane.fill(s_ + b * image + c * height * width, s.at(c * plane.size));
      convolve(plane, s.data(), channels, gates_packed, gates_b, gates.data(), 2 * channels);
      for (long c = 0; c < channels; ++c)
        for (long at = plane.lead; at < plane.lead + plane.length; at += N) {
          float* u = gates.at(c * plane.size + at);
          float* r = gates.at((channels + c) * plane.size + at);
          const Vec reset = sigmoid(load(r));
          store(u, sigmoid(load(u)));
          store(r, reset);
          store(rs.at(c * plane.size + at), reset * load(s.at(c * plane.size + at)));
        }
      convolve(plane, rs.data(), channels, candidate_packed, candidate_b, candidate.data(), channels);
      float* keep = kept ? kept + b * 4 * block : nullptr;
      for (long c = 0; c < channels; ++c) {
        for (long at = plane.lead; at < plane.lead + plane.length; at += N) {
          const long i = c * plane.size + at;
          const Vec now = load(s.at(i)), u = load(gates.at(i)), k = hyperbolic_tangent(load(candidate.at(i)));
          store(candidate.at(i), k);
          store(rs.at(i), k + u * (now - k));
        }
        plane.take(rs.at(c * plane.size), next + b * image + c * height * width);
      }
      if (keep) {
        std::memcpy(keep, s.data(), 4 * block);
        std::memcpy(keep + block, gates.data(), 8 * block);
        std::memcpy(keep + 3 * block, candidate.data(), 4 * block);
      }
    }
  });
}

void cgru_backward(long batch, long channels, long height, long width, long threads, const float* kept,
                   const float* gates_w, const float* candidate_w, const float* grad, float* grad_s,
                   float* grad_gates_w, float* grad_gates_b, float* grad_candidate_w, float* grad_candidate_b) {
  const Plane plane(height, width);
  const long image = channels * height * width, block = channels * plane.size;
  const long padded = round_up(channels, 4), padded_gates = round_up(2 * channels, 4);
  const auto gates_packed = pack(gates_w, channels, 2 * channels, true);
  const auto candidate_packed = pack(candidate_w, channels, channels, true);
  const long gates_sums = 2 * channels * (9 * channels + 1), candidate_sums = channels * (9 * channels + 1);
  threads = std::max(1L, std::min(threads, batch));
  std::vector<Buffer> sums;
  for (long t = 0; t < threads; ++t) sums.emplace_back((gates_sums + candidate_sums) * N);
  in_blocks(batch, threads, [&](long first, long last, long thread) {
    Buffer g(block), rs(block), d_gates(padded_gates * plane.size), d_candidate(padded * plane.size);
    Buffer d_s(padded * plane.size), back(padded * plane.size);
    for (long b = first; b < last; ++b) {
      const float* s = kept + b * 4 * block;
      const float *u = s + block, *r = s + 2 * block, *k = s + 3 * block;
      for (long c = 0; c < channels; ++c) {
        plane.fill(grad + b * image + c * height * width, g.at(c * plane.size));
        for (long at = plane.lead; at < plane.lead + plane.length; at += N) {
          const long i = c * plane.size + at;
          const Vec dy = load(g.at(i)), up = load(u + i), now = load(s + i), can = load(k + i);
          store(d_gates.at(i), dy * (now - can) * up * (1.0f - up));
          store(d_candidate.at(i), dy * (1.0f - up) * (1.0f - can * can));
          store(rs.at(i), load(r + i) * now);
        }
      }
      correlate(plane, d_candidate.data(), channels, rs.data(), channels, sums[thread].at(gates_sums * N));
      convolve(plane, d_candidate.data(), channels, candidate_packed, nullptr, back.data(), channels);
      for (long c = 0; c < channels; ++c)
        for (long at = plane.lead; at < plane.lead + plane.length; at += N) {
          const long i = c * plane.size + at;
          const Vec d_rs = load(back.at(i)), reset = load(r + i);
          store(d_gates.at(block + i), d_rs * load(s + i) * reset * (1.0f - reset));
          store(back.at(i), d_rs * reset + load(g.at(i)) * load(u + i));
        }
      correlate(plane, d_gates.data(), 2 * channels, s, channels, sums[thread].data());
      convolve(plane, d_gates.data(), 2 * channels, gates_packed, nullptr, d_s.data(), channels);
      for (long c = 0; c < channels; ++c) {
        for (long at = plane.lead; at < plane.lead + plane.length; at += N) {
          const long i = c * plane.size + at;
          store(d_s.at(i), load(d_s.at(i)) + load(back.at(i)));
        }
        plane.take(d_s.at(c * plane.size), grad_s + b * image + c * height * width);
      }
    }
  });
  std::vector<float> total((gates_sums + candidate_sums) * N);
  add_up(sums, total.size(), total.data());
  const auto collect = [&](long from, long count, float* to) {
    for (long i = 0; i < count; ++i) to[i] = sum(load(total.data() + (from + i) * N));
  };
  collect(0, 18 * channels * channels, grad_gates_w);
  collect(18 * channels * channels, 2 * channels, grad_gates_b);
  collect(gates_sums, 9 * channels * channels, grad_candidate_w);
  collect(gates_sums + 9 * channels * channels, channels, grad_candidate_b);
}

}  // extern "C"
