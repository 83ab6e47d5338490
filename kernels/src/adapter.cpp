#include "adapter.hpp"

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "packing.hpp"

namespace espalier {

namespace {

bool all_zero(const float* values, std::size_t n) {
  return std::all_of(values, values + n, [](float value) { return value == 0.0f; });
}

// What of a module is left to compute: columns that are zero by construction, and weights that are constant, go.
struct Lean {
  std::vector<int> kept;      // columns of z
  std::vector<int> division;  // of each
  bool attended;              // the weights depend on the row
};

Lean lean(const ModuleSpec& module, int inputs, int columns) {
  Lean found{};
  found.attended = module.divisions > 1 && !(all_zero(module.key, std::size_t(module.query) * module.rank) &&
                                             all_zero(module.key_shift, std::size_t(module.divisions) * module.query));
  for (int r = 0; r < module.rank; ++r) {
    bool gives = false;
    for (int c = 0; c < columns && !gives; ++c) gives = module.up[std::size_t(c) * module.rank + r] != 0.0f;
    for (int f = 0; f < module.query && !gives; ++f) gives = module.key[std::size_t(f) * module.rank + r] != 0.0f;
    if (!gives || all_zero(module.down + std::size_t(r) * inputs, inputs)) continue;
    int division = 0;
    while (division < module.divisions - 1 && module.group[std::size_t(division) * module.rank + r] == 0.0f) ++division;
    found.kept.push_back(r);
    found.division.push_back(division);
  }
  return found;
}

// What the memory of a layer depends on beside the network.
struct LayerSizes {
  int rank, divisions, query;
  int own;  // 1: the layer's weights are the adapter's own; 0: the backbone's
};
constexpr std::size_t kEach = 4;       // numbers of a layer
constexpr int kMostColumns = 1 << 16;  // of what is adopted: what follows from sizes stays within its type

struct Sizes {
  std::vector<LayerSizes> layers;
  int output;  // 1: the adapter's own; 0: the backbone's
};

// Sizes first, then memory: offsets into one buffer, which every layer's pointers go to.
struct LayerLayout {
  std::size_t weights, entry, entry_bias, key, key_shift, division_of, exit, scale, bias, end;
};

struct Layout {
  std::vector<LayerLayout> layers;
  std::size_t output, end;
};

LayerLayout lay_out(const AdapterLayer& layer, bool own, const Layer& wide, std::size_t start) {
  const std::size_t others = layer.divisions - 1;
  const int steps = wide.steps, columns = wide.columns;
  LayerLayout at{};
  at.weights = start;
  at.entry = at.weights + (own ? panel_floats(steps, columns) : 0);
  at.entry_bias = at.entry + panel_floats(steps, layer.entry_columns);
  at.key = at.entry_bias + layer.entry_columns;
  at.key_shift = at.key + others * layer.rank_p * layer.query;
  at.division_of = at.key_shift + others * layer.query_p;
  at.exit = at.division_of + layer.rank_p;
  const int past = layer.exit_steps - layer.exit_held;  // what the last panel's chain reads behind it: zeros
  at.scale = at.exit + panel_floats(layer.exit_held, columns) + std::size_t(past) * kLanes;
  at.bias = at.scale + columns;
  at.end = at.bias + columns;
  return at;
}

AdapterLayer layer_of(const LayerSizes& own, const Network& network) {
  AdapterLayer layer{};
  layer.rank = own.rank;
  layer.rank_p = round_up(layer.rank);
  layer.divisions = own.divisions;
  layer.query = own.query;
  layer.query_p = round_up(layer.query);
  layer.entry_columns = layer.rank_p + layer.query_p;
  layer.exit_inputs = layer.rank + layer.divisions - 1;
  layer.exit_steps = steps_of(whole(layer.exit_inputs, network.group()), network.precision());
  layer.exit_held = steps_of(layer.exit_inputs, network.precision());
  return layer;
}

// All layers, one after the other, then the output: its weights, and its bias in a cache line of its own.
Layout lay_out(const Network& network, const Sizes& sizes, std::vector<AdapterLayer>& layers) {
  Layout made{};
  for (int level = 0; level < network.depth(); ++level) {
    const LayerSizes& own = sizes.layers[level];
    layers.push_back(layer_of(own, network));
    made.layers.push_back(lay_out(layers.back(), own.own != 0, network.layers()[level], made.output));
    made.output = made.layers.back().end;
  }
  made.end = made.output + (sizes.output != 0 ? std::size_t(network.layers().back().columns) + kLanes : 0);
  return made;
}

void point(AdapterLayer& layer, const LayerLayout& at, const float* memory, const Layer& wide) {
  layer.memory = memory + at.weights;
  layer.floats = long(at.end - at.weights);
  layer.weights = at.entry > at.weights ? memory + at.weights : wide.weights;
  layer.entry = memory + at.entry;
  layer.entry_bias = memory + at.entry_bias;
  layer.key = memory + at.key;
  layer.key_shift = memory + at.key_shift;
  layer.division_of = reinterpret_cast<const std::int32_t*>(memory + at.division_of);
  layer.exit = memory + at.exit;
  layer.scale = memory + at.scale;
  layer.bias = memory + at.bias;
}

int widest(const std::vector<AdapterLayer>& layers, Precision precision) {
  int columns = 0;
  for (const AdapterLayer& layer : layers) {
    columns = std::max({columns, layer.entry_columns, round_up(layer.exit_steps * per_step(precision))});
  }
  return columns;
}

// What packed memory depends on in the network; which inputs are which is the backbone's to say.
std::vector<int> form_of(const Network& network) {
  std::vector<int> form{kPackedLayout, per_step(network.precision()), network.group(), network.shared_inputs(),
                        network.depth()};
  for (const Layer& layer : network.layers()) {
    form.push_back(layer.steps);
    form.push_back(layer.columns);
  }
  return form;
}

std::vector<int> numbers_of(const Network& network, const Sizes& sizes) {
  std::vector<int> numbers = form_of(network);
  for (const LayerSizes& own : sizes.layers) {
    numbers.insert(numbers.end(), {own.rank, own.divisions, own.query, own.own});
  }
  numbers.push_back(sizes.output);
  return numbers;
}

Sizes checked(const Network& network, const std::vector<int>& numbers) {
  const std::vector<int> form = form_of(network);
  if (numbers.size() != form.size() + kEach * std::size_t(network.depth()) + 1 ||
      !std::equal(form.begin(), form.end(), numbers.begin())) {
    throw std::invalid_argument("packed memory is of another layout, precision or network");
  }
  Sizes sizes{{}, numbers.back()};
  bool known = sizes.output == 0 || sizes.output == 1;
  for (std::size_t i = form.size(); i + 1 < numbers.size(); i += kEach) {
    const LayerSizes own{numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3]};
    const auto fits = [](int columns) { return columns >= 0 && columns <= kMostColumns; };
    known = known && fits(own.rank) && fits(own.query) && own.divisions >= 1 && own.divisions <= kMaxDivisions &&
            (own.divisions > 1) == (own.query > 0) && (own.own == 0 || own.own == 1);
    sizes.layers.push_back(own);
  }
  if (!known) throw std::invalid_argument("packed memory has sizes that no adapter has");
  return sizes;
}

void fill_weights(float* memory, const LayerLayout& at, const float* weight, const Network& network, int level) {
  const Panels panels{memory + at.weights, network.layers()[level].steps, network.precision()};
  pack_matrix(panels, 0, weight, network.outputs(level), network.width(level), network.order(level),
              network.packed_inputs(level));
}

void fill_entry(float* memory, const LayerLayout& at, const AdapterLayer& layer, const ModuleSpec& module,
                const Lean& left, const Network& network, int level) {
  const Panels panels{memory + at.entry, network.layers()[level].steps, network.precision()};
  const int width = network.width(level), inputs = network.packed_inputs(level);
  const int* order = network.order(level);
  std::vector<const float*> rows;
  for (const int r : left.kept) rows.push_back(module.down + std::size_t(r) * width);
  pack_rows(panels, 0, rows.data(), layer.rank, width, order, inputs);
  if (layer.query == 0) return;
  pack_matrix(panels, layer.rank_p, module.query_weight, layer.query, width, order, inputs);
  std::copy_n(module.query_shift, layer.query, memory + at.entry_bias + layer.rank_p);
}

void fill_key(float* memory, const LayerLayout& at, const AdapterLayer& layer, const ModuleSpec& module,
              const Lean& left) {
  const int last = layer.divisions - 1;
  for (int j = 0; j < last; ++j) {
    const Panels key{memory + at.key + std::size_t(j) * layer.rank_p * layer.query, layer.query, Precision::single};
    float* shift = memory + at.key_shift + std::size_t(j) * layer.query_p;
    for (int f = 0; f < layer.query; ++f) {
      for (int r = 0; r < layer.rank; ++r) {
        const float value = module.key[std::size_t(f) * module.rank + left.kept[r]];
        if (left.division[r] == j) key.set(f, r, value);
        if (left.division[r] == last) key.set(f, r, -value);
      }
      shift[f] = float(double(module.key_shift[j * module.query + f]) - module.key_shift[last * module.query + f]);
    }
  }
  auto* division_of = reinterpret_cast<std::int32_t*>(memory + at.division_of);
  std::fill_n(division_of, layer.rank_p, 0);
  std::copy(left.division.begin(), left.division.end(), division_of);
}

void fill_exit(float* memory, const LayerLayout& at, const AdapterLayer& layer, const ModuleSpec& module,
               const Lean& left, const Network& network, int level) {
  const Panels panels{memory + at.exit, layer.exit_held, network.precision()};
  const int columns = network.outputs(level);
  const float* const bias = module.bias != nullptr ? module.bias : network.bias(level).data();
  const double weight = left.attended ? 1.0 : 1.0 / module.divisions;
  const auto shift = [&](int j, int c) {
    return module.shift != nullptr ? double(module.shift[std::size_t(j) * columns + c]) : 0.0;
  };
  pack_matrix(panels, 0, module.up, columns, module.rank, left.kept.data(), layer.rank, weight);
  for (int c = 0; c < columns; ++c) {
    double constant = 0.0;
    if (left.attended) {
      constant = shift(layer.divisions - 1, c);
      for (int j = 0; j < layer.divisions - 1; ++j) {
        panels.set(layer.rank + j, c, float(shift(j, c) - constant));
      }
    } else {
      for (int j = 0; j < module.divisions; ++j) constant += shift(j, c) * weight;
    }
    const double scale = module.norm_scale[c];
    memory[at.scale + c] = module.norm_scale[c];
    memory[at.bias + c] = float(scale * (bias[c] + constant) + module.norm_shift[c]);
  }
}

void fill_output(float* memory, const Layout& at, const OutputSpec& output, const Network& network) {
  std::copy_n(output.weight, output.inputs, memory + at.output);
  memory[at.output + network.layers().back().columns] = output.bias;
}

// Of memory that is filled, or known to be as long as its layout says.
Output output_of(const Layout& at, const float* memory, const Network& network) {
  if (at.end == at.output) return network.output();
  return {memory + at.output, memory[at.output + network.layers().back().columns]};
}

LayerSizes sizes_of(const ModuleSpec& module, const Lean& left) {
  const int own = module.weight != nullptr ? 1 : 0;
  return {int(left.kept.size()), left.attended ? module.divisions : 1, left.attended ? module.query : 0, own};
}

}  // namespace

