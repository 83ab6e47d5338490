// Random networks, what stands beside their towers, adapters (low rank, dense, both or neither in each layer) and
// batches: every row's logit is the oracle's, and the same bits whatever the tile, the threads and the company, whether an
// adapter was packed here or its packed memory was adopted, in float32 also whatever the instruction set. In bfloat16 it is
// the oracle's as far as eight binary digits go.
// `fuzz [worlds] [first seed]`; built with sanitizers by sanitize.sh.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

#include "oracle.hpp"
#include "schedule.hpp"

namespace espalier {
extern const Isa kEmulated;  // tests/isa_emulated.cpp
}

namespace {

using namespace espalier;

// Arrays of exactly their own size, so that a sanitizer sees the first step outside.
template <class T>
class Pool {
 public:
  T* take(std::size_t n) {
    held_.push_back(std::make_unique<T[]>(n));
    return held_.back().get();
  }

 private:
  std::vector<std::unique_ptr<T[]>> held_;
};

struct Request {
  int adapter;
  std::int64_t rows;
  std::vector<Column> columns;
  std::vector<double> expected;
};

class World {
 public:
  explicit World(unsigned seed) : random_(seed) {
    draw_fields();
    draw_layers();
    networks_.push_back(std::make_unique<Network>(fields_, layers_, output_));
    for (const int group : {2, 32}) {
      networks_.push_back(std::make_unique<Network>(fields_, layers_, output_, Precision::half, group));
    }
    draw_branch();
    for (const auto& network : networks_) branches_.emplace_back(branch_, *network);
    adapters_.resize(networks_.size());
    adopted_.resize(networks_.size());
    for (int i = 0, n = between(1, 4); i < n; ++i) draw_adapter();
    for (int i = 0, n = between(1, 8); i < n; ++i) draw_request();
  }

  // The logits of requests in this order, one after the other.
  std::vector<double> score(const std::vector<int>& order, const Options& options, int threads, bool adopted = false) {
    const std::size_t form = options.isa->precision == Precision::single ? 0 : options.isa->group == 2 ? 1 : 2;
    std::vector<Segment> segments;
    std::int64_t total = 0;
    for (const int i : order) total += requests_[i].rows;
    std::vector<double> logits(total, -1e9);
    double* next = logits.data();
    for (const int i : order) {
      const Adapter* adapter = (adopted ? adopted_ : adapters_)[form][requests_[i].adapter].get();
      segments.push_back({adapter, requests_[i].rows, requests_[i].columns.data(), next});
      next += requests_[i].rows;
    }
    Threads pool(threads, {});
    Scratch scratch;
    espalier::score(*networks_[form], branches_[form], segments, options, pool, scratch);
    return logits;
  }

  void check() {
    std::vector<double> single;
    std::vector<int> all;
    for (int i = 0; i < int(requests_.size()); ++i) all.push_back(i);
    const Isa* emulated = kEmulated.available() ? &kEmulated : nullptr;
    for (const Isa* isa : {find_isa("avx512"), find_isa("avx2"), find_isa("avx512_bf16"), find_isa("amx_bf16"), emulated}) {
      if (isa == nullptr) continue;
      const std::vector<double> first = score(all, {isa, 0, true, true}, 1);
      if (isa->precision == Precision::single) {
        hold_to_oracle(first, isa->name, 2e-5, 2e-5);
        if (single.empty()) single = first;
        hold_equal(single, first, "another instruction set");
      } else {
        hold_to_oracle(first, isa->name, 0.15, 0.02);
      }
      hold_equal(first, score(all, {isa, between(1, 40), true, true}, 1), "another tile");
      hold_equal(first, score(all, {isa, between(1, 40), false, true}, 3), "threads, nothing shared");
      hold_equal(first, score(all, {isa, 0, true, true}, 1, true), "adopted memory");
      hold_company(all, first, isa);
    }
    // whatever stands in adopted memory, nothing outside it is read: a sanitizer would see it
    for (const auto& copy : copies_) {
      for (std::size_t i = 0; i < copy->size(); ++i) {
        const std::uint32_t bits = random_();
        std::memcpy(copy->data() + i, &bits, sizeof bits);
      }
    }
    for (const Isa* isa : {find_isa("avx512"), find_isa("avx2"), find_isa("avx512_bf16"), find_isa("amx_bf16"), emulated}) {
      if (isa != nullptr) score(all, {isa, 0, true, true}, 2, true);
    }
  }

