// What stands beside the tower and is added to its logit: first-order weights, pairs of fields, a cross network.
// It is the backbone's, no adapter changes it, and every row is computed by itself in float32.
#pragma once

#include <cstdint>
#include <vector>

#include "gather.hpp"

namespace espalier {

// x' = x0 (x . weight) + bias + x
struct CrossSpec {
  const float* weight;  // (inputs)
  const float* bias;    // (inputs)
};

// In the order of the bundle's manifest; what has no place is empty.
struct BranchSpec {
  // By field: one weight for each row of a trained table (a list has their mean), else one for each element of its vector.
  struct Weights {
    const float* of;  // nullptr: the field adds nothing
    std::int64_t count;
    bool by_row;
  };
  std::vector<Weights> first_order;
  // By field, where all pairs of fields count: (width of the field, pair_width); nullptr takes its vector as it is.
  std::vector<const float*> factors;
  int pair_width = 0;
  std::vector<CrossSpec> cross;
  const float* crossed = nullptr;  // (inputs), what the crossed input is weighed by
};

class Branch {
 public:
  Branch() = default;
  // Throws std::invalid_argument where it does not fit the network.
  Branch(const BranchSpec& spec, const Network& network);

  bool empty() const { return first_order_.empty() && pair_width_ == 0 && crossed_.empty(); }

  // Write what each of `rows` rows, from `first` on, adds to its logit. Their inputs are at `own`, of which the first
  // `shared_inputs` stand at `shared` instead where that is not nullptr.
  void score(const Network& network, const Column* columns, std::int64_t first, int rows, const float* own, int stride,
             const float* shared, std::vector<float>& scratch, float* out) const;

 private:
  struct Cross {
    std::vector<float> weight, bias;  // in the packed order of inputs
  };

  float first_order(const Network& network, const Column* columns, std::int64_t row, const float* x) const;
  float pairs(const Network& network, const float* x, float* scratch) const;
  float crossed(const float* x0, int inputs, float* scratch) const;

  std::vector<BranchSpec::Weights> first_order_;
  std::vector<const float*> factors_;
  int pair_width_ = 0;
  std::vector<Cross> cross_;
  std::vector<float> crossed_;
};

}  // namespace espalier