Adapter::Adapter(const Network& network, const std::vector<ModuleSpec>& modules, double slope, double intercept,
                 const OutputSpec* output)
    : slope_(slope), intercept_(intercept) {
  if (int(modules.size()) != network.depth()) throw std::invalid_argument("an adapter needs a module for each layer");
  if (output != nullptr && output->inputs != network.outputs(network.depth() - 1)) {
    throw std::invalid_argument("an adapter's output does not fit the network's last layer");
  }
  std::vector<Lean> left;
  Sizes sizes{{}, output != nullptr ? 1 : 0};
  for (int level = 0; level < network.depth(); ++level) {
    const ModuleSpec& module = modules[level];
    if (module.divisions < 1 || module.divisions > kMaxDivisions) {
      throw std::invalid_argument("a module must have 1 to " + std::to_string(kMaxDivisions) + " divisions");
    }
    left.push_back(lean(module, network.width(level), network.outputs(level)));
    sizes.layers.push_back(sizes_of(module, left.back()));
  }
  sizes_ = numbers_of(network, sizes);
  const Layout layout = lay_out(network, sizes, layers_);
  low_columns_ = widest(layers_, network.precision());
  floats_ = layout.end;
  memory_ = Buffer(floats_);
  start_ = memory_.data();
  float* const memory = memory_.data();
  for (int level = 0; level < network.depth(); ++level) {
    AdapterLayer& layer = layers_[level];
    const ModuleSpec& module = modules[level];
    const LayerLayout& at = layout.layers[level];
    if (module.weight != nullptr) fill_weights(memory, at, module.weight, network, level);
    fill_entry(memory, at, layer, module, left[level], network, level);
    if (left[level].attended) fill_key(memory, at, layer, module, left[level]);
    fill_exit(memory, at, layer, module, left[level], network, level);
    point(layer, at, memory, network.layers()[level]);
  }
  if (output != nullptr) fill_output(memory, layout, *output, network);
  output_ = output_of(layout, memory, network);
}

Adapter::Adapter(const Network& network, const std::vector<int>& sizes, const float* memory, std::size_t floats,
                 double slope, double intercept)
    : sizes_(sizes), slope_(slope), intercept_(intercept), start_(memory), floats_(floats) {
  const Layout layout = lay_out(network, checked(network, sizes), layers_);
  if (floats != layout.end) {
    throw std::invalid_argument("packed memory has " + std::to_string(floats) + " floats, its sizes say " +
                                std::to_string(layout.end));
  }
  if (reinterpret_cast<std::uintptr_t>(memory) % kPackedAlignment != 0) {
    throw std::invalid_argument("packed memory does not begin at a cache line");
  }
  low_columns_ = widest(layers_, network.precision());
  for (int level = 0; level < network.depth(); ++level) {
    point(layers_[level], layout.layers[level], memory, network.layers()[level]);
  }
  output_ = output_of(layout, memory, network);
}

}  // namespace espalier
