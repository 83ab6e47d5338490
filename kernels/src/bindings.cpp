// The Python face: `Network` packs a backbone, `Network.prepare` an adapter, `Network.prepare_dense` one with weights of
// its own, `Network.adopt` takes one that was packed before, `Network.score` scores segments without the interpreter's
// lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>

#include "arrays.hpp"
#include "schedule.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace espalier {

namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Memory = nb::ndarray<nb::numpy, const float, nb::ndim<1>>;
using Logits = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OverlayGiven = std::tuple<std::string, std::string, Rows>;
using TableGiven = std::tuple<std::string, Rows>;
using OutputGiven = std::tuple<Vector, float>;
using FieldGiven = std::tuple<std::string, std::string, bool, int, std::optional<Matrix>>;
using LayerGiven = std::tuple<Matrix, Vector>;
using WeightsGiven = std::tuple<std::string, Rows>;

const Isa* isa_of(const std::optional<std::string>& name, const std::string& precision) {
  if (precision != "fp32" && precision != "bf16") throw std::invalid_argument("precision must be fp32 or bf16");
  const Precision asked = precision == "fp32" ? Precision::single : Precision::half;
  const Isa* isa = name ? find_isa(name->c_str()) : best_isa(asked);
  if (isa == nullptr && name) throw std::runtime_error("this processor has no " + *name);
  if (isa == nullptr) {
    throw std::runtime_error(asked == Precision::single ? "this processor has neither AVX-512 nor AVX2"
                                                        : "this processor has no bfloat16 products (AVX512_BF16)");
  }
  if (isa->precision != asked) throw std::invalid_argument(*name + " does not have precision " + precision);
  return isa;
}

FieldSpec field_of(const FieldGiven& given) {
  const auto& [name, kind, shared, width, table] = given;
  if (kind == "dense") return {name, Kind::dense, shared, width, nullptr, 0};
  if (kind != "sparse" && kind != "multi_hot") throw std::invalid_argument("field " + name + " has no known kind");
  if (!table || int(table->shape(1)) != width) {
    throw std::invalid_argument("field " + name + " needs a table of its width");
  }
  return {name, kind == "sparse" ? Kind::sparse : Kind::multi_hot, shared, width, table->data(),
          std::int64_t(table->shape(0))};
}

// One side's id overlay, with its first-order weights where the backbone has some.
struct Overlaid {
  nb::str side;
  std::size_t field;
  OwnRows rows;
  Rows kept;  // alive
  std::optional<OwnRows> weights;
  std::optional<Rows> weights_kept;
};

// What is added to one field's table.
struct Added {
  std::size_t field;
  OwnRows rows;
  Rows kept;  // alive
};

// A prepared adapter, and the network whose shapes it was checked against.
struct PyAdapter {
  std::shared_ptr<const Network> network;
  Adapter adapter;
  std::vector<Overlaid> overlays;
  std::vector<Added> added;
  std::optional<Vector> adopted;  // kept alive: its memory, where that is another's
};

// All that is packed, as a view that keeps the adapter alive.
Memory memory_of(nb::handle_t<PyAdapter> self) {
  const Adapter& adapter = nb::inst_ptr<PyAdapter>(self)->adapter;
  return Memory(adapter.data(), {adapter.floats()}, self);
}

class PyNetwork {
 public:
  PyNetwork(const std::vector<FieldGiven>& fields, const std::vector<LayerGiven>& layers, const Vector& output,
            float output_bias, const std::optional<std::string>& isa, int threads, const std::vector<int>& cpus,
            int tile_rows, bool share, const std::string& precision, const std::optional<nb::dict>& branch)
      : options_{isa_of(isa, precision), tile_rows, share, true}, threads_(threads, cpus) {
    std::vector<FieldSpec> field_specs;
    for (const FieldGiven& field : fields) {
      field_specs.push_back(field_of(field));
      if (std::get<4>(field)) tables_.push_back(*std::get<4>(field));
      const std::string& name = field_specs.back().name;
      for (const char* suffix : {"", ".values", ".offsets"}) names_.push_back(nb::str((name + suffix).c_str()));
    }
    std::vector<LayerSpec> layer_specs;
    for (const auto& [weight, bias] : layers) {
      if (bias.shape(0) != weight.shape(0)) throw std::invalid_argument("a layer's bias is not as long as its outputs");
      layer_specs.push_back({int(weight.shape(1)), int(weight.shape(0)), weight.data(), bias.data()});
    }
    const OutputSpec last{int(output.shape(0)), output.data(), output_bias};
    {
      const nb::gil_scoped_release release;
      const Isa& isa_used = *options_.isa;
      network_ = std::make_shared<const Network>(field_specs, layer_specs, last, isa_used.precision, isa_used.group);
    }
    if (branch) branch_ = Branch(branch_of(*branch), *network_);
  }

