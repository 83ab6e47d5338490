#include "gather.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>

namespace espalier {

namespace {

void check_rows(const FieldSpec& field, const std::int32_t* rows, std::int64_t n) {
  std::uint32_t largest = 0;  // a negative row is a very large one
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::uint32_t(rows[i]));
  if (n > 0 && std::int64_t(largest) >= field.rows) {
    throw std::out_of_range("field " + field.name + " holds a row outside its table of " + std::to_string(field.rows));
  }
}

void gather_sparse(const FieldSpec& field, const std::int32_t* rows, int n, float* out, int stride) {
  constexpr int kAhead = 8;  // rows of a large table come from memory
  const std::size_t bytes = std::size_t(field.width) * sizeof(float);
  for (int i = 0; i < n; ++i) {
    if (i + kAhead < n) __builtin_prefetch(field.table + std::int64_t(rows[i + kAhead]) * field.width);
    const float* row = field.table + std::int64_t(rows[i]) * field.width;
    if (field.width == 16) {  // a size known to the compiler
      std::memcpy(out + std::int64_t(i) * stride, row, 16 * sizeof(float));
    } else {
      std::memcpy(out + std::int64_t(i) * stride, row, bytes);
    }
  }
}

void gather_dense(const float* values, int n, float* out, int stride) {
  for (int i = 0; i < n; ++i) out[std::int64_t(i) * stride] = values[i];
}

// The mean of each row's list, added in its order; no list is zero.
void gather_lists(const FieldSpec& field, const std::int32_t* values, const std::int64_t* offsets, int n, float* out,
                  int stride) {
  for (int i = 0; i < n; ++i, out += stride) {
    std::memset(out, 0, std::size_t(field.width) * sizeof(float));
    const std::int64_t count = offsets[i + 1] - offsets[i];
    for (std::int64_t at = offsets[i]; at < offsets[i + 1]; ++at) {
      const float* row = field.table + std::int64_t(values[at]) * field.width;
      for (int j = 0; j < field.width; ++j) out[j] += row[j];
    }
    for (int j = 0; count > 1 && j < field.width; ++j) out[j] /= float(count);
  }
}

float from_half(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, digits = half & 1023;
  if (exponent == 0) {
    const float small = float(digits) * 0x1p-24f;
    return sign != 0 ? -small : small;
  }
  return std::bit_cast<float>(sign | (exponent == 31 ? 255u : exponent + 112) << 23 | digits << 13);
}

void add_sparse(const OwnRows& own, const std::int32_t* rows, int n, int width, float* out, int stride) {
  for (int i = 0; i < n; ++i, out += stride) {
    const std::int64_t start = std::int64_t(rows[i]) * width;
    for (int j = 0; j < width; ++j) out[j] += value_of(own, start + j);
  }
}

// The mean of a list's rows is added to that of the table's.
void add_lists(const OwnRows& own, const std::int32_t* values, const std::int64_t* offsets, int n, int width, float* out,
               int stride) {
  for (int i = 0; i < n; ++i, out += stride) {
    const std::int64_t count = offsets[i + 1] - offsets[i];
    for (int j = 0; count > 0 && j < width; ++j) {
      float total = 0.0f;
      for (std::int64_t at = offsets[i]; at < offsets[i + 1]; ++at) {
        total += value_of(own, std::int64_t(values[at]) * width + j);
      }
      out[j] += total / float(count);
    }
  }
}

void overlay(const OwnRows& own, const std::int64_t* positions, int n, int width, float* out, int stride) {
  for (int i = 0; i < n; ++i, out += stride) {
    if (positions[i] < 0) continue;
    const std::int64_t start = positions[i] * width;
    if (own.half) {
      const auto* row = static_cast<const std::uint16_t*>(own.rows) + start;
      for (int j = 0; j < width; ++j) out[j] = from_half(row[j]);
    } else {
      std::memcpy(out, static_cast<const float*>(own.rows) + start, std::size_t(width) * sizeof(float));
    }
  }
}

}  // namespace

float value_of(const OwnRows& own, std::int64_t at) {
  return own.half ? from_half(static_cast<const std::uint16_t*>(own.rows)[at]) : static_cast<const float*>(own.rows)[at];
}

void check_column(const FieldSpec& field, const Column& column, std::int64_t rows) {
  if (field.kind == Kind::dense) return;
  const auto* values = static_cast<const std::int32_t*>(column.values);
  if (field.kind == Kind::multi_hot) {
    std::int64_t last = 0;
    for (std::int64_t i = 0; i <= rows; ++i) {
      const std::int64_t offset = column.offsets[i];
      if (offset < last || offset > column.value_count) {
        throw std::out_of_range("field " + field.name + " has offsets that leave its values");
      }
      last = offset;
    }
    check_rows(field, values, column.value_count);
    return;
  }
  check_rows(field, values, rows);
  for (std::int64_t i = 0; column.overlay != nullptr && i < rows; ++i) {
    if (column.positions[i] >= column.overlay->count) {
      throw std::out_of_range("field " + field.name + " has a position outside its overlay");
    }
  }
}

bool is_constant(const FieldSpec& field, const Column& column, std::int64_t rows) {
  const auto* values = static_cast<const char*>(column.values);
  if (column.overlay != nullptr && rows > 1 &&
      std::memcmp(column.positions, column.positions + 1, std::size_t(rows - 1) * 8) != 0) {
    return false;
  }
  if (field.kind != Kind::multi_hot) {
    return rows < 2 || std::memcmp(values, values + 4, std::size_t(rows - 1) * 4) == 0;
  }
  const std::int64_t length = column.offsets[1] - column.offsets[0];
  const char* first = values + 4 * column.offsets[0];
  for (std::int64_t i = 1; i < rows; ++i) {
    if (column.offsets[i + 1] - column.offsets[i] != length) return false;
    if (length > 0 && std::memcmp(first, values + 4 * column.offsets[i], std::size_t(length) * 4) != 0) return false;
  }
  return true;
}

void gather(const Network& network, const Column* columns, std::int64_t first, int rows, bool shared, float* out,
            int stride) {
  for (std::size_t f = 0; f < network.fields().size(); ++f) {
    const auto& [field, offset] = network.fields()[f];
    if (field.shared != shared) continue;
    float* to = out + offset;
    if (field.kind == Kind::dense) {
      gather_dense(static_cast<const float*>(columns[f].values) + first, rows, to, stride);
    } else if (field.kind == Kind::sparse) {
      const std::int32_t* values = static_cast<const std::int32_t*>(columns[f].values) + first;
      gather_sparse(field, values, rows, to, stride);
      if (columns[f].added != nullptr) add_sparse(*columns[f].added, values, rows, field.width, to, stride);
      if (columns[f].overlay != nullptr) {
        overlay(*columns[f].overlay, columns[f].positions + first, rows, field.width, to, stride);
      }
    } else {
      const auto* values = static_cast<const std::int32_t*>(columns[f].values);
      const std::int64_t* offsets = columns[f].offsets + first;
      gather_lists(field, values, offsets, rows, to, stride);
      if (columns[f].added != nullptr) {
        add_lists(*columns[f].added, values, offsets, rows, field.width, to, stride);
      }
    }
  }
  const int end = shared ? network.shared_inputs() : network.inputs();
  for (int i = end - 1; i >= 0 && network.order(0)[i] == Network::kPadding; --i) {
    for (int row = 0; row < rows; ++row) out[std::int64_t(row) * stride + i] = 0.0f;
  }
}

}  // namespace espalier
