#include "oracle.hpp"

#include <algorithm>
#include <cmath>

namespace oracle {

namespace {

using espalier::Column;
using espalier::FieldSpec;
using espalier::Kind;
using espalier::ModuleSpec;

double dot(const float* row, const Row& x) {
  double total = 0;
  for (std::size_t i = 0; i < x.size(); ++i) total += double(row[i]) * x[i];
  return total;
}

Row times(const float* matrix, int rows, const Row& x) {
  Row out;
  for (int r = 0; r < rows; ++r) out.push_back(dot(matrix + std::size_t(r) * x.size(), x));
  return out;
}

// The weight of each division.
Row weights(const ModuleSpec& module, const Row& x, const Row& z) {
  Row q = times(module.query_weight, module.query, x);
  for (int f = 0; f < module.query; ++f) q[f] += module.query_shift[f];
  Row found(module.divisions, 0.0);
  for (int j = 0; j < module.divisions; ++j) {
    for (int f = 0; f < module.query; ++f) {
      found[j] += q[f] * module.key_shift[j * module.query + f];
      for (int r = 0; r < module.rank; ++r) {
        found[j] += double(module.group[j * module.rank + r]) * z[r] * q[f] * module.key[f * module.rank + r];
      }
    }
  }
  const double largest = *std::max_element(found.begin(), found.end());
  double total = 0;
  for (double& each : found) total += each = std::exp(each - largest);
  for (double& each : found) each /= total;
  return found;
}

}  // namespace

Row inputs(const std::vector<FieldSpec>& fields, const std::vector<Column>& columns, std::int64_t row) {
  Row x;
  for (std::size_t f = 0; f < fields.size(); ++f) {
    const FieldSpec& field = fields[f];
    const Column& column = columns[f];
    if (field.kind == Kind::dense) {
      x.push_back(static_cast<const float*>(column.values)[row]);
      continue;
    }
    const auto* values = static_cast<const std::int32_t*>(column.values);
    const bool many = field.kind == Kind::multi_hot;
    const std::int64_t from = many ? column.offsets[row] : row, to = many ? column.offsets[row + 1] : row + 1;
    const bool overlaid = column.overlay != nullptr && column.positions[row] >= 0;
    for (int j = 0; j < field.width; ++j) {
      double total = 0;
      for (std::int64_t i = from; i < to; ++i) {
        const std::int64_t at = std::int64_t(values[i]) * field.width + j;
        total += field.table[at];
        if (column.added != nullptr) total += static_cast<const float*>(column.added->rows)[at];
      }
      if (overlaid) {
        total = static_cast<const float*>(column.overlay->rows)[column.positions[row] * field.width + j];
      }
      x.push_back(to > from ? total / double(to - from) : 0.0);
    }
  }
  return x;
}

double logit(Row x, const std::vector<espalier::LayerSpec>& layers, const espalier::OutputSpec& output,
             const std::vector<ModuleSpec>& modules) {
  for (std::size_t level = 0; level < layers.size(); ++level) {
    const espalier::LayerSpec& layer = layers[level];
    const ModuleSpec& module = modules[level];
    const Row z = times(module.down, module.rank, x);
    const Row w = module.rank > 0 ? weights(module, x, z) : Row(1, 1.0);
    Row h = times(module.weight != nullptr ? module.weight : layer.weight, layer.columns, x);
    for (int c = 0; c < layer.columns; ++c) {
      h[c] += (module.bias != nullptr ? module.bias : layer.bias)[c];
      for (int j = 0; j < module.divisions; ++j) {
        if (module.shift != nullptr) h[c] += w[j] * module.shift[j * layer.columns + c];
        for (int r = 0; r < module.rank; ++r) {
          h[c] += w[j] * module.group[j * module.rank + r] * z[r] * module.up[c * module.rank + r];
        }
      }
      h[c] = std::max(0.0, h[c] * module.norm_scale[c] + module.norm_shift[c]);
    }
    x = std::move(h);
  }
  return dot(output.weight, x) + output.bias;
}

double beside(const Row& x, const espalier::BranchSpec& branch, const std::vector<FieldSpec>& fields,
              const std::vector<Column>& columns, std::int64_t row) {
  double total = 0;
  std::vector<Row> vectors;
  for (std::size_t f = 0, at = 0; f < fields.size(); at += fields[f++].width) {
    vectors.emplace_back(x.begin() + at, x.begin() + at + fields[f].width);
  }
  for (std::size_t f = 0; f < branch.first_order.size(); ++f) {
    const auto& [weights, count, by_row] = branch.first_order[f];
    const Column& column = columns[f];
    const auto* values = static_cast<const std::int32_t*>(column.values);
    if (weights == nullptr) continue;
    if (!by_row) {
      total += dot(weights, vectors[f]);
    } else if (fields[f].kind == Kind::multi_hot) {
      const std::int64_t from = column.offsets[row], to = column.offsets[row + 1];
      for (std::int64_t i = from; i < to; ++i) total += double(weights[values[i]]) / double(to - from);
    } else {
      const bool own = column.overlay_weights != nullptr && column.positions[row] >= 0;
      total += own ? static_cast<const float*>(column.overlay_weights->rows)[column.positions[row]] : weights[values[row]];
    }
  }
  for (std::size_t one = 0; one < branch.factors.size(); ++one) {
    for (std::size_t other = 0; other < one; ++other) {
      for (int j = 0; j < branch.pair_width; ++j) {
        double both = 1;
        for (const std::size_t f : {one, other}) {
          double value = branch.factors[f] == nullptr ? vectors[f][j] : 0.0;
          for (int i = 0; branch.factors[f] != nullptr && i < fields[f].width; ++i) {
            value += vectors[f][i] * branch.factors[f][std::size_t(i) * branch.pair_width + j];
          }
          both *= value;
        }
        total += both;
      }
    }
  }
  Row crossed = x;
  for (const espalier::CrossSpec& layer : branch.cross) {
    const double along = dot(layer.weight, crossed);
    for (std::size_t i = 0; i < x.size(); ++i) crossed[i] += x[i] * along + layer.bias[i];
  }
  return total + (branch.crossed != nullptr ? dot(branch.crossed, crossed) : 0.0);
}

}  // namespace oracle
