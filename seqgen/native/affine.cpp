// Bilinear samples at affine-warped points (seqgen/ops/affine.py). An image lies with a border of zeros, L channels of a
// pixel together.

#include "vectors.h"

namespace {

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

// ST(x, lambda): image [B,C,h,w], matrix [B,2,3] -> [B,C,height,width], as grid_sample(affine_grid) gives it
// (bilinear, zeros outside, align_corners=False).
void affine_forward(long batch, long channels, long in_height, long in_width, long height, long width, long threads,
                    const float* image, const float* matrix, float* out) {
  const Sampling s(in_height, in_width, height, width);
  const long in_plane = in_height * in_width, out_plane = height * width;
  in_blocks(batch, threads, [&](long first, long last, long) {
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
  in_blocks(batch, threads, [&](long first, long last, long) {
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
