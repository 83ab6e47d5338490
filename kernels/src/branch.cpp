#include "branch.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace espalier {

namespace {

constexpr int kSums = 8;  // that a product is added up in, side by side; the order of additions is the same in every row

float product(const float* a, const float* b, int n) {
  float sums[kSums] = {};
  int i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (int j = 0; i < n; ++i, ++j) sums[j] += a[i] * b[i];
  float total = 0.0f;
  for (const float sum : sums) total += sum;
  return total;
}

// To the packed order of inputs; padding gets zeros.
std::vector<float> packed(const float* values, const Network& network) {
  std::vector<float> found(network.inputs(), 0.0f);
  for (int i = 0; i < network.inputs(); ++i) {
    const int from = network.order(0)[i];
    if (from != Network::kPadding) found[i] = values[from];
  }
  return found;
}

}  // namespace

Branch::Branch(const BranchSpec& spec, const Network& network)
    : first_order_(spec.first_order), factors_(spec.factors), pair_width_(spec.pair_width) {
  const auto& fields = network.fields();
  if (!first_order_.empty() && first_order_.size() != fields.size()) {
    throw std::invalid_argument("first-order weights must be given for every field");
  }
  for (std::size_t f = 0; f < first_order_.size(); ++f) {
    const FieldSpec& field = fields[f].spec;
    const BranchSpec::Weights& weights = first_order_[f];
    if (weights.of == nullptr) continue;
    if (weights.by_row && field.kind == Kind::dense) {
      throw std::invalid_argument("field " + field.name + " has no rows to weigh");
    }
    if (weights.count != (weights.by_row ? field.rows : std::int64_t(field.width))) {
      throw std::invalid_argument("the first-order weights of field " + field.name + " have a wrong length");
    }
  }
  if (pair_width_ > 0 && factors_.size() != fields.size()) {
    throw std::invalid_argument("factors must be given for every field, or none for one");
  }
  for (std::size_t f = 0; pair_width_ > 0 && f < fields.size(); ++f) {
    if (factors_[f] == nullptr && fields[f].spec.width != pair_width_) {
      throw std::invalid_argument("field " + fields[f].spec.name + " needs a factor to the width of pairs");
    }
  }
  if (!spec.cross.empty() && spec.crossed == nullptr) throw std::invalid_argument("a cross network needs its output");
  for (const CrossSpec& layer : spec.cross) cross_.push_back({packed(layer.weight, network), packed(layer.bias, network)});
  if (spec.crossed != nullptr) crossed_ = packed(spec.crossed, network);
}

void Branch::score(const Network& network, const Column* columns, std::int64_t first, int rows, const float* own,
                   int stride, const float* shared, std::vector<float>& scratch, float* out) const {
  const int inputs = network.inputs(), common = shared != nullptr ? network.shared_inputs() : 0;
  scratch.resize(std::size_t(inputs) + std::max(inputs, 3 * pair_width_));
  float* const x = scratch.data();
  float* const rest = x + inputs;
  if (common > 0) std::memcpy(x, shared, std::size_t(common) * sizeof(float));
  for (int row = 0; row < rows; ++row, own += stride) {
    std::memcpy(x + common, own + common, std::size_t(inputs - common) * sizeof(float));
    float total = 0.0f;
    if (!first_order_.empty()) total += first_order(network, columns, first + row, x);
    if (pair_width_ > 0) total += pairs(network, x, rest);
    if (!crossed_.empty()) total += crossed(x, inputs, rest);
    out[row] = total;
  }
}

float Branch::first_order(const Network& network, const Column* columns, std::int64_t row, const float* x) const {
  float total = 0.0f;
  for (std::size_t f = 0; f < first_order_.size(); ++f) {
    const auto& [weights, count, by_row] = first_order_[f];
    if (weights == nullptr) continue;
    const auto& [field, offset] = network.fields()[f];
    const Column& column = columns[f];
    const auto* values = static_cast<const std::int32_t*>(column.values);
    if (!by_row) {
      total += product(weights, x + offset, field.width);
    } else if (field.kind == Kind::multi_hot) {
      const std::int64_t begin = column.offsets[row], end = column.offsets[row + 1];
      float sum = 0.0f;
      for (std::int64_t at = begin; at < end; ++at) sum += weights[values[at]];
      if (end > begin) total += sum / float(end - begin);
    } else if (column.overlay_weights != nullptr && column.positions[row] >= 0) {
      total += value_of(*column.overlay_weights, column.positions[row]);
    } else {
      total += weights[values[row]];
    }
  }
  return total;
}

// 1/2 ((sum of v)^2 - sum of v^2), summed over the elements.
float Branch::pairs(const Network& network, const float* x, float* scratch) const {
  float* const sum = scratch;
  float* const squares = sum + pair_width_;
  float* const own = squares + pair_width_;
  std::fill_n(sum, 2 * pair_width_, 0.0f);
  for (std::size_t f = 0; f < network.fields().size(); ++f) {
    const auto& [field, offset] = network.fields()[f];
    const float* vector = x + offset;
    if (factors_[f] != nullptr) {
      std::fill_n(own, pair_width_, 0.0f);
      for (int i = 0; i < field.width; ++i) {
        const float* const factor = factors_[f] + std::size_t(i) * pair_width_;
        for (int j = 0; j < pair_width_; ++j) own[j] += vector[i] * factor[j];
      }
      vector = own;
    }
    for (int j = 0; j < pair_width_; ++j) {
      sum[j] += vector[j];
      squares[j] += vector[j] * vector[j];
    }
  }
  float total = 0.0f;
  for (int j = 0; j < pair_width_; ++j) total += (sum[j] * sum[j] - squares[j]) * 0.5f;
  return total;
}

float Branch::crossed(const float* x0, int inputs, float* x) const {
  std::memcpy(x, x0, std::size_t(inputs) * sizeof(float));
  for (const Cross& layer : cross_) {
    const float along = product(x, layer.weight.data(), inputs);
    for (int i = 0; i < inputs; ++i) x[i] = x0[i] * along + layer.bias[i] + x[i];
  }
  return product(x, crossed_.data(), inputs);
}

}  // namespace espalier
