// A block's product in a processor's tile registers: 32 rows x 32 columns in four of them.
//
// A Machine has eight tiles of 16 rows of 64 bytes: configure(rows of each), zero<T>(), load<T>(from, stride in bytes),
// pass<T>(from, stride), store<T>(to, stride), and multiply<C, A, B>(), which adds to C the products of A (rows, 16
// pairs) and B (16 pairs, 16 columns), both bfloat16. A group of 16 pairs is added up before it joins C, so chains are
// equal where groups are.
#pragma once

#include <cstring>

#include "microkernel.hpp"

namespace espalier {

template <class Machine, class Form, int Rows, int Vecs>
class TileProduct {
 public:
  static void run(const Product& p) {
    Machine::configure(kRows);
    begin(p);
    add(p.a, p.a_stride, p.b, p.b_stride, p.k);
    if (p.k2 > 0) add(p.a2, p.a2_stride, p.b2, p.b2_stride, p.k2);
    end(p);
  }

 private:
  using Vec = typename Form::Vec;
  static constexpr int kGroup = 16;  // steps of one multiplication
  static constexpr int kFirst = Rows < 16 ? Rows : 16, kSecond = Rows - kFirst;
  static constexpr int kRows[8] = {kFirst, kFirst, kSecond, kSecond, kFirst, kSecond, kGroup, kGroup};
  static constexpr bool kTwoRows = kSecond > 0, kTwoColumns = Vecs > 1;
  static_assert(Rows <= 32 && Vecs <= 2);

  static void begin(const Product& p) {
    if (p.start == nullptr) {
      each_sum([]<int C>() { Machine::template zero<C>(); });
      return;
    }
    const long stride = p.start_stride * long(sizeof(float));
    each_sum([&]<int C>() {
      Machine::template load<C>(p.start + C / 2 * 16 * p.start_stride + C % 2 * kLanes, stride);
    });
  }

  static void add(const float* a, long a_stride, const float* b, long b_stride, int k) {
    for (; k >= kGroup; k -= kGroup, a += kGroup, b += kGroup * kLanes) group(a, a_stride, b, b_stride);
    if (k == 0) return;
    alignas(64) float rest[Rows][kGroup] = {};
    alignas(64) float weights[Vecs][kGroup][kLanes] = {};
    for (int r = 0; r < Rows; ++r) std::memcpy(rest[r], a + r * a_stride, k * sizeof(float));
    for (int v = 0; v < Vecs; ++v) std::memcpy(weights[v], b + v * b_stride, k * sizeof weights[v][0]);
    group(rest[0], kGroup, weights[0][0], kGroup * kLanes);
  }

  static void group(const float* a, long a_stride, const float* b, long b_stride) {
    const long stride = a_stride * long(sizeof(float));
    Machine::template load<6>(b, 64);
    Machine::template pass<4>(a, stride);
    Machine::template multiply<0, 4, 6>();
    if constexpr (kTwoColumns) {
      Machine::template load<7>(b + b_stride, 64);
      Machine::template multiply<1, 4, 7>();
    }
    if constexpr (kTwoRows) {
      Machine::template pass<5>(a + 16 * a_stride, stride);
      Machine::template multiply<2, 5, 6>();
      if constexpr (kTwoColumns) Machine::template multiply<3, 5, 7>();
    }
  }

  // `add` of vectors, whose name the products of this class hide.
  static Vec sum_of(Vec a, Vec b) { return fma(a, Vec::all(1.0f), b); }

  static void end(const Product& p) {
    if (p.finish == Finish::keep) {
      const long stride = p.c_stride * long(sizeof(float));
      each_sum([&]<int C>() { Machine::template store<C>(p.c + C / 2 * 16 * p.c_stride + C % 2 * kLanes, stride); });
      return;
    }
    alignas(64) float sums[Rows][Vecs * kLanes];
    each_sum([&]<int C>() { Machine::template store<C>(&sums[C / 2 * 16][C % 2 * kLanes], sizeof sums[0]); });
    const bool active = p.finish == Finish::activate || p.finish == Finish::activate_last;
    for (int v = 0; v < Vecs; ++v) {
      const Vec scale = active ? Vec::load(p.scale + v * kLanes) : Vec::zero();
      const Vec bias = Vec::load(p.bias + v * kLanes);
      for (int r = 0; r < Rows; ++r) {
        Vec sum = Vec::load(sums[r] + v * kLanes);
        if (p.finish == Finish::add_bias) sum = sum_of(sum, bias);
        if (active) sum = max(Vec::zero(), fma(sum, scale, bias));
        float* const row = p.c + r * p.c_stride;
        if (p.finish == Finish::activate) {
          Form::store(sum, row, v);
        } else {
          sum.store(row + v * kLanes);
        }
      }
    }
  }

  // Tile 2 i + j sums row block i and panel j.
  template <class F>
  static void each_sum(F&& f) {
    f.template operator()<0>();
    if constexpr (kTwoColumns) f.template operator()<1>();
    if constexpr (kTwoRows) f.template operator()<2>();
    if constexpr (kTwoRows && kTwoColumns) f.template operator()<3>();
  }
};

}  // namespace espalier
