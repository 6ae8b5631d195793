// The elementwise and attention parts of a step, forward and backward, on a CPU in float32.
//
// What torch does as many small operations is one pass over each image here. Every function is what the pure torch
// path of seqgen/models computes, and is tested against it. Arrays are contiguous; B images are shared among the
// threads in fixed blocks and sums over images are added in the threads' order, so that on one chip the bits depend on
// the number of threads alone. Plain C interface: no torch header is needed, and the file compiles in seconds.

#include "vectors.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

// The pixels of a side from `first` on, which DRAW counts from 1.
inline Vec pixels_from(long first) {
  Vec up;
  for (long i = 0; i < N; ++i) up[i] = float(first + i + 1);
  return up;
}

// Add the threads' partial sums, each `size` floats, into `total`.
void add_up(std::vector<Buffer>& parts, long size, float* total) {
  for (long i = 0; i < size; ++i) {
    float sum = 0;
    for (auto& part : parts) sum += part.data()[i];
    total[i] = sum;
  }
}

// ---------------------------------------------------------------------------------------------------------------
// 3 x 3 convolutions of an image's planes. A plane lies flat with a zero after every row and rows of zeros above and
// below, so that a neighbour is an offset and no border needs care: pixel (y, x) is at lead + y * (width + 1) + x.

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

// to[o] = bias[o] + sum_c weight[o, c] * from[c]; `to` has room for a multiple of four planes.
// Every sum stays in a register: four outputs times as many vectors of pixels as there is room for.
constexpr long ACROSS = REGISTERS >= 32 ? 4 : 2;

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

// ---------------------------------------------------------------------------------------------------------------
// Gaussian filter banks.

struct Bank {
  long size, height, width, rows, columns;  // rows, columns: height and width rounded up to whole vectors
  Bank(long p, long h, long w)
      : size(p), height(h), width(w), rows(round_up(h, N)), columns(round_up(w, N)) {}
  long floats() const { return size * (rows + columns); }
  float full_stride() const { return float(std::max(height, width) - 1) / std::max(size - 1, 1L); }
};

struct Window {
  float centre_x, centre_y, variance, stride, gamma;
  Window(const Bank& bank, const float* p) {
    Vec e = {};
    e[0] = p[2];
    e[1] = p[3];
    e[2] = p[4];
    e = exponential(e);
    centre_x = (bank.width + 1) / 2.0f * (p[0] + 1);
    centre_y = (bank.height + 1) / 2.0f * (p[1] + 1);
    variance = e[0];
    stride = bank.full_stride() * e[1];
    gamma = e[2];
  }
  float step(const Bank& bank, long p) const { return p - (bank.size - 1) / 2.0f; }
};

// Filters p of one side, softmax of -(pixel - centre_p)^2 / (2 variance), pixels counted from 1.
void filters(const Bank& bank, const Window& window, float centre, long length, float* out) {
  const long padded = round_up(length, N);
  for (long p = 0; p < bank.size; ++p) {
    const float mean = centre + window.step(bank, p) * window.stride;
    // The nearest pixel has the largest value: subtract it, so that none underflows.
    const float nearest = std::min(std::max(mean + 0.5f, 1.0f), float(length) + 0.5f);
    const float gap = float(long(nearest)) - mean;
    const float scale = -0.5f / window.variance;
    Vec total = {};
    float* row = out + p * padded;
    for (long i = 0; i < padded; i += N) {
      const Vec pixel = pixels_from(i);
      const Vec d = pixel - mean;
      Vec value = exponential((d * d - gap * gap) * scale);
      value = pixel > float(length) ? Vec{} : value;
      store(row + i, value);
      total += value;
    }
    const float inverse = 1.0f / sum(total);
    for (long i = 0; i < padded; i += N) store(row + i, load(row + i) * inverse);
  }
}

