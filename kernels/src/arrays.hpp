// NumPy arrays as the core sees them, through the buffer protocol: one look costs less than a conversion would.
#pragma once

#include <Python.h>

#include <vector>

#include "gather.hpp"
#include "network.hpp"

namespace espalier {

// Buffers that are held while the core reads them. Used with the interpreter's lock held.
class Arrays {
 public:
  explicit Arrays(std::size_t expected) { held_.reserve(expected); }
  ~Arrays();
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;

  // The column of a field in a dictionary of encoded rows. Throws std::invalid_argument, naming the field, where an
  // array is missing, or of a wrong type or length.
  Column column(const FieldSpec& field, PyObject* name, PyObject* values_name, PyObject* offsets_name, PyObject* arrays,
                Py_ssize_t rows);

  // Positions of a segment's rows in an overlay, int64 (rows); nullptr where the dictionary lacks the side.
  const std::int64_t* positions(const FieldSpec& field, PyObject* side, PyObject* overlaid, Py_ssize_t rows);

 private:
  const Py_buffer& look(const FieldSpec& field, PyObject* array, char format, Py_ssize_t size);

  std::vector<Py_buffer> held_;
};

}  // namespace espalier
