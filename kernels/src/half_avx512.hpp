// Inputs in bfloat16 on AVX-512, two in each four bytes. For files compiled with AVX512_BF16 only.
#pragma once

#include "tile.hpp"
#include "vector_avx512.hpp"

namespace espalier::avx512 {

struct Half {
  using Vec = avx512::Vec;
  static constexpr Precision precision = Precision::half;

  // sum + the products of both inputs of each lane, added one after the other in an order that the processor fixes.
  [[gnu::always_inline]] static Vec step(Vec inputs, Vec weights, Vec sum) {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)inputs.v, (__m512bh)weights.v)};
  }
  [[gnu::always_inline]] static void store(Vec activations, float* row, int vector) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + vector * (kLanes / 2)), (__m256i)_mm512_cvtneps_pbh(activations.v));
  }
  // Floats from `first` to `end` of a row to steps, in place: what is written lies before what is still to be read.
  static void narrow(float* row, int first, int end) {
    for (int i = first; i < end; i += kLanes) {
      const int left = end - i;
      const __mmask16 inputs = left >= kLanes ? 0xffff : (1u << left) - 1;
      const __m256i pairs = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(inputs, row + i));
      _mm256_mask_storeu_epi32(row + i / 2, left >= kLanes ? 0xff : (1u << left / 2) - 1, pairs);
    }
  }
};

}  // namespace espalier::avx512