// From the gradient of one side's filters to those of (centre, log variance, log stride), added.
void filters_backward(const Bank& bank, const Window& window, float centre, long length, const float* filter,
                      const float* grad, float* grad_centre, float* grad_variance, float* grad_stride) {
  const long padded = round_up(length, N);
  for (long p = 0; p < bank.size; ++p) {
    const float mean = centre + window.step(bank, p) * window.stride;
    const float* f = filter + p * padded;
    const float* g = grad + p * padded;
    Vec inner = {};
    for (long i = 0; i < padded; i += N) inner += load(f + i) * load(g + i);
    const float dot = sum(inner);
    Vec first = {}, second = {};
    for (long i = 0; i < padded; i += N) {
      const Vec pixel = pixels_from(i);
      const Vec d = pixel - mean;
      const Vec logit = load(f + i) * (load(g + i) - dot);
      first += logit * d;
      second += logit * d * d;
    }
    const float moved = sum(first) / window.variance;
    *grad_centre += moved;
    *grad_variance += sum(second) * 0.5f / window.variance;
    *grad_stride += moved * window.step(bank, p) * window.stride;
  }
}

void bank_backward(const Bank& bank, const Window& window, const float* filter, const float* grad, float grad_gamma,
                   float* out) {
  float x = 0, y = 0, variance = 0, stride = 0;
  filters_backward(bank, window, window.centre_y, bank.height, filter, grad, &y, &variance, &stride);
  filters_backward(bank, window, window.centre_x, bank.width, filter + bank.size * bank.rows,
                   grad + bank.size * bank.rows, &x, &variance, &stride);
  out[0] = x * (bank.width + 1) / 2.0f;
  out[1] = y * (bank.height + 1) / 2.0f;
  out[2] = variance;
  out[3] = stride;
  out[4] = grad_gamma * window.gamma;
}

void make_bank(const Bank& bank, const Window& window, float* out) {
  filters(bank, window, window.centre_y, bank.height, out);
  filters(bank, window, window.centre_x, bank.width, out + bank.size * bank.rows);
}

// N pixels from (y, x) on. Beyond a row's end they are the next row's: whoever reads them multiplies them by a
// filter's zero. Whoever writes them there writes the rows in order, so that the next row puts them right.
inline Vec load_pixels(const Bank& bank, const float* image, long y, long x) {
  const long at = y * bank.width + x, left = bank.height * bank.width - at;
  return left >= N ? load(image + at) : load(image + at, left);
}

inline void store_pixels(const Bank& bank, float* image, long y, long x, Vec v) {
  const long at = y * bank.width + x, left = bank.height * bank.width - at;
  if (left >= N)
    store(image + at, v);
  else
    store(image + at, v, left);
}

// out[p, x] = sum_y F_Y[p, y] image[y, x], rows padded to whole vectors.
void rows_of(const Bank& bank, const float* filter_y, const float* image, float* out) {
  for (long x = 0; x < bank.width; x += N)
    for (long first = 0; first < bank.size; first += 4) {
      const long count = std::min(4L, bank.size - first);
      // Filters beyond the last are the last again.
      const float* f[4];
      for (long p = 0; p < 4; ++p) f[p] = filter_y + (first + std::min(p, count - 1)) * bank.rows;
      Vec total[4] = {};
      for (long y = 0; y < bank.height; ++y) {
        const Vec v = load_pixels(bank, image, y, x);
        for (long p = 0; p < 4; ++p) total[p] += f[p][y] * v;
      }
      for (long p = 0; p < count; ++p) store(out + (first + p) * bank.columns + x, total[p]);
    }
}

// out[p, y] += sum_x row[p, x] image[y, x].
void columns_of(const Bank& bank, const float* row, const float* image, float* out) {
  for (long y = 0; y < bank.height; ++y)
    for (long p = 0; p < bank.size; ++p) {
      Vec total = {};
      for (long x = 0; x < bank.columns; x += N)
        total += load(row + p * bank.columns + x) * load_pixels(bank, image, y, x);
      out[p * bank.rows + y] += sum(total);
    }
}

// out[p, x] = sum_q (w[p, q] / gamma) F_X[q, x], rows padded to whole vectors.
void sprite_rows(const Bank& bank, const float* w, float inverse, const float* filter_x, float* out) {
  for (long p = 0; p < bank.size; ++p)
    for (long i = 0; i < bank.columns; i += N) {
      Vec total = {};
      for (long q = 0; q < bank.size; ++q)
        total += (w[p * bank.size + q] * inverse) * load(filter_x + q * bank.columns + i);
      store(out + p * bank.columns + i, total);
    }
}

