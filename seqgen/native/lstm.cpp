// The elementwise part of an LSTM (seqgen/ops/lstm_cell.py).

#include "vectors.h"

extern "C" {

// cell' = sigmoid(f) cell + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(cell'); gates [B,4D] in the order i, f, g, o.
// The gates' values take the place of what they are computed from: the backward pass wants them.
void lstm_forward(long batch, long hidden, long threads, float* gates, const float* cell, float* h, float* next) {
  in_blocks(batch, threads, [&](long first, long last, long) {
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
void lstm_backward(long batch, long hidden, long threads, const float* values, const float* cell, const float* next,
                   const float* grad_h, const float* grad_next, float* grad_gates, float* grad_cell) {
  in_blocks(batch, threads, [&](long first, long last, long) {
    for (long b = first; b < last; ++b) {
      const float* gate = values + b * 4 * hidden;
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

}  // extern "C"