 private:
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  float* normal(std::size_t n, double spread) {
    std::normal_distribution<float> draw(0.0f, float(spread));
    float* values = floats_.take(n);
    for (std::size_t i = 0; i < n; ++i) values[i] = draw(random_);
    return values;
  }

  float* zeros(std::size_t n) { return floats_.take(n); }

  void draw_fields() {
    for (int i = 0, n = between(1, 6); i < n; ++i) {
      FieldSpec field{"f" + std::to_string(i), Kind(between(0, 2)), between(0, 1) == 1, 1, nullptr, 0};
      if (field.kind != Kind::dense) {
        field.width = between(0, 2) == 0 ? 16 : between(1, 9);
        field.rows = between(1, 20);
        field.table = normal(std::size_t(field.rows) * field.width, 1.0);
      }
      fields_.push_back(field);
    }
  }

  void draw_layers() {
    int inputs = 0;
    for (const FieldSpec& field : fields_) inputs += field.width;
    for (int i = 0, n = between(1, 4); i < n; ++i) {
      int columns = between(0, 1) == 0 ? 16 * between(1, 5) : between(1, 70);
      if (between(0, 29) == 0) columns = between(500, 1100);  // a chain that real tiles lay aside
      const float* weight = normal(std::size_t(columns) * inputs, 1.0 / std::sqrt(inputs));
      layers_.push_back({inputs, columns, weight, normal(columns, 0.3)});
      inputs = columns;
    }
    output_ = {inputs, normal(inputs, 1.0 / std::sqrt(inputs)), 0.25f};
  }

  // What stands beside the tower: any of its parts, or nothing.
  void draw_branch() {
    int inputs = 0;
    for (const FieldSpec& field : fields_) inputs += field.width;
    if (between(0, 2) == 0) {
      for (const FieldSpec& field : fields_) {
        const bool by_row = field.kind != Kind::dense && between(0, 3) > 0;
        const std::int64_t count = by_row ? field.rows : field.width;
        branch_.first_order.push_back({between(0, 4) == 0 ? nullptr : normal(count, 0.5), count, by_row});
      }
    }
    if (between(0, 2) == 0) {
      branch_.pair_width = between(1, 17);
      for (const FieldSpec& field : fields_) {
        const bool as_it_is = field.width == branch_.pair_width && between(0, 1) == 0;
        const std::size_t size = std::size_t(field.width) * branch_.pair_width;
        branch_.factors.push_back(as_it_is ? nullptr : normal(size, 0.5 / std::sqrt(field.width)));
      }
    }
    if (between(0, 2) == 0) {
      for (int i = 0, n = between(1, 3); i < n; ++i) {
        branch_.cross.push_back({normal(inputs, 0.3 / std::sqrt(inputs)), normal(inputs, 0.1)});
      }
      branch_.crossed = normal(inputs, 0.5 / std::sqrt(inputs));
    }
  }

  // A layer of the adapter's own: all of it, or what a module may have of it beside the backbone's.
  ModuleSpec draw_dense(const LayerSpec& layer) {
    const std::size_t k = layer.inputs, d = layer.columns;
    ModuleSpec module{};
    module.divisions = 1;
    module.norm_scale = normal(d, 1.0);
    module.norm_shift = normal(d, 0.3);
    if (between(0, 3) > 0) module.weight = normal(d * k, 1.0 / std::sqrt(k));
    if (between(0, 3) > 0) module.bias = normal(d, 0.3);
    return module;
  }

  // Columns of zeros and constant weights stand among the others: the packing leaves them out. Some layers of a dense
  // adapter have low-rank parts, too.
  ModuleSpec draw_module(const LayerSpec& layer, bool dense) {
    ModuleSpec module = dense ? draw_dense(layer) : ModuleSpec{};
    if (dense && between(0, 2) > 0) return module;
    module.divisions = between(1, 4);
    module.rank = between(module.divisions, module.divisions + 20);
    module.query = between(1, 18);
    const std::size_t r = module.rank, m = module.divisions, q = module.query, k = layer.inputs, d = layer.columns;
    const bool constant = between(0, 2) == 0;
    float* down = normal(r * k, 1.0 / std::sqrt(k));
    float* group = zeros(m * r);
    if (between(0, 2) == 0) std::memset(down + (r - 1) * k, 0, k * sizeof(float));
    for (std::size_t i = 0; i < r; ++i) group[(i * m / r) * r + i] = 1.0f;
    module.down = down;
    module.up = between(0, 5) == 0 ? zeros(d * r) : normal(d * r, 0.3);
    module.shift = normal(m * d, 0.2);
    module.query_weight = normal(q * k, 1.0 / std::sqrt(k));
    module.query_shift = normal(q, 0.2);
    module.key = constant ? zeros(q * r) : normal(q * r, 0.5 / double(q));
    module.key_shift = constant ? zeros(m * q) : normal(m * q, 0.3);
    module.group = group;
    module.norm_scale = normal(d, 1.0);
    module.norm_shift = normal(d, 0.3);
    return module;
  }