// The planes that are read of an image: its channels, or, where there are logits, it and what it lacks.
class Seen {
 public:
  Seen(long channels, long pixels, const float* image, const float* logits)
      : channels_(channels), pixels_(pixels), image_(image), logits_(logits), error_(logits ? pixels : 0) {}
  long channels() const { return channels_ + (logits_ ? 1 : 0); }
  bool computed(long c) const { return c == channels_; }

  const float* plane(long b, long c) {
    if (!computed(c)) return image_ + (b * channels_ + c) * pixels_;
    for (long i = 0; i < pixels_; i += N) {
      const long at = b * pixels_ + i, n = pixels_ - i;
      store(error_.at(i), load(image_ + at, n) - sigmoid(load(logits_ + at, n)), n);
    }
    return error_.data();
  }

  // From the gradient of the error, which `plane` was last asked for, to that of the logits.
  void through_sigmoid(long b, float* grad) {
    for (long i = 0; i < pixels_; i += N) {
      const long n = pixels_ - i;
      const Vec p = load(image_ + b * pixels_ + i, n) - load(error_.at(i), n);
      store(grad + i, -load(grad + i, n) * p * (1.0f - p), n);
    }
  }

 private:
  long channels_, pixels_;
  const float *image_, *logits_;
  Buffer error_;
};

float dot(const float* a, const float* b, long padded) {
  Vec total = {};
  for (long i = 0; i < padded; i += N) total += load(a + i) * load(b + i);
  return sum(total);
}

// ---------------------------------------------------------------------------------------------------------------
// Bilinear samples at affine-warped points. An image lies with a border of zeros, L channels of a pixel together.

template <long L>
struct Lanes;
template <>
struct Lanes<1> {
  typedef float Type;
  static float total(float v) { return v; }
};
template <>
struct Lanes<4> {
  typedef Four Type;
  static float total(Four v) { return (v[0] + v[1]) + (v[2] + v[3]); }
};

struct Sampling {
  long in_height, in_width, height, width, stride, padded;
  Sampling(long ih, long iw, long h, long w)
      : in_height(ih), in_width(iw), height(h), width(w), stride(iw + 3), padded(round_up(w, N)) {}
  long cells() const { return (in_height + 3) * stride; }
  float base_y(long y) const { return (2 * y + 1) / float(height) - 1; }
};

// Where the pixels of one output row fall on the input: the upper left of four cells, and how far on from there.
class Row {
 public:
  explicit Row(const Sampling& s)
      : s_(s), storage_(8 * s.padded), fx(storage_.at(0)), fy(storage_.at(s.padded)), inside_x(storage_.at(2 * s.padded)),
        inside_y(storage_.at(3 * s.padded)), base_x(storage_.at(4 * s.padded)), gx(storage_.at(5 * s.padded)),
        gy(storage_.at(6 * s.padded)), index(reinterpret_cast<int32_t*>(storage_.at(7 * s.padded))) {
    for (long x = 0; x < s.width; ++x) base_x[x] = (2 * x + 1) / float(s.width) - 1;
  }

  void find(const float* m, float by) {
    for (long i = 0; i < s_.padded; i += N) {
      const Vec bx = load(base_x + i);
      IntVec x0, y0;
      along(m[0] * bx + (m[1] * by + m[2]), s_.in_width, fx + i, inside_x + i, x0);
      along(m[3] * bx + (m[4] * by + m[5]), s_.in_height, fy + i, inside_y + i, y0);
      const IntVec at = y0 * int32_t(s_.stride) + x0;
      std::memcpy(index + i, &at, sizeof at);
    }
  }

 private:
  // g in [-1, 1] -> the cell before it, counted from the border's, and the fraction beyond. Outside, all four cells
  // lie in the border. A NaN goes on through the fraction.
  static void along(Vec g, long size, float* fraction, float* inside, IntVec& before) {
    const Vec zero = {}, one = zero + 1.0f, last = zero + float(size + 1);
    Vec x = ((g + 1.0f) * float(size) - 1.0f) / 2.0f + 1.0f;
    store(inside, (x > zero) & (x < last) ? one : zero);
    x = x < zero ? zero : x;
    x = x > last ? last : x;
    before = __builtin_convertvector(x == x ? x : zero, IntVec);
    store(fraction, x - __builtin_convertvector(before, Vec));
  }

