// From encoded rows to the inputs of the first layer.
#pragma once

#include <cstdint>

#include "network.hpp"

namespace espalier {

// One field's column of a segment. Sparse: int32 rows of the table. Dense: float32. Multi-hot: int32 values, and where
// each row's begin (rows + 1).
struct Column {
  const void* values;
  const std::int64_t* offsets;
  std::int64_t value_count;
};

// Throws std::out_of_range, naming the field, where a column would lead outside its table or its values.
void check_column(const FieldSpec& field, const Column& column, std::int64_t rows);

// Whether a column is the same in all rows.
bool is_constant(const FieldSpec& field, const Column& column, std::int64_t rows);

// Write the vectors of `rows` rows, from `first` on, to `out + offset` of each field that `shared` asks for.
void gather(const Network& network, const Column* columns, std::int64_t first, int rows, bool shared, float* out,
            int stride);

}  // namespace espalier
