#include "network.hpp"

#include <stdexcept>

#include "packing.hpp"

namespace espalier {

Network::Network(const std::vector<FieldSpec>& fields, const std::vector<LayerSpec>& layers, const OutputSpec& output) {
  if (fields.empty() || layers.empty()) throw std::invalid_argument("a network needs a field and a layer");
  place_fields(fields);
  std::size_t floats = 0;
  int inputs = int(order_.size());
  for (const LayerSpec& layer : layers) {
    if (layer.inputs != inputs) throw std::invalid_argument("a layer's inputs are not the outputs of the one before");
    if (layer.columns < 1) throw std::invalid_argument("a layer has no outputs");
    floats += panel_floats(layer.inputs, layer.columns);
    inputs = layer.columns;
  }
  if (output.inputs != inputs) throw std::invalid_argument("the output's inputs are not the last layer's outputs");
  weights_ = Buffer(floats + round_up(inputs));
  float* next = weights_.data();
  for (const LayerSpec& layer : layers) {
    pack_rows(next, layer.inputs, 0, layer.weight, layer.columns, layers_.empty() ? order_.data() : nullptr);
    layers_.push_back({layer.inputs, round_up(layer.columns), next});
    outputs_.push_back(layer.columns);
    biases_.emplace_back(layer.bias, layer.bias + layer.columns);
    next += panel_floats(layer.inputs, layer.columns);
  }
  std::copy_n(output.weight, output.inputs, next);
  output_ = {next, output.bias};
}

void Network::place_fields(const std::vector<FieldSpec>& fields) {
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
    if (shared) shared_inputs_ = int(order_.size());
  }
}

}  // namespace espalier