  const Sampling& s_;
  Buffer storage_;

 public:
  float *fx, *fy, *inside_x, *inside_y, *base_x, *gx, *gy;
  int32_t* index;
};

template <long L>
void bring(const Sampling& s, const float* image, float* cells) {
  for (long c = 0; c < L; ++c)
    for (long y = 0; y < s.in_height; ++y)
      for (long x = 0; x < s.in_width; ++x)
        cells[((y + 1) * s.stride + x + 1) * L + c] = image[(c * s.in_height + y) * s.in_width + x];
}

template <long L>
void sample(const Sampling& s, Row& row, const float* matrix, const float* cells_, float* out) {
  typedef typename Lanes<L>::Type T;
  const T* cells = reinterpret_cast<const T*>(cells_);
  for (long y = 0; y < s.height; ++y) {
    row.find(matrix, s.base_y(y));
    for (long x = 0; x < s.width; ++x) {
      const T* c = cells + row.index[x];
      const T top = c[0] + row.fx[x] * (c[1] - c[0]);
      const T bottom = c[s.stride] + row.fx[x] * (c[s.stride + 1] - c[s.stride]);
      const T value = top + row.fy[x] * (bottom - top);
      float lanes[L];
      std::memcpy(lanes, &value, sizeof value);
      for (long i = 0; i < L; ++i) out[(i * s.height + y) * s.width + x] = lanes[i];
    }
  }
}

// Adds to the gradients of the cells (if wanted) and of the matrix.
template <long L>
void sample_backward(const Sampling& s, Row& row, const float* matrix, const float* cells_, const float* grad,
                     float* grad_cells_, float* grad_matrix) {
  typedef typename Lanes<L>::Type T;
  const T* cells = reinterpret_cast<const T*>(cells_);
  T* grad_cells = reinterpret_cast<T*>(grad_cells_);
  Vec total[6] = {};
  for (long y = 0; y < s.height; ++y) {
    const float by = s.base_y(y);
    row.find(matrix, by);
    for (long x = 0; x < s.width; ++x) {
      const float fx = row.fx[x], fy = row.fy[x];
      float lanes[L];
      for (long i = 0; i < L; ++i) lanes[i] = grad[(i * s.height + y) * s.width + x];
      T g;
      std::memcpy(&g, lanes, sizeof g);
      const T* c = cells + row.index[x];
      const T right = c[1] - c[0], cross = (c[s.stride + 1] - c[s.stride]) - right;
      row.gx[x] = Lanes<L>::total(g * (right + fy * cross));
      row.gy[x] = Lanes<L>::total(g * ((c[s.stride] - c[0]) + fx * cross));
      if (grad_cells_) {
        T* into = grad_cells + row.index[x];
        const T low = g * fy, high = g - low, low_right = low * fx, high_right = high * fx;
        into[0] += high - high_right;
        into[1] += high_right;
        into[s.stride] += low - low_right;
        into[s.stride + 1] += low_right;
      }
    }
    for (long i = 0; i < s.width; i += N) {
      const long n = s.width - i;
      const Vec bx = load(row.base_x + i);
      const Vec gx = load(row.gx + i, n) * load(row.inside_x + i), gy = load(row.gy + i, n) * load(row.inside_y + i);
      total[0] += gx * bx;
      total[1] += gx * by;
      total[2] += gx;
      total[3] += gy * bx;
      total[4] += gy * by;
      total[5] += gy;
    }
  }
  for (long i = 0; i < 6; ++i) grad_matrix[i] += sum(total[i]) * (i < 3 ? s.in_width : s.in_height) / 2;
}

}  // namespace

extern "C" {

// A training step frees what the next allocates again. Given back to the system in between, it comes back page by page,
// zeroed.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, INT32_MAX);
#endif
}

