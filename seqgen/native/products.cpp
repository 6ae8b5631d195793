// The matrix products of a layer that is applied once a step (seqgen/ops/products.py).
//
// The weights are packed once for all steps as the innermost loop reads them, the inputs may lie in several parts, and the
// weights' gradient is added up in place. A tile of ROWS x WIDTH sums stays in the registers over the whole depth;
// a sum of outputs or of their inputs' gradients is added up in the same order whatever the batch, and every sum whatever
// the number of threads.

#include <utility>

#include "vectors.h"

namespace {

// As many sums as the registers hold beside what they are made of.
constexpr long ROWS = REGISTERS >= 32 ? 12 : 6, VECTORS = 2;
constexpr long WIDTH = VECTORS * N;
constexpr long BLOCK = 10 * ROWS;  // images at a time, so that what is laid out of them stays in the second cache
constexpr long DEPTH = 1024;        // rows that are added up before a weight's gradient is touched
constexpr long FEW = 16;           // of them handed out to tiles and panels while they are in the first cache

long panels(long columns) { return (columns + WIDTH - 1) / WIDTH; }
long tiles(long rows) { return (rows + ROWS - 1) / ROWS; }

// n floats will soon be written.
inline void expect(float* p, long n) {
  for (long i = 0; i < n; i += N) __builtin_prefetch(p + i, 1);
}

// Copy n floats, most often `usual`.
template <long usual>
inline void copy(const float* from, long n, float* to) {
  if (n == usual)
    std::memcpy(to, from, 4 * usual);
  else
    std::memcpy(to, from, 4 * n);
}

// out[r, c] = sum_k left[k, r] right[k, c], r < rows, c < WIDTH; meanwhile fetches `step` floats a k from `ahead` on.
template <long rows>
void tile(long depth, const float* left, const float* right, const float* ahead, long step, float* out) {
  Vec sums[rows][VECTORS] = {};
  for (long k = 0; k < depth; ++k, left += rows, right += WIDTH, ahead += step) {
    __builtin_prefetch(ahead, 0, 2);
    Vec x[VECTORS];
    for (long v = 0; v < VECTORS; ++v) x[v] = load(right + v * N);
    for (long r = 0; r < rows; ++r)
      for (long v = 0; v < VECTORS; ++v) sums[r][v] += left[r] * x[v];
  }
  for (long r = 0; r < rows; ++r)
    for (long v = 0; v < VECTORS; ++v) store(out + r * WIDTH + v * N, sums[r][v]);
}

typedef void (*Tile)(long, const float*, const float*, const float*, long, float*);

template <long... rows>
Tile tile_of(long count, std::integer_sequence<long, rows...>) {
  static const Tile all[] = {tile<rows + 1>...};
  return all[count - 1];
}

// left: tiles of rows, [depth, rows of the tile] each, none empty; right: panels, [depth, WIDTH] each.
// Calls take(row, first column, columns, sums) with every row of every tile, and fetch(row, first column, columns) for
// them before the tile is computed, which takes longer than the memory that they go to needs to come near.
template <class Fetch, class Take>
void multiply(long rows, long columns, long depth, long threads, const float* left, const float* right,
              const Fetch& fetch, const Take& take) {
  // While the tiles of one panel are computed, the next panel comes into the cache.
  const long count = tiles(rows), step = (WIDTH + count - 1) / std::max(count, 1L);
  in_blocks(panels(columns), threads, [&](long first, long last, long) {
    alignas(BYTES) float out[ROWS * WIDTH];
    for (long panel = first; panel < last; ++panel)
      for (long t = 0; t < count; ++t) {
        const long row = rows * t / count, height = rows * (t + 1) / count - row;
        const long column = panel * WIDTH, width = std::min(WIDTH, columns - column);
        for (long r = 0; r < height; ++r) fetch(row + r, column, width);
        const float* now = right + column * depth;
        tile_of(height, std::make_integer_sequence<long, ROWS>())(
            depth, left + row * depth, now, now + (WIDTH + t * step) * depth, step, out);
        for (long r = 0; r < height; ++r) take(row + r, column, width, out + r * WIDTH);
      }
  });
}

// Arrays [B, width] that stand side by side; Float is const where they are read only. An array may be null.
template <class Float>
struct Parts {
  long count;
  const long* width;
  Float* const* array;

