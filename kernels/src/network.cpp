#include "network.hpp"

#include <stdexcept>

#include "packing.hpp"

namespace espalier {

Network::Network(const std::vector<FieldSpec>& fields, const std::vector<LayerSpec>& layers, const OutputSpec& output,
                 Precision precision, int group)
    : precision_(precision), group_(group) {
  if (fields.empty() || layers.empty()) throw std::invalid_argument("a network needs a field and a layer");
  std::size_t floats = 0;
  int inputs = place_fields(fields);
  for (const LayerSpec& layer : layers) {
    if (layer.inputs != inputs) throw std::invalid_argument("a layer's inputs are not the outputs of the one before");
    if (layer.columns < 1) throw std::invalid_argument("a layer has no outputs");
    const int packed = layers_.empty() ? int(order_.size()) : layer.inputs;
    layers_.push_back({steps_of(packed, precision), round_up(layer.columns), nullptr});
    widths_.push_back(layer.inputs);
    outputs_.push_back(layer.columns);
    biases_.emplace_back(layer.bias, layer.bias + layer.columns);
    floats += panel_floats(layers_.back().steps, layer.columns);
    inputs = layer.columns;
  }
  if (output.inputs != inputs) throw std::invalid_argument("the output's inputs are not the last layer's outputs");
  weights_ = Buffer(floats + round_up(inputs));
  float* next = weights_.data();
  for (int level = 0; level < depth(); ++level) {
    Layer& layer = layers_[level];
    const Panels panels{next, layer.steps, precision};
    pack_matrix(panels, 0, layers[level].weight, layers[level].columns, widths_[level], order(level), packed_inputs(level));
    layer.weights = next;
    next += panel_floats(layer.steps, layer.columns);
  }
  std::copy_n(output.weight, output.inputs, next);
  output_ = {next, output.bias};
}

int Network::place_fields(const std::vector<FieldSpec>& fields) {
  std::vector<int> starts;
  int total = 0;
  for (const FieldSpec& field : fields) {
    if (field.width < 1) throw std::invalid_argument("field " + field.name + " has no width");
    starts.push_back(total);
    total += field.width;
    fields_.push_back({field, 0});
  }
  for (const bool shared : {true, false}) {
    for (std::size_t i = 0; i < fields.size(); ++i) {
      if (fields[i].shared != shared) continue;
      fields_[i].offset = int(order_.size());
      for (int j = 0; j < fields[i].width; ++j) order_.push_back(starts[i] + j);
    }
    while (order_.size() % group_ != 0) order_.push_back(kPadding);
    if (shared) shared_inputs_ = int(order_.size());
  }
  return total;
}

}  // namespace espalier
