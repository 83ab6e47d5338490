// Sixteen floats in two AVX2 registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace espalier::avx2 {

struct Vec {
  static constexpr int together = 4;  // chains that the registers hold, and that hide one another's waits
  __m256 lo, hi;

  static Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vec all(float x) {
    const __m256 each = _mm256_set1_ps(x);
    return {each, each};
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
};

inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
// Where either is no number the second one is the result, so it must be the one that may be none.
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Vec round_to_even(Vec a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}
inline __m256 power_of_two(__m256 whole) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
// 2 to the power of whole numbers from -126 to 127.
inline Vec power_of_two(Vec whole) { return {power_of_two(whole.lo), power_of_two(whole.hi)}; }
inline __m256 choose(__m256 a, __m256 b, const std::int32_t* lanes, int wanted) {
  const __m256i found = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
  return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_cmpeq_epi32(found, _mm256_set1_epi32(wanted))));
}
// b where the lane's number is `wanted`, else a.
inline Vec choose(Vec a, Vec b, const std::int32_t* lanes, int wanted) {
  return {choose(a.lo, b.lo, lanes, wanted), choose(a.hi, b.hi, lanes + 8, wanted)};
}
// The halves are added until one number is left, in the same order as the other instruction sets do it.
inline float sum(Vec a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace espalier::avx2