  long total() const {
    long sum = 0;
    for (long i = 0; i < count; ++i) sum += width[i];
    return sum;
  }

  // Calls at(pointer, number of floats, where they stand) for the columns [first, last) of row b, part by part.
  template <class At>
  void visit(long b, long first, long last, const At& at) const {
    for (long i = 0, begin = 0; i < count; begin += width[i], ++i) {
      const long from = std::max(first, begin), to = std::min(last, begin + width[i]);
      if (from < to && array[i]) at(array[i] + b * width[i] + (from - begin), to - from, from);
    }
  }
};

// Rows [first, first + rows) as `multiply` wants them on the left: tiles of [column, row].
void pack_left(const Parts<const float>& parts, long first, long rows, long threads, float* out) {
  const long depth = parts.total(), count = tiles(rows);
  in_blocks(count, threads, [&](long from, long to, long) {
    for (long t = from; t < to; ++t) {
      const long row = rows * t / count, height = rows * (t + 1) / count - row;
      for (long r = 0; r < height; ++r)
        parts.visit(first + row + r, 0, depth, [&](const float* p, long n, long at) {
          float* column = out + row * depth + at * height + r;
          for (long k = 0; k < n; ++k) column[k * height] = p[k];
        });
    }
  });
}

}  // namespace

extern "C" {

// Floats of a layer's packed weights [outputs, inputs], for a product over `inputs`.
long linear_packed(long outputs, long inputs) { return panels(outputs) * WIDTH * inputs; }

// Pack weights [O,I], rows `stride` apart: for the product over I, and, if not null, for the one over O.
void linear_pack(long outputs, long inputs, long stride, const float* weight, float* forward, float* backward) {
  for (long o = 0; o < outputs; o += WIDTH) {
    float* panel = forward + o * inputs;
    for (long k0 = 0; k0 < inputs; k0 += N)
      for (long c = 0; c < WIDTH; ++c)
        for (long k = k0; k < std::min(k0 + N, inputs); ++k)
          panel[k * WIDTH + c] = o + c < outputs ? weight[(o + c) * stride + k] : 0.0f;
  }
  if (!backward) return;
  for (long i = 0; i < inputs; i += WIDTH) {
    const long columns = std::min(WIDTH, inputs - i);
    float* panel = backward + i * outputs;
    for (long k = 0; k < outputs; ++k) {
      std::memcpy(panel + k * WIDTH, weight + k * stride + i, 4 * columns);
      std::memset(panel + k * WIDTH + columns, 0, 4 * (WIDTH - columns));
    }
  }
}

// y = x W^T + b: x [B,I] in `count` parts, W packed, y [B,O]; `bias` may be null.
void linear_forward(long batch, long outputs, long count, long threads, const long* widths, const float* const* parts,
                    const float* forward, const float* bias, float* y) {
  const Parts<const float> x{count, widths, parts};
  Scratch left(std::min(batch, BLOCK) * x.total());
  const long blocks = (batch + BLOCK - 1) / BLOCK;
  for (long i = 0; i < blocks; ++i) {
    const long b = batch * i / blocks, rows = batch * (i + 1) / blocks - b;
    pack_left(x, b, rows, threads, left.data());
    multiply(rows, outputs, x.total(), threads, left.data(), forward,
             [&](long row, long column, long columns) { expect(y + (b + row) * outputs + column, columns); },
             [&](long row, long column, long columns, const float* sums) {
               for (long v = 0; v < columns; v += N) {
                 Vec value = load(sums + v);
                 if (bias) value += load(bias + column + v, columns - v);
                 store(y + (b + row) * outputs + column + v, value, columns - v);
               }
             });
  }
}

// x's gradient, grad W: grad [B,O], W packed; a part that is null is left out.
void linear_backward(long batch, long outputs, long count, long threads, const long* widths, const float* grad,
                     const float* backward, float* const* grad_parts) {
  const Parts<float> x{count, widths, grad_parts};
  const Parts<const float> y{1, &outputs, &grad};
  Scratch left(std::min(batch, BLOCK) * outputs);
  const long blocks = (batch + BLOCK - 1) / BLOCK;
  for (long i = 0; i < blocks; ++i) {
    const long b = batch * i / blocks, rows = batch * (i + 1) / blocks - b;
    pack_left(y, b, rows, threads, left.data());
    multiply(rows, x.total(), outputs, threads, left.data(), backward,
             [&](long row, long column, long columns) {
               x.visit(b + row, column, column + columns, [&](float* p, long n, long) { expect(p, n); });
             },
             [&](long row, long column, long columns, const float* sums) {
               x.visit(b + row, column, column + columns,
                       [&](float* p, long n, long at) { copy<WIDTH>(sums + at - column, n, p); });
             });
  }
}

// Add W's gradient, the sum of grad^T x over `steps` steps, and b's to `total` [O,I] and `bias` [O]. `x` holds
// `count` parts a step, `grad` [B,O] one array.
void linear_gradient(long steps, long batch, long outputs, long count, long threads, const long* widths,
                     const float* const* x, const float* const* grad, float* total, float* bias) {
  const long inputs = Parts<const float>{count, widths, x}.total(), heights = tiles(outputs);
  const long together = std::max(1L, DEPTH / std::max(batch, 1L)), block = std::min(batch, DEPTH);
  std::vector<const float*> rows_y(together * block);
  std::vector<std::pair<long, long>> rows_x(together * block);  // step and image
  Scratch left(together * block * outputs), right(together * block * panels(inputs) * WIDTH);
  for (long from = 0; from < steps; from += together)
    for (long b = 0; b < batch; b += block) {
      const long images = std::min(block, batch - b), depth = std::min(together, steps - from) * images;
      for (long k = 0; k < depth; ++k) {
        const long step = from + k / images, image = b + k % images;
        rows_y[k] = grad[step] + image * outputs;
        rows_x[k] = {step, image};
      }
      in_blocks(heights, threads, [&](long first, long last, long) {
        for (long k0 = 0; k0 < depth; k0 += FEW)
          for (long t = first; t < last; ++t) {
            const long row = outputs * t / heights, height = outputs * (t + 1) / heights - row;
            for (long k = k0; k < std::min(k0 + FEW, depth); ++k)
              copy<ROWS>(rows_y[k] + row, height, left.data() + row * depth + k * height);
          }
      });
      in_blocks(panels(inputs), threads, [&](long first, long last, long) {
        for (long k0 = 0; k0 < depth; k0 += FEW)
          for (long panel = first; panel < last; ++panel) {
            const long column = panel * WIDTH, columns = std::min(WIDTH, inputs - column);
            for (long k = k0; k < std::min(k0 + FEW, depth); ++k) {
              float* to = right.data() + column * depth + k * WIDTH;
              const auto [step, image] = rows_x[k];
              const Parts<const float> parts{count, widths, x + count * step};
              parts.visit(image, column, column + columns,
                          [&](const float* p, long n, long at) { copy<WIDTH>(p, n, to + at - column); });
              std::memset(to + columns, 0, 4 * (WIDTH - columns));
            }
          }
      });
      multiply(outputs, inputs, depth, threads, left.data(), right.data(),
               [&](long row, long column, long columns) { expect(total + row * inputs + column, columns); },
               [&](long row, long column, long columns, const float* tile) {
                 for (long v = 0; v < columns; v += N) {
                   float* to = total + row * inputs + column + v;
                   store(to, load(to, columns - v) + load(tile + v), columns - v);
                 }
               });
      Buffer sums(round_up(outputs, N));
      for (long k = 0; k < depth; ++k)
        for (long o = 0; o < outputs; o += N)
          store(sums.at(o), load(sums.at(o)) + load(rows_y[k] + o, outputs - o));
      for (long o = 0; o < outputs; ++o) bias[o] += sums.data()[o];
    }
}

}  // extern "C"