  void draw_adapter() {
    const bool dense = between(0, 1) == 0, own_output = dense && between(0, 2) > 0;
    std::vector<ModuleSpec> modules;
    for (const LayerSpec& layer : layers_) modules.push_back(draw_module(layer, dense));
    modules_.push_back(modules);
    const int last = output_.inputs;
    outputs_.push_back(own_output ? OutputSpec{last, normal(last, 1.0 / std::sqrt(last)), -0.5f} : output_);
    const OutputSpec* output = own_output ? &outputs_.back() : nullptr;
    for (std::size_t i = 0; i < networks_.size(); ++i) {
      adapters_[i].push_back(std::make_unique<Adapter>(*networks_[i], modules, 1.5, -0.5, output));
      const auto& made = adapters_[i].back();
      Buffer& copy = *copies_.emplace_back(std::make_unique<Buffer>(made->floats()));
      std::copy_n(made->data(), made->floats(), copy.data());
      adopted_[i].push_back(
          std::make_unique<Adapter>(*networks_[i], made->sizes(), copy.data(), copy.size(), 1.5, -0.5));
    }
    overlays_.emplace_back();
    overlay_weights_.emplace_back();
    added_.emplace_back();
    for (const FieldSpec& field : fields_) {
      const bool adds = dense && field.kind != Kind::dense && between(0, 1) == 0;
      added_.back().push_back({adds ? normal(std::size_t(field.rows) * field.width, 0.5) : nullptr, field.rows, false});
      const int count = field.kind == Kind::sparse ? between(0, 3) : 0;
      const float* rows = count > 0 ? normal(std::size_t(count) * field.width, 1.0) : nullptr;
      overlays_.back().push_back({rows, count, false});
      overlay_weights_.back().push_back({count > 0 ? normal(count, 0.5) : nullptr, count, false});
    }
  }

  Column draw_column(const FieldSpec& field, const OwnRows& overlay, const OwnRows& added, std::int64_t rows,
                     bool constant) {
    Column column{};
    if (added.rows != nullptr) column.added = &added;
    if (field.kind == Kind::dense) {
      float* values = normal(rows, 1.0);
      for (std::int64_t i = 1; constant && i < rows; ++i) values[i] = values[0];
      column.values = values;
    } else if (field.kind == Kind::sparse) {
      std::int32_t* values = integers_.take(rows);
      std::int64_t* positions = longs_.take(rows);
      for (std::int64_t i = 0; i < rows; ++i) {
        values[i] = constant && i > 0 ? values[0] : between(0, int(field.rows) - 1);
        positions[i] = constant && i > 0 ? positions[0] : between(-1, int(overlay.count) - 1);
      }
      column.values = values;
      if (overlay.count > 0) {
        column.overlay = &overlay;
        column.positions = positions;
      }
    } else {
      std::int64_t* offsets = longs_.take(rows + 1);
      const int length = between(0, 3);
      for (std::int64_t i = 0; i < rows; ++i) offsets[i + 1] = offsets[i] + (constant ? length : between(0, 3));
      column.value_count = offsets[rows];
      std::int32_t* values = integers_.take(column.value_count);
      for (std::int64_t i = 0; i < column.value_count; ++i) {
        values[i] = constant && i >= length ? values[i - length] : between(0, int(field.rows) - 1);
      }
      column.values = values;
      column.offsets = offsets;
    }
    return column;
  }

