#include "packing.hpp"

#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

namespace espalier {

namespace {

// To the nearest bfloat16, ties to even; no number stays none.
std::uint32_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : nearest;
}

// One input of some rows; zeros where it is padding.
struct Inputs {
  float of[kLanes];

  void take(const float* const* rows, int count, int from, int width, double scale) {
    if (from < 0 || from >= width) {
      std::memset(of, 0, sizeof of);
      return;
    }
    if (count == kLanes && scale == 1.0) {  // a number known to the compiler
      for (int j = 0; j < kLanes; ++j) of[j] = rows[j][from];
    } else {
      for (int j = 0; j < count; ++j) of[j] = float(rows[j][from] * scale);
    }
  }
};

// Rows that become columns of one panel, from `to` on.
void pack_panel(float* to, Precision precision, const float* const* rows, int count, int width, const int* order,
                int inputs, double scale) {
  const auto place = [&](int i) { return i >= inputs ? -1 : order == nullptr ? i : order[i]; };
  Inputs one{}, other{};
  for (int i = 0; i < inputs; i += per_step(precision), to += kLanes) {
    one.take(rows, count, place(i), width, scale);
    if (precision == Precision::single) {
      std::memcpy(to, one.of, count * sizeof(float));
      continue;
    }
    other.take(rows, count, place(i + 1), width, scale);
    std::uint32_t pairs[kLanes];
    for (int j = 0; j < kLanes; ++j) pairs[j] = to_half(one.of[j]) | to_half(other.of[j]) << 16;
    std::memcpy(to, pairs, count * sizeof(float));
  }
}

}  // namespace

void Panels::set(int input, int column, float weight) const {
  const int each = per_step(precision);
  float* const step = memory + (std::size_t(column / kLanes) * steps + input / each) * kLanes + column % kLanes;
  if (precision == Precision::single) {
    *step = weight;
    return;
  }
  const auto half = std::uint16_t(to_half(weight));
  std::memcpy(reinterpret_cast<char*>(step) + input % each * sizeof half, &half, sizeof half);
}

std::size_t panel_floats(int steps, int columns) { return std::size_t(steps) * round_up(columns); }

void pack_rows(const Panels& panels, int first, const float* const* rows, int count, int width, const int* order,
               int inputs, double scale) {
  for (int r = 0; r < count;) {
    const int column = first + r, lane = column % kLanes;
    const int taken = count - r < kLanes - lane ? count - r : kLanes - lane;
    float* const to = panels.memory + std::size_t(column / kLanes) * panels.steps * kLanes + lane;
    pack_panel(to, panels.precision, rows + r, taken, width, order, inputs, scale);
    r += taken;
  }
}

void pack_matrix(const Panels& panels, int first, const float* matrix, int count, int width, const int* order,
                 int inputs, double scale) {
  std::vector<const float*> rows;
  for (int r = 0; r < count; ++r) rows.push_back(matrix + std::size_t(r) * width);
  pack_rows(panels, first, rows.data(), count, width, order, inputs, scale);
}

}  // namespace espalier
