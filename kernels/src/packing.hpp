// From row-major matrices to the panels that the micro-kernel reads.
#pragma once

#include <cstddef>

#include "plan.hpp"

namespace espalier {

// Panels [columns / 16][steps][16] to be filled; what is not set stays zero.
struct Panels {
  float* memory;
  int steps;
  Precision precision;

  // The weight of one input for one column, rounded to the precision.
  void set(int input, int column, float weight) const;
};

// Floats that panels of this many steps and columns take.
std::size_t panel_floats(int steps, int columns);

// `count` rows of a matrix of `width`, from wherever each begins, times `scale`: the first becomes column `first` of the
// panels. Their input i, of `inputs`, is column order[i] of the matrix, or i itself where `order` is null; past the width
// and below zero is padding.
void pack_rows(const Panels& panels, int first, const float* const* rows, int count, int width, const int* order,
               int inputs, double scale = 1.0);

// The same of a matrix whose rows lie one after the other.
void pack_matrix(const Panels& panels, int first, const float* matrix, int count, int width, const int* order,
                 int inputs, double scale = 1.0);

}  // namespace espalier
