// The micro-kernel: a block of rows times a few panels, kept in registers from the first input to the activation.
//
// It knows nothing of adapters, tiles or threads. Each output is one chain of fused multiply-adds over the inputs of the
// first operand pair and then over those of the second, started from zero or from a given row.
#pragma once

#include <utility>

#include "plan.hpp"

namespace espalier {

enum class Finish {
  keep,      // c = sum
  add_bias,  // c = sum + bias
  activate,  // c = relu(sum * scale + bias), in the form of an input
  activate_last,  // the same in float32
};

// One block: c (rows, 16 vecs) from a (rows, k) b (k, 16 vecs) + a2 (rows, k2) b2 (k2, 16 vecs); k and k2 in steps.
struct Product {
  const float* a;
  long a_stride;
  const float* b;    // first panel, at the first input
  long b_stride;     // from one panel to the next
  int k;
  const float* a2;
  long a2_stride;
  const float* b2;
  long b2_stride;
  int k2;            // 0: there is no second pair
  const float* start;  // [16 vecs] where the first row's chain begins, or nullptr for zero
  long start_stride;   // to the next row's; 0: all begin there
  const float* scale;  // [16 vecs]
  const float* bias;   // [16 vecs]
  float* c;
  long c_stride;
  Finish finish;
};

template <class Vec, int Rows, int Vecs>
struct Accumulators {
  Vec at[Rows][Vecs];
};

// f(0), f(1), ... f(N - 1) with constants: an index known only at run time would move the accumulators to memory.
template <int N, class F>
[[gnu::always_inline]] inline void each(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f.template operator()<I>(), ...);
  }(std::make_integer_sequence<int, N>{});
}

// Row addresses come from every third row and two offsets: one pointer a row would not fit the registers.
template <class Form, class Vec, int Rows, int Vecs>
[[gnu::always_inline]] inline void accumulate(Accumulators<Vec, Rows, Vecs>& sums, const float* a, long a_stride,
                                              const float* b, long b_stride, int k) {
  const float* bases[(Rows + 2) / 3];
  each<(Rows + 2) / 3>([&]<int I>() __attribute__((always_inline)) { bases[I] = a + 3 * I * a_stride; });
  for (int i = 0; i < k; ++i) {
    Vec weights[Vecs];
    each<Vecs>([&]<int V>() __attribute__((always_inline)) { weights[V] = Vec::load(b + V * b_stride); });
    b += kLanes;
    each<Rows>([&]<int R>() __attribute__((always_inline)) {
      const Vec input = Vec::all(bases[R / 3][i + (R % 3) * a_stride]);
      each<Vecs>([&]<int V>() __attribute__((always_inline)) {
        sums.at[R][V] = Form::step(input, weights[V], sums.at[R][V]);
      });
    });
  }
}

// Form: how inputs are held. It has a Vec, step(inputs, weights, sum), and store(activations, where, vector); and its
// own `product`, which is this one unless its processor has better.
template <class Form, int Rows, int Vecs>
void product(const Product& p) {
  using Vec = typename Form::Vec;
  Accumulators<Vec, Rows, Vecs> sums;
  each<Vecs>([&]<int V>() __attribute__((always_inline)) {
    each<Rows>([&]<int R>() __attribute__((always_inline)) {
      sums.at[R][V] = p.start == nullptr ? Vec::zero() : Vec::load(p.start + R * p.start_stride + V * kLanes);
    });
  });
  accumulate<Form>(sums, p.a, p.a_stride, p.b, p.b_stride, p.k);
  if (p.k2 > 0) accumulate<Form>(sums, p.a2, p.a2_stride, p.b2, p.b2_stride, p.k2);
  each<Vecs>([&]<int V>() __attribute__((always_inline)) {
    Vec scale = Vec::zero(), bias = Vec::zero();
    const bool active = p.finish == Finish::activate || p.finish == Finish::activate_last;
    if (active) scale = Vec::load(p.scale + V * kLanes);
    if (p.finish != Finish::keep) bias = Vec::load(p.bias + V * kLanes);
    each<Rows>([&]<int R>() __attribute__((always_inline)) {
      Vec sum = sums.at[R][V];
      if (p.finish == Finish::add_bias) sum = add(sum, bias);
      if (active) sum = max(Vec::zero(), fma(sum, scale, bias));
      float* const row = p.c + R * p.c_stride;
      if (p.finish == Finish::activate) {
        Form::store(sum, row, V);
      } else {
        sum.store(row + V * kLanes);
      }
    });
  });
}

// Inputs in float32.
template <class V>
struct Single {
  using Vec = V;
  static constexpr Precision precision = Precision::single;
  [[gnu::always_inline]] static Vec step(Vec inputs, Vec weights, Vec sum) { return fma(inputs, weights, sum); }
  [[gnu::always_inline]] static void store(Vec activations, float* row, int vector) {
    activations.store(row + vector * kLanes);
  }
  // Floats from `first` to `end` of a row to steps, in place.
  static void narrow(float*, int, int) {}
  template <int Rows, int Vecs>
  static void product(const Product& p) {
    espalier::product<Single, Rows, Vecs>(p);
  }
};

using ProductFunction = void (*)(const Product&);

// Functions for 1 to MaxRows rows.
template <int MaxRows>
struct ProductTable {
  ProductFunction of[MaxRows];
};

template <class Form, int MaxRows, int Vecs>
constexpr ProductTable<MaxRows> product_table() {
  return []<int... R>(std::integer_sequence<int, R...>) {
    return ProductTable<MaxRows>{{&Form::template product<R + 1, Vecs>...}};
  }(std::make_integer_sequence<int, MaxRows>{});
}

}  // namespace espalier
