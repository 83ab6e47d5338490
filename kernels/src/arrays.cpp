#include "arrays.hpp"

#include <stdexcept>

namespace espalier {

namespace {

bool is_of_type(const Py_buffer& view, char format, Py_ssize_t size) {
  if (view.itemsize != size || view.ndim != 1 || view.format == nullptr || view.format[1] != '\0') return false;
  const char found = view.format[0];
  if (format == 'f') return found == 'f';
  return found == 'i' || found == 'l' || found == 'q';  // the size tells them apart
}

}  // namespace

Arrays::~Arrays() {
  for (Py_buffer& view : held_) PyBuffer_Release(&view);
}

const Py_buffer& Arrays::look(const FieldSpec& field, PyObject* array, char format, Py_ssize_t size) {
  if (array == nullptr) {
    PyErr_Clear();
    throw std::invalid_argument("field " + field.name + " is missing among the rows");
  }
  Py_buffer view;
  if (PyObject_GetBuffer(array, &view, PyBUF_ND | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw std::invalid_argument("field " + field.name + " is no contiguous array");
  }
  held_.push_back(view);
  if (!is_of_type(view, format, size)) {
    throw std::invalid_argument("field " + field.name + " is an array of a wrong type or number of dimensions");
  }
  return held_.back();
}

Column Arrays::column(const FieldSpec& field, PyObject* name, PyObject* values_name, PyObject* offsets_name,
                      PyObject* arrays, Py_ssize_t rows) {
  const auto find = [arrays](PyObject* key) { return PyDict_GetItemWithError(arrays, key); };
  if (field.kind != Kind::multi_hot) {
    const Py_buffer& view = look(field, find(name), field.kind == Kind::dense ? 'f' : 'i', 4);
    if (view.shape[0] != rows) throw std::invalid_argument("field " + field.name + " has a wrong number of rows");
    return {view.buf, nullptr, rows};
  }
  const Py_buffer values = look(field, find(values_name), 'i', 4);
  const Py_buffer offsets = look(field, find(offsets_name), 'i', 8);
  if (offsets.shape[0] != rows + 1) throw std::invalid_argument("field " + field.name + " has a wrong number of rows");
  return {values.buf, static_cast<const std::int64_t*>(offsets.buf), values.shape[0]};
}

const std::int64_t* Arrays::positions(const FieldSpec& field, PyObject* side, PyObject* overlaid, Py_ssize_t rows) {
  PyObject* array = PyDict_GetItemWithError(overlaid, side);
  if (array == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  const Py_buffer& view = look(field, array, 'i', 8);
  if (view.shape[0] != rows) throw std::invalid_argument("field " + field.name + " has a wrong number of positions");
  return static_cast<const std::int64_t*>(view.buf);
}

}  // namespace espalier
