// DRAW's grid of Gaussian filters: reading and writing through it (seqgen/ops/filterbank.py).

#include "vectors.h"

namespace {

// The pixels of a side from `first` on, which DRAW counts from 1.
inline Vec pixels_from(long first) {
  Vec up;
  for (long i = 0; i < N; ++i) up[i] = float(first + i + 1);
  return up;
}

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

float dot(const float* a, const float* b, long padded) {
  Vec total = {};
  for (long i = 0; i < padded; i += N) total += load(a + i) * load(b + i);
  return sum(total);
}

}  // namespace

extern "C" {

// Floats of `filters` for one image.
long filterbank_kept(long size, long height, long width) { return Bank(size, height, width).floats(); }

// gamma F_Y x F_X^T (DRAW eq. 27): parameters [B,5], image [B,C,H,W] -> glimpse [B,C,P,P]; keeps the filters.
void filterbank_read_forward(long batch, long channels, long height, long width, long size, long threads,
                           const float* parameters, const float* image, float* glimpse, float* kept) {
  const Bank bank(size, height, width);
  in_blocks(batch, threads, [&](long first, long last, long) {
    Buffer rows(size * bank.columns);
    for (long b = first; b < last; ++b) {
      const Window window(bank, parameters + b * 5);
      float* filter = kept + b * bank.floats();
      make_bank(bank, window, filter);
      const float* filter_x = filter + size * bank.rows;
      for (long c = 0; c < channels; ++c) {
        rows_of(bank, filter, image + (b * channels + c) * height * width, rows.data());
        float* out = glimpse + (b * channels + c) * size * size;
        for (long p = 0; p < size; ++p)
          for (long q = 0; q < size; ++q)
            out[p * size + q] =
                window.gamma * dot(rows.at(p * bank.columns), filter_x + q * bank.columns, bank.columns);
      }
    }
  });
}

// `grad_image` may be null.
void filterbank_read_backward(long batch, long channels, long height, long width, long size, long threads,
                            const float* parameters, const float* image, const float* kept, const float* grad,
                            float* grad_parameters, float* grad_image) {
  const Bank bank(size, height, width);
  in_blocks(batch, threads, [&](long first, long last, long) {
    Buffer rows(size * bank.columns), d_rows(size * bank.columns), d_filter(bank.floats());
    for (long b = first; b < last; ++b) {
      const Window window(bank, parameters + b * 5);
      const float* filter_y = kept + b * bank.floats();
      const float* filter_x = filter_y + size * bank.rows;
      float* d_y = d_filter.data();
      float* d_x = d_filter.at(size * bank.rows);
      std::memset(d_y, 0, 4 * bank.floats());
      float d_gamma = 0;
      for (long c = 0; c < channels; ++c) {
        const float* x = image + (b * channels + c) * height * width;
        const float* g = grad + (b * channels + c) * size * size;
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
        if (!grad_image) continue;
        float* back = grad_image + (b * channels + c) * height * width;
        for (long y = 0; y < height; ++y)
          for (long i = 0; i < bank.columns; i += N) {
            Vec total = {};
            for (long p = 0; p < size; ++p)
              total += filter_y[p * bank.rows + y] * load(d_rows.at(p * bank.columns + i));
            store_pixels(bank, back, y, i, total);
          }
      }
      bank_backward(bank, window, filter_y, d_filter.data(), d_gamma, grad_parameters + b * 5);
    }
  });
}

// (1 / gamma) F_Y^T w F_X (DRAW eq. 29): parameters [B,5], sprite w [B,C,P,P] -> [B,C,H,W]; keeps the filters.
void filterbank_write_forward(long batch, long channels, long height, long width, long size, long threads,
                            const float* parameters, const float* sprite, float* written, float* kept) {
  const Bank bank(size, height, width);
  in_blocks(batch, threads, [&](long first, long last, long) {
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

void filterbank_write_backward(long batch, long channels, long height, long width, long size, long threads,
                             const float* parameters, const float* sprite, const float* kept, const float* grad,
                             float* grad_parameters, float* grad_sprite) {
  const Bank bank(size, height, width);
  in_blocks(batch, threads, [&](long first, long last, long) {
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

}  // extern "C"
