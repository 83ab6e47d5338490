// From row-major matrices to the panels that the micro-kernel reads.
#pragma once

#include <cstddef>

#include "plan.hpp"

namespace espalier {

// Floats that panels of this many inputs and columns take.
std::size_t panel_floats(int inputs, int columns);

// Panels [columns / 16][inputs][16] of the transpose of `matrix` (rows, inputs): its row r becomes column first + r.
// Input i of the panels is column order[i] of the matrix, or i itself where `order` is null.
void pack_rows(float* panels, int inputs, int first, const float* matrix, int rows, const int* order);

// One value of the panels.
inline float& at(float* panels, int inputs, int input, int column) {
  return panels[(std::size_t(column / kLanes) * inputs + input) * kLanes + column % kLanes];
}

}  // namespace espalier