// cell' = sigmoid(f) cell + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(cell'); gates [B,4D] in the order i, f, g, o.
// The gates' values take the place of what they are computed from: the backward pass wants them.
void lstm_forward(long batch, long hidden, long threads, float* gates, const float* cell, float* h, float* next) {
  share(batch, threads, [&](long first, long last, long) {
    for (long b = first; b < last; ++b) {
      float* gate = gates + b * 4 * hidden;
      for (long j = 0; j < hidden; j += N) {
        const long n = hidden - j;
        const Vec i = sigmoid(load(gate + j, n)), f = sigmoid(load(gate + hidden + j, n));
        const Vec g = hyperbolic_tangent(load(gate + 2 * hidden + j, n)), o = sigmoid(load(gate + 3 * hidden + j, n));
        const Vec c = f * load(cell + b * hidden + j, n) + i * g;
        store(next + b * hidden + j, c, n);
        store(h + b * hidden + j, o * hyperbolic_tangent(c), n);
        store(gate + j, i, n);
        store(gate + hidden + j, f, n);
        store(gate + 2 * hidden + j, g, n);
        store(gate + 3 * hidden + j, o, n);
      }
    }
  });
}

// `grad_h` and `grad_next` may be null.
void lstm_backward(long batch, long hidden, long threads, const float* gates, const float* cell, const float* next,
                   const float* grad_h, const float* grad_next, float* grad_gates, float* grad_cell) {
  share(batch, threads, [&](long first, long last, long) {
    for (long b = first; b < last; ++b) {
      const float* gate = gates + b * 4 * hidden;
      float* out = grad_gates + b * 4 * hidden;
      for (long j = 0; j < hidden; j += N) {
        const long n = hidden - j, at = b * hidden + j;
        const Vec i = load(gate + j, n), f = load(gate + hidden + j, n), g = load(gate + 2 * hidden + j, n);
        const Vec o = load(gate + 3 * hidden + j, n), t = hyperbolic_tangent(load(next + at, n));
        const Vec dh = grad_h ? load(grad_h + at, n) : Vec{};
        Vec dc = dh * o * (1.0f - t * t);
        if (grad_next) dc += load(grad_next + at, n);
        store(out + j, dc * g * i * (1.0f - i), n);
        store(out + hidden + j, dc * load(cell + at, n) * f * (1.0f - f), n);
        store(out + 2 * hidden + j, dc * i * (1.0f - g * g), n);
        store(out + 3 * hidden + j, dh * t * o * (1.0f - o), n);
        store(grad_cell + at, dc * f, n);
      }
    }
  });
}

// z = mean + sigma noise, [B,K] each: parameters [B,2K] hold the mean and log sigma, which is kept within [low, high].
void draw_forward(long batch, long latents, long threads, float low, float high, const float* parameters,
                  const float* noise, float* z, float* mean, float* log_std) {
  share(batch, threads, [&](long first, long last, long) {
    for (long b = first; b < last; ++b)
      for (long k = 0; k < latents; k += N) {
        const long n = latents - k, at = b * latents + k;
        const Vec m = load(parameters + b * 2 * latents + k, n);
        Vec l = load(parameters + b * 2 * latents + latents + k, n);
        l = l < low ? Vec{} + low : l;
        l = l > high ? Vec{} + high : l;
        store(mean + at, m, n);
        store(log_std + at, l, n);
        store(z + at, m + exponential(l) * load(noise + at, n), n);
      }
  });
}

// The gradients of z, the mean and log sigma may be null.
void draw_backward(long batch, long latents, long threads, float low, float high, const float* parameters,
                   const float* noise, const float* grad_z, const float* grad_mean, const float* grad_log_std,
                   float* grad_parameters) {
  share(batch, threads, [&](long first, long last, long) {
    for (long b = first; b < last; ++b)
      for (long k = 0; k < latents; k += N) {
        const long n = latents - k, at = b * latents + k, to = b * 2 * latents + k;
        const Vec l = load(parameters + to + latents, n), zero = {};
        const Vec gz = grad_z ? load(grad_z + at, n) : zero;
        Vec gm = gz, gl = gz * load(noise + at, n) * exponential(l);
        if (grad_mean) gm += load(grad_mean + at, n);
        if (grad_log_std) gl += load(grad_log_std + at, n);
        store(grad_parameters + to, gm, n);
        store(grad_parameters + to + latents, (l >= low) & (l <= high) ? gl : zero, n);
      }
  });
}

