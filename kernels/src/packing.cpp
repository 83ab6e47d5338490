#include "packing.hpp"

#include <bit>
#include <cstdint>
#include <cstring>

namespace espalier {

namespace {

// To the nearest bfloat16, ties to even; no number stays none.
std::uint16_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return std::uint16_t(bits >> 16 | 64);
  return std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

void Panels::set(int input, int column, float weight) const {
  const int each = per_step(precision);
  float* const step = memory + (std::size_t(column / kLanes) * steps + input / each) * kLanes + column % kLanes;
  if (precision == Precision::single) {
    *step = weight;
    return;
  }
  const std::uint16_t half = to_half(weight);
  std::memcpy(reinterpret_cast<char*>(step) + input % each * sizeof half, &half, sizeof half);
}

std::size_t panel_floats(int steps, int columns) { return std::size_t(steps) * round_up(columns); }

void pack_rows(const Panels& panels, int first, const float* matrix, int rows, int width, const int* order, int inputs) {
  for (int r = 0; r < rows; ++r) {
    const float* row = matrix + std::size_t(r) * width;
    for (int i = 0; i < inputs; ++i) {
      const int from = order == nullptr ? i : order[i];
      if (from >= 0 && from < width) panels.set(i, first + r, row[from]);
    }
  }
}

}  // namespace espalier