  const char* isa() const { return options_.isa->name; }
  std::size_t nbytes() const { return network_->bytes(); }

  // `weights`: first-order weights of an overlay's rows, by side.
  PyAdapter prepare(const std::vector<nb::dict>& modules, double slope, double intercept,
                    const std::vector<OverlayGiven>& overlays, const std::vector<WeightsGiven>& weights) const {
    PyAdapter made = prepare_dense(modules, std::nullopt, slope, intercept, overlays, {});
    weigh(made.overlays, weights);
    return made;
  }

  // Modules may have a `weight` and a `bias` in the place of the backbone's, and with a bias need no low-rank parts;
  // likewise an output. `tables`: what is added to those of fields.
  PyAdapter prepare_dense(const std::vector<nb::dict>& modules, const std::optional<OutputGiven>& output, double slope,
                          double intercept, const std::vector<OverlayGiven>& overlays,
                          const std::vector<TableGiven>& tables) const {
    std::vector<ModuleSpec> specs;
    std::vector<Matrix> matrices;
    std::vector<Vector> vectors;
    if (int(modules.size()) != network_->depth()) throw std::invalid_argument("an adapter needs a module for each layer");
    for (int level = 0; level < network_->depth(); ++level) {
      specs.push_back(module_of(modules[level], network_->width(level), network_->outputs(level), matrices, vectors));
    }
    std::vector<Overlaid> overlaid = all_overlaid_of(overlays);
    std::vector<Added> added;
    for (const TableGiven& table : tables) added.push_back(added_of(table));
    OutputSpec last{};
    if (output) last = {int(std::get<0>(*output).shape(0)), std::get<0>(*output).data(), std::get<1>(*output)};
    return {network_, packed(specs, slope, intercept, output ? &last : nullptr), std::move(overlaid), std::move(added),
            std::nullopt};
  }

  // What `memory` and `sizes` of an adapter of an equal network gave; nothing is copied.
  PyAdapter adopt(const std::string& isa, const std::vector<int>& sizes, const Vector& memory, double slope,
                  double intercept, const std::vector<OverlayGiven>& overlays,
                  const std::vector<WeightsGiven>& weights) const {
    if (isa != options_.isa->name) {
      throw std::invalid_argument("packed memory is for " + isa + ", and this is " + options_.isa->name);
    }
    std::vector<Overlaid> overlaid = all_overlaid_of(overlays);
    weigh(overlaid, weights);
    return {network_, Adapter(*network_, sizes, memory.data(), memory.shape(0), slope, intercept), std::move(overlaid),
            {}, memory};
  }