// KL[N(mean, sigma) || N(0, 1)] in nats, summed over each of `rows` rows of `latents`.
void kl_forward(long rows, long latents, long threads, const float* mean, const float* log_std, float* kl) {
  share(rows, threads, [&](long first, long last, long) {
    for (long r = first; r < last; ++r) {
      Vec total = {};
      for (long k = 0; k < latents; k += N) {
        const long n = latents - k;
        const Vec m = load(mean + r * latents + k, n), l = 2.0f * load(log_std + r * latents + k, n);
        total += m * m + (exponential(l) - 1.0f - l);  // nothing beyond the last: e^0 - 1 - 0
      }
      kl[r] = 0.5f * sum(total);
    }
  });
}

void kl_backward(long rows, long latents, long threads, const float* mean, const float* log_std, const float* grad,
                 float* grad_mean, float* grad_log_std) {
  share(rows, threads, [&](long first, long last, long) {
    for (long r = first; r < last; ++r)
      for (long k = 0; k < latents; k += N) {
        const long n = latents - k, at = r * latents + k;
        store(grad_mean + at, grad[r] * load(mean + at, n), n);
        store(grad_log_std + at, grad[r] * (exponential(2.0f * load(log_std + at, n)) - 1.0f), n);
      }
  });
}

// Floats of `kept` for one image: the planes s, update, reset and candidate as the backward pass wants them.
long cgru_kept(long channels, long height, long width) { return 4 * channels * Plane(height, width).size; }

