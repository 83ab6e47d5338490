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
  activate,  // c = relu(sum * scale + bias)
};

// One block: c (rows, 16 vecs) from a (rows, k) b (k, 16 vecs) + a2 (rows, k2) b2 (k2, 16 vecs).
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
  const float* start;  // [16 vecs] where every row's chain begins, or nullptr for zero
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
template <class Vec, int Rows, int Vecs>
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
        sums.at[R][V] = fma(input, weights[V], sums.at[R][V]);
      });
    });
  }
}

template <class Vec, int Rows, int Vecs>
void product(const Product& p) {
  Accumulators<Vec, Rows, Vecs> sums;
  each<Vecs>([&]<int V>() __attribute__((always_inline)) {
    const Vec first = p.start == nullptr ? Vec::zero() : Vec::load(p.start + V * kLanes);
    each<Rows>([&]<int R>() __attribute__((always_inline)) { sums.at[R][V] = first; });
  });
  accumulate(sums, p.a, p.a_stride, p.b, p.b_stride, p.k);
  if (p.k2 > 0) accumulate(sums, p.a2, p.a2_stride, p.b2, p.b2_stride, p.k2);
  each<Vecs>([&]<int V>() __attribute__((always_inline)) {
    Vec scale = Vec::zero(), bias = Vec::zero();
    if (p.finish == Finish::activate) scale = Vec::load(p.scale + V * kLanes);
    if (p.finish != Finish::keep) bias = Vec::load(p.bias + V * kLanes);
    each<Rows>([&]<int R>() __attribute__((always_inline)) {
      Vec sum = sums.at[R][V];
      if (p.finish == Finish::add_bias) sum = add(sum, bias);
      if (p.finish == Finish::activate) sum = max(Vec::zero(), fma(sum, scale, bias));
      sum.store(p.c + R * p.c_stride + V * kLanes);
    });
  });
}

using ProductFunction = void (*)(const Product&);

// Functions for 1 to MaxRows rows.
template <class Vec, int MaxRows, int Vecs>
struct ProductTable {
  ProductFunction of[MaxRows];
};

template <class Vec, int MaxRows, int Vecs>
constexpr ProductTable<Vec, MaxRows, Vecs> product_table() {
  return []<int... R>(std::integer_sequence<int, R...>) {
    return ProductTable<Vec, MaxRows, Vecs>{{&product<Vec, R + 1, Vecs>...}};
  }(std::make_integer_sequence<int, MaxRows>{});
}

}  // namespace espalier