  // `given`: (arrays of the rows, number of rows, adapter, positions by side or None).
  void score(const nb::list& given, const Logits& logits, bool calibrated) {
    const std::size_t fields = network_->fields().size();
    std::vector<Column> columns;
    std::vector<Segment> segments;
    columns.reserve(given.size() * fields);
    segments.reserve(given.size());
    Arrays arrays(given.size() * (fields * 2 + 2));
    std::size_t filled = 0;
    for (const nb::handle each : given) {
      if (!PyTuple_Check(each.ptr()) || PyTuple_GET_SIZE(each.ptr()) != 4) {
        throw std::invalid_argument("a segment must be a tuple of four");
      }
      const nb::tuple segment = nb::borrow<nb::tuple>(each);
      const auto rows = nb::cast<Py_ssize_t>(segment[1]);
      const auto& adapter = *nb::inst_ptr<PyAdapter>(checked(segment[2]));
      if (adapter.network != network_) throw std::invalid_argument("an adapter was prepared by another network");
      if (rows < 0 || filled + rows > logits.shape(0)) throw std::invalid_argument("there is no room for all logits");
      segments.push_back({&adapter.adapter, rows, columns.data() + columns.size(), logits.data() + filled});
      filled += rows;
      PyObject* const row_arrays = segment[0].ptr();
      if (!PyDict_Check(row_arrays)) throw std::invalid_argument("a segment's rows must be a dictionary of arrays");
      for (std::size_t f = 0; f < fields; ++f) {
        columns.push_back(arrays.column(network_->fields()[f].spec, names_[3 * f].ptr(), names_[3 * f + 1].ptr(),
                                        names_[3 * f + 2].ptr(), row_arrays, rows));
      }
      Column* const own = columns.data() + columns.size() - fields;
      for (const Added& each : adapter.added) own[each.field].added = &each.rows;
      if (!segment[3].is_none()) overlay(adapter, segment[3], rows, arrays, own);
    }
    Options options = options_;
    options.calibrated = calibrated;
    const nb::gil_scoped_release release;
    espalier::score(*network_, branch_, segments, options, threads_, scratch_);
  }

 private:
  static nb::handle checked(nb::handle adapter) {
    if (!nb::isinstance<PyAdapter>(adapter)) throw std::invalid_argument("a segment needs a prepared adapter");
    return adapter;
  }

  Adapter packed(const std::vector<ModuleSpec>& specs, double slope, double intercept, const OutputSpec* output) const {
    const nb::gil_scoped_release release;
    return Adapter(*network_, specs, slope, intercept, output);
  }

  std::vector<Overlaid> all_overlaid_of(const std::vector<OverlayGiven>& overlays) const {
    std::vector<Overlaid> overlaid;
    for (const OverlayGiven& overlay : overlays) overlaid.push_back(overlaid_of(overlay));
    return overlaid;
  }

  Overlaid overlaid_of(const OverlayGiven& given) const {
    const auto& [side, name, rows] = given;
    const OwnRows own = own_of(rows);
    const auto& fields = network_->fields();
    for (std::size_t f = 0; f < fields.size(); ++f) {
      const FieldSpec& field = fields[f].spec;
      if (field.name != name) continue;
      if (field.kind != Kind::sparse || int(rows.shape(1)) != field.width) break;
      return {nb::str(side.c_str()), f, own, rows, std::nullopt, std::nullopt};
    }
    throw std::invalid_argument("the network has no field " + name + " that the overlay fits");
  }

  static void weigh(std::vector<Overlaid>& overlaid, const std::vector<WeightsGiven>& given) {
    for (const auto& [side, weights] : given) {
      const auto own = std::find_if(overlaid.begin(), overlaid.end(),
                                    [&](const Overlaid& each) { return side == each.side.c_str(); });
      if (own == overlaid.end()) throw std::invalid_argument("first-order weights are of a side without an overlay");
      const OwnRows found = own_of(weights);
      if (found.count != own->rows.count || weights.shape(1) != 1) {
        throw std::invalid_argument("first-order weights must be one for each row of the overlay");
      }
      own->weights = found;
      own->weights_kept = weights;
    }
  }