// CGRU(s) of eq. 10 (see GatedCanvas): s, next [B,C,H,W], gates' weight [2C,C,3,3], candidate's [C,C,3,3].
void cgru_forward(long batch, long channels, long height, long width, long threads, const float* s_, const float* gates_w,
                  const float* gates_b, const float* candidate_w, const float* candidate_b, float* next, float* kept) {
  const Plane plane(height, width);
  const long image = channels * height * width, block = channels * plane.size;
  const auto gates_packed = pack(gates_w, 2 * channels, channels, false);
  const auto candidate_packed = pack(candidate_w, channels, channels, false);
  share(batch, threads, [&](long first, long last, long) {
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
  share(batch, threads, [&](long first, long last, long thread) {
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

// Floats of `filters` for one image.
long bank_kept(long size, long height, long width) { return Bank(size, height, width).floats(); }

// gamma F_Y x F_X^T (DRAW eq. 27): parameters [B,5], image [B,C,H,W] -> glimpse [B,C,P,P]; keeps the filters. With
// `logits` [B,1,H,W] the image is [B,1,H,W], and a second channel is read: image - sigmoid(logits).
void gaussian_read_forward(long batch, long channels, long height, long width, long size, long threads,
                           const float* parameters, const float* image, const float* logits, float* glimpse,
                           float* kept) {
  const Bank bank(size, height, width);
  share(batch, threads, [&](long first, long last, long) {
    Buffer rows(size * bank.columns);
    Seen seen(channels, height * width, image, logits);
    for (long b = first; b < last; ++b) {
      const Window window(bank, parameters + b * 5);
      float* filter = kept + b * bank.floats();
      make_bank(bank, window, filter);
      const float* filter_x = filter + size * bank.rows;
      for (long c = 0; c < seen.channels(); ++c) {
        rows_of(bank, filter, seen.plane(b, c), rows.data());
        float* out = glimpse + (b * seen.channels() + c) * size * size;
        for (long p = 0; p < size; ++p)
          for (long q = 0; q < size; ++q)
            out[p * size + q] =
                window.gamma * dot(rows.at(p * bank.columns), filter_x + q * bank.columns, bank.columns);
      }
    }
  });
}

// `grad_image` and `grad_logits` may be null; with `logits`, `grad_image` is of the first channel alone.
void gaussian_read_backward(long batch, long channels, long height, long width, long size, long threads,
                            const float* parameters, const float* image, const float* logits, const float* kept,
                            const float* grad, float* grad_parameters, float* grad_image, float* grad_logits) {
  const Bank bank(size, height, width);
  share(batch, threads, [&](long first, long last, long) {
    Buffer rows(size * bank.columns), d_rows(size * bank.columns), d_filter(bank.floats());
    Seen seen(channels, height * width, image, logits);
    for (long b = first; b < last; ++b) {
      const Window window(bank, parameters + b * 5);
      const float* filter_y = kept + b * bank.floats();
      const float* filter_x = filter_y + size * bank.rows;
      float* d_y = d_filter.data();
      float* d_x = d_filter.at(size * bank.rows);
      std::memset(d_y, 0, 4 * bank.floats());
      float d_gamma = 0;
      for (long c = 0; c < seen.channels(); ++c) {
        const float* x = seen.plane(b, c);
        const float* g = grad + (b * seen.channels() + c) * size * size;
        rows_of(bank, filter_y, x, rows.data());
        for (long p = 0; p < size; ++p)
          for (long q = 0; q < size; ++q)
            d_gamma += g[p * size + q] * dot(rows.at(p * bank.columns), filter_x + q * bank.columns, bank.columns);
        for (long p = 0; p < size; ++p)
          for (long i = 0; i < bank.columns; i += N) {
            Vec total = {};
            const Vec row = load(rows.at(p * bank.columns + i));
            for (long q = 0; q < size; ++q) {
              const float scaled = g[p * size + q] * window.gamma;
              total += scaled * load(filter_x + q * bank.columns + i);
              float* d = d_x + q * bank.columns + i;
              store(d, load(d) + scaled * row);
            }
            store(d_rows.at(p * bank.columns + i), total);
          }
        columns_of(bank, d_rows.data(), x, d_y);
        float* back = seen.computed(c) ? grad_logits : grad_image;
        if (!back) continue;
        back += seen.computed(c) ? b * height * width : (b * channels + c) * height * width;
        for (long y = 0; y < height; ++y)
          for (long i = 0; i < bank.columns; i += N) {
            Vec total = {};
            for (long p = 0; p < size; ++p)
              total += filter_y[p * bank.rows + y] * load(d_rows.at(p * bank.columns + i));
            store_pixels(bank, back, y, i, total);
          }
        if (seen.computed(c)) seen.through_sigmoid(b, back);
      }
      bank_backward(bank, window, filter_y, d_filter.data(), d_gamma, grad_parameters + b * 5);
    }
  });
}

// (1 / gamma) F_Y^T w F_X (DRAW eq. 29): parameters [B,5], sprite w [B,C,P,P] -> [B,C,H,W]; keeps the filters.
void gaussian_write_forward(long batch, long channels, long height, long width, long size, long threads,
                            const float* parameters, const float* sprite, float* written, float* kept) {
  const Bank bank(size, height, width);
  share(batch, threads, [&](long first, long last, long) {
    Buffer rows(size * bank.columns);
    for (long b = first; b < last; ++b) {
      const Window window(bank, parameters + b * 5);
      float* filter_y = kept + b * bank.floats();
      make_bank(bank, window, filter_y);
      const float* filter_x = filter_y + size * bank.rows;
      const float inverse = 1.0f / window.gamma;
      for (long c = 0; c < channels; ++c) {
        const float* w = sprite + (b * channels + c) * size * size;
        sprite_rows(bank, w, inverse, filter_x, rows.data());
        float* out = written + (b * channels + c) * height * width;
        for (long y = 0; y < height; ++y)
          for (long i = 0; i < bank.columns; i += N) {
            Vec total = {};
            for (long p = 0; p < size; ++p) total += filter_y[p * bank.rows + y] * load(rows.at(p * bank.columns + i));
            store_pixels(bank, out, y, i, total);
          }
      }
    }
  });
}

void gaussian_write_backward(long batch, long channels, long height, long width, long size, long threads,
                             const float* parameters, const float* sprite, const float* kept, const float* grad,
                             float* grad_parameters, float* grad_sprite) {
  const Bank bank(size, height, width);
  share(batch, threads, [&](long first, long last, long) {
    Buffer rows(size * bank.columns), d_rows(size * bank.columns), d_filter(bank.floats());
    for (long b = first; b < last; ++b) {
      const Window window(bank, parameters + b * 5);
      const float* filter_y = kept + b * bank.floats();
      const float* filter_x = filter_y + size * bank.rows;
      const float inverse = 1.0f / window.gamma;
      float* d_y = d_filter.data();
      float* d_x = d_filter.at(size * bank.rows);
      std::memset(d_y, 0, 4 * bank.floats());
      float d_inverse = 0;
      for (long c = 0; c < channels; ++c) {
        const float* w = sprite + (b * channels + c) * size * size;
        const float* g = grad + (b * channels + c) * height * width;
        sprite_rows(bank, w, inverse, filter_x, rows.data());
        rows_of(bank, filter_y, g, d_rows.data());
        columns_of(bank, rows.data(), g, d_y);
        for (long p = 0; p < size; ++p)
          for (long q = 0; q < size; ++q) {
            const float d = dot(d_rows.at(p * bank.columns), filter_x + q * bank.columns, bank.columns);
            grad_sprite[((b * channels + c) * size + p) * size + q] = d * inverse;
            d_inverse += d * w[p * size + q];
            for (long i = 0; i < bank.columns; i += N) {
              float* into = d_x + q * bank.columns + i;
              store(into, load(into) + (w[p * size + q] * inverse) * load(d_rows.at(p * bank.columns + i)));
            }
          }
      }
      bank_backward(bank, window, filter_y, d_filter.data(), -d_inverse * inverse * inverse,
                    grad_parameters + b * 5);
    }
  });
}

// ST(x, lambda): image [B,C,h,w], matrix [B,2,3] -> [B,C,height,width], as grid_sample(affine_grid) gives it
// (bilinear, zeros outside, align_corners=False).
void affine_forward(long batch, long channels, long in_height, long in_width, long height, long width, long threads,
                    const float* image, const float* matrix, float* out) {
  const Sampling s(in_height, in_width, height, width);
  const long in_plane = in_height * in_width, out_plane = height * width;
  share(batch, threads, [&](long first, long last, long) {
    Buffer four(4 * s.cells()), one(s.cells());
    Row row(s);
    for (long b = first; b < last; ++b)
      for (long c = 0; c < channels;) {
        const float* from = image + (b * channels + c) * in_plane;
        float* to = out + (b * channels + c) * out_plane;
        if (channels - c >= 4) {
          bring<4>(s, from, four.data());
          sample<4>(s, row, matrix + b * 6, four.data(), to);
          c += 4;
        } else {
          bring<1>(s, from, one.data());
          sample<1>(s, row, matrix + b * 6, one.data(), to);
          c += 1;
        }
      }
  });
}

// `grad_image` may be null.
void affine_backward(long batch, long channels, long in_height, long in_width, long height, long width, long threads,
                     const float* image, const float* matrix, const float* grad, float* grad_image,
                     float* grad_matrix) {
  const Sampling s(in_height, in_width, height, width);
  const long in_plane = in_height * in_width, out_plane = height * width;
  share(batch, threads, [&](long first, long last, long) {
    Buffer cells(4 * s.cells()), single(s.cells()), grads(4 * s.cells());
    Row row(s);
    for (long b = first; b < last; ++b) {
      std::fill_n(grad_matrix + b * 6, 6, 0.0f);
      for (long c = 0; c < channels;) {
        const long lanes = channels - c >= 4 ? 4 : 1;
        const float* from = image + (b * channels + c) * in_plane;
        const float* g = grad + (b * channels + c) * out_plane;
        float* back = grad_image ? grads.data() : nullptr;
        if (back) std::memset(back, 0, 4 * lanes * s.cells());
        if (lanes == 4) {
          bring<4>(s, from, cells.data());
          sample_backward<4>(s, row, matrix + b * 6, cells.data(), g, back, grad_matrix + b * 6);
        } else {
          bring<1>(s, from, single.data());
          sample_backward<1>(s, row, matrix + b * 6, single.data(), g, back, grad_matrix + b * 6);
        }
        if (back)
          for (long i = 0; i < lanes; ++i)
            for (long y = 0; y < in_height; ++y)
              for (long x = 0; x < in_width; ++x)
                grad_image[(b * channels + c + i) * in_plane + y * in_width + x] =
                    back[((y + 1) * s.stride + x + 1) * lanes + i];
        c += lanes;
      }
    }
  });
}

}  // extern "C"