  void draw_request() {
    Request request{between(0, int(modules_.size()) - 1), between(0, 3) == 0 ? between(0, 2) : between(1, 60), {}, {}};
    const bool one_user = between(0, 3) > 0;
    for (std::size_t f = 0; f < fields_.size(); ++f) {
      const OwnRows &overlay = overlays_[request.adapter][f], &added = added_[request.adapter][f];
      request.columns.push_back(draw_column(fields_[f], overlay, added, request.rows, one_user && fields_[f].shared));
      Column& column = request.columns.back();
      if (column.overlay != nullptr && between(0, 3) > 0) column.overlay_weights = &overlay_weights_[request.adapter][f];
    }
    for (std::int64_t row = 0; row < request.rows; ++row) {
      const oracle::Row x = oracle::inputs(fields_, request.columns, row);
      const OutputSpec& output = outputs_[request.adapter];
      const double tower = oracle::logit(x, layers_, output, modules_[request.adapter]);
      request.expected.push_back(1.5 * (tower + oracle::beside(x, branch_, fields_, request.columns, row)) - 0.5);
    }
    requests_.push_back(std::move(request));
  }

  // Every row within `most` of the oracle, and all of them within `mean` on average, relative to 1 + its size.
  void hold_to_oracle(const std::vector<double>& found, const char* isa, double most, double mean) const {
    std::size_t at = 0;
    double total = 0;
    for (const Request& request : requests_) {
      for (const double expected : request.expected) {
        const double got = found[at++];
        const double off = std::abs(got - expected) / (1.0 + std::abs(expected));
        total += off;
        if (!(off <= most)) {
          throw std::runtime_error(std::string(isa) + ": row " + std::to_string(at - 1) + " is " + std::to_string(got) +
                                   ", the oracle says " + std::to_string(expected));
        }
      }
    }
    if (total > mean * double(found.size())) {
      throw std::runtime_error(std::string(isa) + ": rows are off by " + std::to_string(total / double(found.size())));
    }
  }

  static void hold_equal(const std::vector<double>& one, const std::vector<double>& other, const char* with) {
    if (one.size() != other.size() || std::memcmp(one.data(), other.data(), one.size() * sizeof(double)) != 0) {
      throw std::runtime_error(std::string("other bits with ") + with);
    }
  }

  // Each request alone, and all of them the other way round, have the bits that they have together.
  void hold_company(std::vector<int> order, const std::vector<double>& first, const Isa* isa) {
    std::vector<double> alone;
    for (const int i : order) {
      const std::vector<double> own = score({i}, {isa, 0, true, true}, 1);
      alone.insert(alone.end(), own.begin(), own.end());
    }
    hold_equal(first, alone, "nobody beside it");
    const std::vector<int> reversed(order.rbegin(), order.rend());
    const std::vector<double> turned = score(reversed, {isa, 0, true, true}, 2);
    std::size_t from = turned.size(), at = 0;
    for (const int i : order) {
      from -= requests_[i].rows;
      if (std::memcmp(first.data() + at, turned.data() + from, requests_[i].rows * sizeof(double)) != 0) {
        throw std::runtime_error("other bits in another order");
      }
      at += requests_[i].rows;
    }
  }