  // `first_order`: by field (weights, whether one for each row) or None; `factors`: by field a matrix or None, and
  // `pair_width`; `cross`: (weight, bias) of each layer, and `crossed`. What is not there has no place.
  BranchSpec branch_of(const nb::dict& given) {
    BranchSpec spec;
    const auto kept = [&](nb::handle array) {
      branch_vectors_.push_back(nb::cast<Vector>(array));
      return branch_vectors_.back();
    };
    const auto inputs = [&](nb::handle array) {
      const Vector found = kept(array);
      if (int(found.shape(0)) != network_->width(0)) throw std::invalid_argument("a cross layer is not as wide as the inputs");
      return found.data();
    };
    if (given.contains("first_order")) {
      for (const nb::handle each : nb::cast<nb::list>(given["first_order"])) {
        if (each.is_none()) {
          spec.first_order.push_back({nullptr, 0, false});
          continue;
        }
        const nb::tuple pair = nb::cast<nb::tuple>(each);
        const Vector weights = kept(pair[0]);
        spec.first_order.push_back({weights.data(), std::int64_t(weights.shape(0)), nb::cast<bool>(pair[1])});
      }
    }
    if (given.contains("factors")) {
      spec.pair_width = nb::cast<int>(given["pair_width"]);
      if (spec.pair_width < 1) throw std::invalid_argument("pairs of fields need a width");
      std::size_t field = 0;
      for (const nb::handle each : nb::cast<nb::list>(given["factors"])) {
        if (field == network_->fields().size()) throw std::invalid_argument("there are more factors than fields");
        const int width = network_->fields()[field++].spec.width;
        if (each.is_none()) {
          spec.factors.push_back(nullptr);
          continue;
        }
        tables_.push_back(nb::cast<Matrix>(each));
        if (int(tables_.back().shape(0)) != width || int(tables_.back().shape(1)) != spec.pair_width) {
          throw std::invalid_argument("a factor has a shape that does not fit its field");
        }
        spec.factors.push_back(tables_.back().data());
      }
    }
    if (given.contains("cross")) {
      for (const nb::handle each : nb::cast<nb::list>(given["cross"])) {
        const nb::tuple pair = nb::cast<nb::tuple>(each);
        const float* const weight = inputs(pair[0]);
        spec.cross.push_back({weight, inputs(pair[1])});
      }
      spec.crossed = inputs(given["crossed"]);
    }
    return spec;
  }

  Added added_of(const TableGiven& given) const {
    const auto& [name, rows] = given;
    const OwnRows own = own_of(rows);
    const auto& fields = network_->fields();
    for (std::size_t f = 0; f < fields.size(); ++f) {
      const FieldSpec& field = fields[f].spec;
      if (field.name != name) continue;
      if (field.kind == Kind::dense || own.count != field.rows || int(rows.shape(1)) != field.width) break;
      return {f, own, rows};
    }
    throw std::invalid_argument("the network has no table of field " + name + " that what is added to it fits");
  }

  static OwnRows own_of(const Rows& rows) {
    const nb::dlpack::dtype type = rows.dtype();
    if (type.code != std::uint8_t(nb::dlpack::dtype_code::Float) || (type.bits != 16 && type.bits != 32)) {
      throw std::invalid_argument("rows of an adapter's own must be float16 or float32");
    }
    return {rows.data(), std::int64_t(rows.shape(0)), type.bits == 16};
  }

  void overlay(const PyAdapter& adapter, nb::handle overlaid, Py_ssize_t rows, Arrays& arrays, Column* columns) const {
    if (adapter.overlays.empty()) return;
    if (!PyDict_Check(overlaid.ptr())) throw std::invalid_argument("positions must be a dictionary by side");
    for (const Overlaid& own : adapter.overlays) {
      Column& column = columns[own.field];
      column.positions = arrays.positions(network_->fields()[own.field].spec, own.side.ptr(), overlaid.ptr(), rows);
      if (column.positions == nullptr) continue;
      column.overlay = &own.rows;
      column.overlay_weights = own.weights ? &*own.weights : nullptr;
    }
  }

