#include "packing.hpp"

namespace espalier {

std::size_t panel_floats(int inputs, int columns) { return std::size_t(inputs) * round_up(columns); }

void pack_rows(float* panels, int inputs, int first, const float* matrix, int rows, const int* order) {
  for (int r = 0; r < rows; ++r) {
    const float* row = matrix + std::size_t(r) * inputs;
    float* column = &at(panels, inputs, 0, first + r);
    for (int i = 0; i < inputs; ++i) column[std::size_t(i) * kLanes] = row[order == nullptr ? i : order[i]];
  }
}

}  // namespace espalier
