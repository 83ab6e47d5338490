// A folded adapter, packed for the tower; see adapters_store/folding.py for the equations of what comes in.
//
// An adapter is low rank, or dense, or both in one layer: what it does not have of its own is the backbone's.
#pragma once

#include <cstddef>
#include <vector>

#include "buffer.hpp"
#include "network.hpp"
#include "plan.hpp"

namespace espalier {

// The arrays of one `FoldedModule`, row-major, and a layer of the adapter's own in the place of the backbone's.
struct ModuleSpec {
  int rank;       // R; where it is 0, m is 1 and rf is 0, of what follows only the norm is looked at
  int divisions;  // m
  int query;      // rf
  const float* down;         // (R, inputs)
  const float* up;           // (columns, R)
  const float* shift;        // (m, columns); nullptr: zeros
  const float* query_weight; // (rf, inputs)
  const float* query_shift;  // (rf)
  const float* key;          // (rf, R)
  const float* key_shift;    // (m, rf)
  const float* group;        // (m, R)
  const float* norm_scale;   // (columns)
  const float* norm_shift;   // (columns)
  const float* weight = nullptr;  // (columns, inputs); nullptr: the backbone's
  const float* bias = nullptr;    // (columns); nullptr: the backbone's
};

// Of packed memory, which may lie in a file: one more whenever a number comes to stand elsewhere, or means another.
constexpr int kPackedLayout = 4;
constexpr std::size_t kPackedAlignment = 64;  // bytes; a cache line

class Adapter {
 public:
  // Modules in the order of the layers, and an output in the place of the backbone's, or nullptr; throws
  // std::invalid_argument where they do not fit the network. What is the backbone's is used where the network has it:
  // the network must outlive the adapter.
  Adapter(const Network& network, const std::vector<ModuleSpec>& modules, double slope, double intercept,
          const OutputSpec* output = nullptr);

  // Of memory that another adapter of an equal network packed, taken as it lies: the caller keeps it as it is for as
  // long as this adapter is used. Sizes, length and alignment are held to the network before any of it is read; throws
  // std::invalid_argument. What its numbers are is not looked at; none of them is ever an index.
  Adapter(const Network& network, const std::vector<int>& sizes, const float* memory, std::size_t floats,
          double slope, double intercept);

  const AdapterLayer* layers() const { return layers_.data(); }
  const Output& output() const { return output_; }
  // Floats that a row of z and q needs, over all layers.
  int low_columns() const { return low_columns_; }
  double slope() const { return slope_; }
  double intercept() const { return intercept_; }
  // All that is packed, and what says where in it everything is.
  const float* data() const { return start_; }
  std::size_t floats() const { return floats_; }
  const std::vector<int>& sizes() const { return sizes_; }
  std::size_t bytes() const { return floats_ * sizeof(float); }

 private:
  std::vector<AdapterLayer> layers_;
  Output output_{};
  int low_columns_ = 0;
  std::vector<int> sizes_;
  double slope_;
  double intercept_;
  Buffer memory_;  // empty where the memory is another's
  const float* start_ = nullptr;
  std::size_t floats_ = 0;
};

}  // namespace espalier
