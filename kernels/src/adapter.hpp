// A folded adapter, packed for the tower; see adapters_store/folding.py for the equations of what comes in.
#pragma once

#include <cstddef>
#include <vector>

#include "buffer.hpp"
#include "network.hpp"
#include "plan.hpp"

namespace espalier {

// The arrays of one `FoldedModule`, row-major.
struct ModuleSpec {
  int rank;       // R
  int divisions;  // m
  int query;      // rf
  const float* down;         // (R, inputs)
  const float* up;           // (columns, R)
  const float* shift;        // (m, columns)
  const float* query_weight; // (rf, inputs)
  const float* query_shift;  // (rf)
  const float* key;          // (rf, R)
  const float* key_shift;    // (m, rf)
  const float* group;        // (m, R)
  const float* norm_scale;   // (columns)
  const float* norm_shift;   // (columns)
};

class Adapter {
 public:
  // Modules in the order of the layers; throws std::invalid_argument where they do not fit the network.
  Adapter(const Network& network, const std::vector<ModuleSpec>& modules, double slope, double intercept);

  const AdapterLayer* layers() const { return layers_.data(); }
  // Floats that a row of z and q needs, over all layers.
  int low_columns() const { return low_columns_; }
  double slope() const { return slope_; }
  double intercept() const { return intercept_; }
  std::size_t bytes() const { return memory_.size() * sizeof(float); }

 private:
  std::vector<AdapterLayer> layers_;
  int low_columns_ = 0;
  double slope_;
  double intercept_;
  Buffer memory_;
};

}  // namespace espalier