  std::mt19937 random_;
  Pool<float> floats_;
  Pool<std::int32_t> integers_;
  Pool<std::int64_t> longs_;
  std::vector<FieldSpec> fields_;
  std::vector<LayerSpec> layers_;
  OutputSpec output_{};
  std::vector<std::unique_ptr<Network>> networks_;  // float32, bfloat16 in pairs, bfloat16 in groups of tiles
  std::vector<std::vector<ModuleSpec>> modules_;
  std::vector<OutputSpec> outputs_;  // of each adapter: its own, or the network's
  BranchSpec branch_;
  std::vector<Branch> branches_;  // by network
  std::vector<std::vector<OwnRows>> overlays_;
  std::vector<std::vector<OwnRows>> overlay_weights_;  // of their rows, first order
  std::vector<std::vector<OwnRows>> added_;  // no rows: nothing is added
  std::vector<std::vector<std::unique_ptr<Adapter>>> adapters_;  // by network
  std::vector<std::unique_ptr<Buffer>> copies_;                  // of their memory
  std::vector<std::vector<std::unique_ptr<Adapter>>> adopted_;   // the same, by those
  std::vector<Request> requests_;
};

// What leads outside a table is refused, and not read.
void hold_refusals() {
  const float table[2] = {1.0f, 2.0f}, weight[1] = {1.0f}, bias[1] = {0.0f};
  const Network network({{"f", Kind::sparse, false, 1, table, 2}}, {{1, 1, weight, bias}}, {1, weight, 0.0f});
  const float zero[1] = {0.0f}, one[1] = {1.0f};
  const Adapter adapter(network, {{1, 1, 1, zero, zero, zero, zero, zero, zero, zero, one, one, zero}}, 1.0, 0.0);
  Threads threads(1, {});
  Scratch scratch;
  for (const std::int32_t row : {2, -1, 1 << 30}) {
    double logit = 0;
    const Column column{&row, nullptr, 1, nullptr, nullptr};
    try {
      score(network, Branch(), {{&adapter, 1, &column, &logit}}, {best_isa(Precision::single), 0, true, true}, threads, scratch);
    } catch (const std::out_of_range&) {
      continue;
    }
    throw std::runtime_error("row " + std::to_string(row) + " of a table of 2 was read");
  }
}

// Packed memory whose sizes, length or place are not those of the network is refused, and not read.
void hold_foreign_memory(const Network& network, const Adapter& adapter) {
  const auto refused = [&](const std::vector<int>& sizes, const float* memory, std::size_t floats) {
    try {
      const Adapter found(network, sizes, memory, floats, 1.0, 0.0);
    } catch (const std::invalid_argument&) {
      return;
    }
    throw std::runtime_error("foreign memory was adopted");
  };
  const std::vector<int>& own = adapter.sizes();
  const Adapter again(network, own, adapter.data(), adapter.floats(), 1.0, 0.0);
  for (std::size_t i = 0; i < own.size(); ++i) {
    for (const int other : {own[i] - 1, own[i] + 1, 0, -1, 1 << 16, 1 << 30, -(1 << 30)}) {
      std::vector<int> changed = own;
      changed[i] = other;
      if (other != own[i]) refused(changed, adapter.data(), adapter.floats());
    }
  }
  refused({}, adapter.data(), adapter.floats());
  refused({own.begin(), own.end() - 1}, adapter.data(), adapter.floats());
  refused(own, adapter.data(), adapter.floats() - 16);
  refused(own, adapter.data(), 0);
  refused(own, adapter.data() + 1, adapter.floats());
}

void hold_foreign_memory() {
  const float table[2] = {1.0f, 2.0f}, one[1] = {1.0f}, zero[1] = {0.0f};
  const float row[2] = {1.0f, 0.5f}, square[4] = {1.0f, 0.0f, 0.0f, 1.0f};
  const Network network({{"f", Kind::sparse, false, 1, table, 2}}, {{1, 1, one, zero}}, {1, one, 0.0f});
  // two divisions of rank 1 under attention: each size that changes moves an end
  const Adapter low_rank(network, {{2, 2, 1, row, row, row, one, zero, row, row, square, one, zero}}, 1.0, 0.0);
  ModuleSpec plain{};
  plain.divisions = 1;
  plain.norm_scale = one;
  plain.norm_shift = zero;
  ModuleSpec own = plain;
  own.weight = row;
  const OutputSpec output{1, row, 0.5f};
  const Adapter dense(network, {own}, 1.0, 0.0, &output);
  const Adapter neither(network, {plain}, 1.0, 0.0);
  for (const Adapter* adapter : {&low_rank, &dense, &neither}) hold_foreign_memory(network, *adapter);
  const OutputSpec wide{2, row, 0.0f};
  try {
    const Adapter found(network, {own}, 1.0, 0.0, &wide);
  } catch (const std::invalid_argument&) {
    return;
  }
  throw std::runtime_error("an output of another width was packed");
}

}  // namespace

int main(int argc, char** argv) {
  const int worlds = argc > 1 ? std::atoi(argv[1]) : 100;
  const int first = argc > 2 ? std::atoi(argv[2]) : 0;
  if (best_isa(Precision::single) == nullptr) {
    std::puts("skipped: this processor has neither AVX-512 nor AVX2");
    return 0;
  }
  try {
    hold_refusals();
    hold_foreign_memory();
  } catch (const std::exception& error) {
    std::printf("refusals: %s\n", error.what());
    return 1;
  }
  for (int seed = first; seed < first + worlds; ++seed) {
    try {
      World(seed).check();
    } catch (const std::exception& error) {
      std::printf("seed %d: %s\n", seed, error.what());
      return 1;
    }
  }
  std::printf("%d worlds: every row is the oracle's, and the same bits in every company\n", worlds);
  return 0;
}
