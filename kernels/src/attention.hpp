// The weights of the divisions, and z times them: MultiLoRA Eq. 10 in the folded form of adapters_store/folding.py.
//
// With the last division as the reference, the softmax over divisions needs the differences
//   delta_j = sum_r z_r (q key_j)_r + q . key_shift_j,     key_j = key on division j, -key on the last one, else 0
// so that two divisions cost one product and one sum a row.
#pragma once

#include "microkernel.hpp"

namespace espalier {

// e to the power of x <= 0, within 2 units in the last place; below -87 it is that of -87. No number stays none.
template <class Vec>
[[gnu::always_inline]] inline Vec exponential(Vec x) {
  x = max(Vec::all(-87.0f), x);
  const Vec whole = round_to_even(mul(x, Vec::all(1.44269504f)));
  // the natural logarithm of 2 in two parts, the first one exact in products with small whole numbers
  const Vec rest = fma(whole, Vec::all(2.12194440e-4f), fma(whole, Vec::all(-0.693359375f), x));
  Vec series = Vec::all(1.0f / 5040);  // Taylor: |rest| <= 0.35
  series = fma(series, rest, Vec::all(1.0f / 720));
  series = fma(series, rest, Vec::all(1.0f / 120));
  series = fma(series, rest, Vec::all(1.0f / 24));
  series = fma(series, rest, Vec::all(1.0f / 6));
  series = fma(series, rest, Vec::all(0.5f));
  series = fma(series, rest, Vec::all(1.0f));
  series = fma(series, rest, Vec::all(1.0f));
  return mul(series, power_of_two(whole));
}

// delta_j of some rows; `low` holds their z and q. Rows go together because the chain of one would wait for each sum.
template <class Vec, int Rows>
[[gnu::always_inline]] inline void differences(const AdapterLayer& layer, const float* low, long stride, int division,
                                               float* deltas) {
  const float* key = layer.key + long(division) * layer.rank_p * layer.query;
  const float* shift = layer.key_shift + long(division) * layer.query_p;
  const float* const q = low + layer.rank_p;
  Vec totals[Rows];
  each<Rows>([&]<int R>() __attribute__((always_inline)) { totals[R] = Vec::zero(); });
  for (int column = 0; column < layer.rank_p; column += kLanes) {
    Vec projected[Rows];
    each<Rows>([&]<int R>() __attribute__((always_inline)) { projected[R] = Vec::zero(); });
    for (int f = 0; f < layer.query; ++f, key += kLanes) {
      const Vec keys = Vec::load(key);
      each<Rows>([&]<int R>() __attribute__((always_inline)) {
        projected[R] = fma(Vec::all(q[R * stride + f]), keys, projected[R]);
      });
    }
    each<Rows>([&]<int R>() __attribute__((always_inline)) {
      totals[R] = fma(Vec::load(low + R * stride + column), projected[R], totals[R]);
    });
  }
  for (int f = 0; f < layer.query_p; f += kLanes) {
    const Vec shifts = Vec::load(shift + f);
    each<Rows>([&]<int R>() __attribute__((always_inline)) {
      totals[R] = fma(Vec::load(q + R * stride + f), shifts, totals[R]);
    });
  }
  each<Rows>([&]<int R>() __attribute__((always_inline)) { deltas[R] = sum(totals[R]); });
}

// Softmax in place: `deltas` [divisions][16 rows], the last division's are zero.
template <class Vec>
inline void soften(float* deltas, int divisions) {
  Vec largest = Vec::load(deltas);
  for (int j = 1; j < divisions; ++j) largest = max(largest, Vec::load(deltas + j * kLanes));
  Vec total = Vec::zero();
  for (int j = 0; j < divisions; ++j) {
    const Vec power = exponential(sub(Vec::load(deltas + j * kLanes), largest));
    total = add(total, power);
    power.store(deltas + j * kLanes);
  }
  for (int j = 0; j < divisions; ++j) div(Vec::load(deltas + j * kLanes), total).store(deltas + j * kLanes);
}

// Turn z and q of up to 16 rows into the inputs of `exit`: z times its division's weight, and all weights but the last.
template <class Vec>
inline void attend(const AdapterLayer& layer, float* low, long stride, int rows, float* deltas) {
  const int others = layer.divisions - 1;
  for (int j = 0; j < others; ++j) {
    Vec::zero().store(deltas + j * kLanes);
    int r = 0;
    for (; r + Vec::together <= rows; r += Vec::together) {
      differences<Vec, Vec::together>(layer, low + r * stride, stride, j, deltas + j * kLanes + r);
    }
    for (; r < rows; ++r) differences<Vec, 1>(layer, low + r * stride, stride, j, deltas + j * kLanes + r);
  }
  Vec::zero().store(deltas + others * kLanes);
  soften<Vec>(deltas, layer.divisions);
  for (int r = 0; r < rows; ++r) {
    float* row = low + r * stride;
    for (int column = 0; column < layer.rank_p; column += kLanes) {
      Vec weight = Vec::all(deltas[r]);
      for (int j = 1; j < layer.divisions; ++j) {
        weight = choose(weight, Vec::all(deltas[j * kLanes + r]), layer.division_of + column, j);
      }
      mul(Vec::load(row + column), weight).store(row + column);
    }
    for (int j = 0; j < others; ++j) row[layer.rank + j] = deltas[j * kLanes + r];
  }
}

}  // namespace espalier
