// A backbone, packed: fields, the tower's weights, the output.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "buffer.hpp"
#include "plan.hpp"

namespace espalier {

enum class Kind { sparse, multi_hot, dense };

// One input of the network, in the order of the bundle's manifest.
struct FieldSpec {
  std::string name;
  Kind kind;
  bool shared;         // may be the same in all rows of a request: of the user, the context or the domain
  int width;
  const float* table;  // (rows, width), owned by the caller for as long as the network lives; nullptr for dense
  std::int64_t rows;
};

struct LayerSpec {
  int inputs;
  int columns;
  const float* weight;  // (columns, inputs)
  const float* bias;    // (columns)
};

struct OutputSpec {
  int inputs;
  const float* weight;  // (inputs)
  float bias;
};

// A field and where its vector stands among the inputs of the first layer.
struct Field {
  FieldSpec spec;
  int offset;
};

class Network {
 public:
  // Inputs of the first layer, and those of an adapter's way out, are padded to whole groups. Throws std::invalid_argument where shapes do not fit each
  // other.
  Network(const std::vector<FieldSpec>& fields, const std::vector<LayerSpec>& layers, const OutputSpec& output,
          Precision precision = Precision::single, int group = 1);

  // Fields in the manifest's order; those that may be shared come first among the inputs.
  const std::vector<Field>& fields() const { return fields_; }
  const std::vector<Layer>& layers() const { return layers_; }
  int depth() const { return int(layers_.size()); }
  Precision precision() const { return precision_; }
  int group() const { return group_; }
  int inputs() const { return int(order_.size()); }
  int shared_inputs() const { return shared_inputs_; }
  const Output& output() const { return output_; }
  // Input i of the packed first layer is column order(0)[i] of the manifest's, or padding to a whole step: kPadding.
  static constexpr int kPadding = -1;
  const int* order(int level) const { return level == 0 ? order_.data() : nullptr; }
  // Columns of a layer's weights, and inputs that its panels have with padding.
  int width(int level) const { return widths_[level]; }
  int packed_inputs(int level) const { return layers_[level].steps * per_step(precision_); }
  int outputs(int level) const { return outputs_[level]; }
  const std::vector<float>& bias(int level) const { return biases_[level]; }
  std::size_t bytes() const { return weights_.size() * sizeof(float); }

 private:
  int place_fields(const std::vector<FieldSpec>& fields);

  Precision precision_;
  int group_;
  std::vector<Field> fields_;
  std::vector<int> order_;
  int shared_inputs_ = 0;
  std::vector<Layer> layers_;
  std::vector<int> widths_;
  std::vector<int> outputs_;  // columns without padding
  std::vector<std::vector<float>> biases_;
  Output output_{};
  Buffer weights_;
};

}  // namespace espalier