  static ModuleSpec module_of(const nb::dict& module, int inputs, int columns, std::vector<Matrix>& matrices,
                              std::vector<Vector>& vectors) {
    const auto matrix = [&](const char* name, std::size_t rows, std::size_t n) {
      matrices.push_back(nb::cast<Matrix>(module[name]));
      if (matrices.back().shape(0) != rows || matrices.back().shape(1) != n) {
        throw std::invalid_argument(std::string(name) + " has a shape that does not fit the network");
      }
      return matrices.back().data();
    };
    const auto vector = [&](const char* name, std::size_t n) {
      vectors.push_back(nb::cast<Vector>(module[name]));
      if (vectors.back().shape(0) != n) throw std::invalid_argument(std::string(name) + " has a wrong length");
      return vectors.back().data();
    };
    ModuleSpec spec{};
    spec.norm_scale = vector("norm_scale", columns);
    spec.norm_shift = vector("norm_shift", columns);
    if (module.contains("weight")) spec.weight = matrix("weight", columns, inputs);
    if (module.contains("bias")) spec.bias = vector("bias", columns);
    spec.divisions = 1;
    if (spec.bias != nullptr && !module.contains("down")) return spec;
    spec.rank = int(nb::cast<Matrix>(module["down"]).shape(0));
    spec.divisions = int(nb::cast<Matrix>(module["shift"]).shape(0));
    spec.query = int(nb::cast<Matrix>(module["query"]).shape(0));
    spec.down = matrix("down", spec.rank, inputs);
    spec.up = matrix("up", columns, spec.rank);
    spec.shift = matrix("shift", spec.divisions, columns);
    spec.query_weight = matrix("query", spec.query, inputs);
    spec.query_shift = vector("query_shift", spec.query);
    spec.key = matrix("key", spec.query, spec.rank);
    spec.key_shift = matrix("key_shift", spec.divisions, spec.query);
    spec.group = matrix("group", spec.divisions, spec.rank);
    return spec;
  }

  Options options_;
  std::vector<Matrix> tables_;  // kept alive
  std::vector<nb::str> names_;  // of each field: its own, of its values, of its offsets
  std::vector<Vector> branch_vectors_;  // likewise
  std::shared_ptr<const Network> network_;
  Branch branch_;
  Threads threads_;
  Scratch scratch_;
};

}  // namespace

}  // namespace espalier

NB_MODULE(_native, module) {
  using espalier::PyAdapter;
  using espalier::PyNetwork;

  module.def("instruction_sets", [] {
    std::vector<std::string> found;
    for (const char* name : {"avx512", "amx_bf16", "avx512_bf16", "avx2"}) {
      if (espalier::find_isa(name) != nullptr) found.emplace_back(name);
    }
    return found;
  });

  nb::class_<PyAdapter>(module, "Adapter")
      .def_prop_ro("nbytes", [](const PyAdapter& self) { return self.adapter.bytes(); })
      .def_prop_ro("sizes", [](const PyAdapter& self) { return self.adapter.sizes(); })
      .def_prop_ro("memory", &espalier::memory_of);

  nb::class_<PyNetwork>(module, "Network")
      .def(nb::init<const std::vector<espalier::FieldGiven>&, const std::vector<espalier::LayerGiven>&,
                    const espalier::Vector&, float, const std::optional<std::string>&, int, const std::vector<int>&, int,
                    bool, const std::string&, const std::optional<nb::dict>&>(),
           "fields"_a, "layers"_a, "output"_a, "output_bias"_a, nb::kw_only(), "isa"_a = nb::none(), "threads"_a = 1,
           "cpus"_a = std::vector<int>{}, "tile_rows"_a = 0, "share"_a = true, "precision"_a = "fp32",
           "branch"_a = nb::none())
      .def_prop_ro("isa", &PyNetwork::isa)
      .def_prop_ro("nbytes", &PyNetwork::nbytes)
      .def("prepare", &PyNetwork::prepare, "modules"_a, "slope"_a = 1.0, "intercept"_a = 0.0,
           "overlays"_a = std::vector<espalier::OverlayGiven>{}, "weights"_a = std::vector<espalier::WeightsGiven>{})
      .def("prepare_dense", &PyNetwork::prepare_dense, "modules"_a, "output"_a.none(), "slope"_a, "intercept"_a,
           "overlays"_a, "tables"_a)
      .def("adopt", &PyNetwork::adopt, "isa"_a, "sizes"_a, "memory"_a.noconvert(), "slope"_a, "intercept"_a,
           "overlays"_a, "weights"_a = std::vector<espalier::WeightsGiven>{})
      .def("score", &PyNetwork::score, "segments"_a, "logits"_a, nb::kw_only(), "calibrated"_a = true);
}
