// From encoded rows to the inputs of the first layer.
#pragma once

#include <cstdint>

#include "network.hpp"

namespace espalier {

// Rows that an adapter has of its own for one field, (count, width of the field): of its id overlay, or what it adds to
// the field's table.
struct OwnRows {
  const void* rows;
  std::int64_t count;
  bool half;  // float16, else float32
};

// One field's column of a segment. Sparse: int32 rows of the table. Dense: float32. Multi-hot: int32 values, and where
// each row's begin (rows + 1). What an adapter adds is looked up as the table is, and added. Where there is an overlay, a
// position that is not negative then replaces a sparse row by one of the overlay's.
struct Column {
  const void* values;
  const std::int64_t* offsets;
  std::int64_t value_count;
  const OwnRows* overlay = nullptr;
  const std::int64_t* positions = nullptr;
  const OwnRows* added = nullptr;  // as many as the table has
  const OwnRows* overlay_weights = nullptr;  // first-order weights (count, 1) of the overlay's rows
};

// One number of an adapter's own rows.
float value_of(const OwnRows& own, std::int64_t at);

// Throws std::out_of_range, naming the field, where a column would lead outside its table, its values or its overlay.
void check_column(const FieldSpec& field, const Column& column, std::int64_t rows);

// Whether a column is the same in all rows.
bool is_constant(const FieldSpec& field, const Column& column, std::int64_t rows);

// Write the vectors of `rows` rows, from `first` on, to `out + offset` of each field that `shared` asks for.
void gather(const Network& network, const Column* columns, std::int64_t first, int rows, bool shared, float* out,
            int stride);

}  // namespace espalier
