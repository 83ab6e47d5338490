// A tile through the tower, layer by layer. Included by each instruction set's file alone.
#pragma once

#include <cstring>
#include <limits>

#include "attention.hpp"

namespace espalier {

// The largest block that an instruction set's registers hold: rows, and vectors of 16 columns; and the steps of a
// chain after which it lays its sums aside for the other blocks, because more weights would not stay in the nearest cache.
template <int Rows, int Vecs, int Steps = std::numeric_limits<int>::max()>
struct Shape {
  static constexpr int rows = Rows;
  static constexpr int vecs = Vecs;
  static constexpr int steps = Steps;
};

// What adapters have at the next layer, asked for a little at a time: the products hide how long it takes to come.
template <class Form>  // of one instruction set, as all here
class Ahead {
 public:
  // Begin with what is read after a layer, which will take so many blocks.
  void begin(const Tile& tile, int level, long blocks) {
    tile_ = &tile;
    level_ = level;
    number_ = 0;
    long lines = 0;
    for (int i = 0; i < count(); ++i) lines += lines_of(layer(i));
    each_ = (lines + blocks - 1) / blocks;
    at_ = 0;
  }

  void go_on() {
    for (long left = each_; left > 0 && number_ < count(); ++number_, at_ = 0) {
      const AdapterLayer& asked = layer(number_);
      const long end = lines_of(asked) - at_ < left ? lines_of(asked) : at_ + left;
      left -= end - at_;
      for (; at_ < end; ++at_) __builtin_prefetch(asked.memory + at_ * kLanes, 0, 2);
      if (at_ < lines_of(asked)) return;
    }
  }

 private:
  static constexpr long kMost = (32 << 10) / 64;  // of one adapter: the second-level cache has other things to hold

  bool last() const { return level_ == tile_->depth - 1; }
  int count() const { return last() ? tile_->coming_count : tile_->part_count; }
  const AdapterLayer& layer(int i) const { return last() ? *tile_->coming[i] : tile_->parts[i].layers[level_ + 1]; }
  static long lines_of(const AdapterLayer& layer) {
    const long lines = layer.floats / kLanes;
    return lines < kMost ? lines : kMost;
  }

  const Tile* tile_ = nullptr;
  int level_ = 0, number_ = 0;
  long each_ = 0, at_ = 0;
};

template <class Form, class Shape>
class Tower {
 public:
  explicit Tower(const Tile& tile) : tile_(tile) {}

  void run() {
    narrow_inputs();
    if (tile_.shared_inputs > 0) share();
    const float* input = tile_.input;
    long stride = tile_.input_stride;
    for (int level = 0; level < tile_.depth; ++level) {
      float* output = tile_.activations[level % 2];
      ahead_.begin(tile_, level, turns(level));
      for (int part = 0; part < tile_.part_count; ++part) low_rank(level, tile_.parts[part], part, input, stride);
      wide(level, input, stride, output);
      input = output;
      stride = tile_.activation_stride;
    }
    finish(input, stride);
  }

 private:
  using Vec = typename Form::Vec;
  static constexpr int kPerStep = per_step(Form::precision);
  // Whether it is asked ahead during the low-rank part too.
  static constexpr bool kAsksEarly = kPerStep > 1;
  static constexpr auto kNarrow = product_table<Form, Shape::rows, 1>();
  static constexpr auto kWide = product_table<Form, Shape::rows, Shape::vecs>();

  void narrow_inputs() const {
    if (kPerStep == 1) return;
    for (int number = 0; number < tile_.part_count; ++number) {
      const Part& part = tile_.parts[number];
      const int skip = part.shared ? tile_.shared_inputs : 0;
      for (int r = 0; r < part.rows; ++r) {
        Form::narrow(tile_.input + long(part.row + r) * tile_.input_stride, skip, tile_.inputs);
      }
      if (part.shared) {
        Form::narrow(tile_.shared_input + long(number) * tile_.shared_input_stride, 0, tile_.shared_inputs);
      }
    }
  }

  static int block_count(int rows) { return (rows + Shape::rows - 1) / Shape::rows; }

  // Rows of a part in blocks of nearly the same size: a small rest would leave the processor waiting for weights.
  template <class F>
  static void blocks(int rows, F&& f) {
    const int count = block_count(rows);
    const int least = rows / count, longer = rows % count;
    for (int i = 0, row = 0; i < count; ++i) {
      const int size = least + (i < longer);
      f(row, size);
      row += size;
    }
  }

  static int block_columns(int columns) { return (columns + Shape::vecs * kLanes - 1) / (Shape::vecs * kLanes); }
  static int chains(const Layer& layer) { return (layer.steps - 1) / Shape::steps + 1; }

  void go_on_early() {
    if constexpr (kAsksEarly) ahead_.go_on();
  }

  // How often `ahead_` goes on within a layer, nearly.
  long turns(int level) const {
    const Layer& layer = tile_.layers[level];
    long all = 0;
    for (int i = 0; i < tile_.part_count; ++i) {
      const Part& part = tile_.parts[i];
      const AdapterLayer& adapter = part.layers[level];
      all += long(block_count(part.rows)) * block_columns(layer.columns) * chains(layer);
      if (!kAsksEarly || adapter.entry_columns == 0) continue;
      all += long(block_count(part.rows)) * block_columns(adapter.entry_columns);
      if (adapter.divisions > 1) all += (part.rows + kLanes - 1) / kLanes;
    }
    return all;
  }

  // All rows of one operand times all columns of another.
  template <class F>
  static void all_columns(Product p, int rows, int columns, F&& between) {
    const float* const a = p.a;
    float* const c = p.c;
    for (int column = 0; column < columns;) {
      const bool full = columns - column >= Shape::vecs * kLanes;
      const auto& table = full ? kWide.of : kNarrow.of;
      blocks(rows, [&](int row, int size) {
        p.a = a + row * p.a_stride;
        p.c = c + row * p.c_stride + column;
        between();
        table[size - 1](p);
      });
      const int taken = full ? Shape::vecs : 1;
      column += taken * kLanes;
      p.b += taken * p.b_stride;
      if (p.bias != nullptr) p.bias += taken * kLanes;
      if (p.start != nullptr) p.start += taken * kLanes;
    }
  }

  // What the shared inputs give to the first layer, once for each part; neighbours of the same weights go through them
  // together.
  void share() const {
    for (int part = 0, end; part < tile_.part_count; part = end) {
      end = part + 1;
      if (!tile_.parts[part].shared) continue;
      const float* const weights = tile_.parts[part].layers[0].weights;
      while (end < tile_.part_count && tile_.parts[end].shared && tile_.parts[end].layers[0].weights == weights) ++end;
      Product p = shared_product(part, weights);
      p.c = tile_.shared_wide + long(part) * tile_.shared_wide_stride;
      p.c_stride = tile_.shared_wide_stride;
      all_columns(p, end - part, tile_.layers[0].columns, [] {});
      for (int each = part; each < end; ++each) share_low(each);
    }
  }

  void share_low(int part) const {
    const AdapterLayer& adapter = tile_.parts[part].layers[0];
    if (adapter.entry_columns == 0) return;
    Product p = shared_product(part, adapter.entry);
    p.c = tile_.shared_low + long(part) * tile_.low_stride;
    all_columns(p, 1, adapter.entry_columns, [] {});
  }

  Product shared_product(int part, const float* weights) const {
    Product p{};
    p.a = tile_.shared_input + long(part) * tile_.shared_input_stride;
    p.a_stride = tile_.shared_input_stride;
    p.b = weights;
    p.b_stride = long(tile_.layers[0].steps) * kLanes;
    p.k = tile_.shared_inputs / kPerStep;
    p.finish = Finish::keep;
    return p;
  }

  // Steps that the shared part of a chain has taken already.
  int skipped(int level, const Part& part) const {
    return level == 0 && part.shared ? tile_.shared_inputs / kPerStep : 0;
  }

  // z and q of a part, and what follows from them.
  void low_rank(int level, const Part& part, int number, const float* input, long stride) {
    const AdapterLayer& adapter = part.layers[level];
    if (adapter.entry_columns == 0) return;
    const int skip = skipped(level, part);
    float* const low = tile_.low + long(part.row) * tile_.low_stride;
    Product p{};
    p.a = input + part.row * stride + skip;
    p.a_stride = stride;
    p.b = adapter.entry + long(skip) * kLanes;
    p.b_stride = long(tile_.layers[level].steps) * kLanes;
    p.k = tile_.layers[level].steps - skip;
    p.start = skip > 0 ? tile_.shared_low + long(number) * tile_.low_stride : nullptr;
    p.bias = adapter.entry_bias;
    p.c = low;
    p.c_stride = tile_.low_stride;
    p.finish = Finish::add_bias;
    all_columns(p, part.rows, adapter.entry_columns, [this] { go_on_early(); });
    if (adapter.divisions > 1) {
      float deltas[kMaxDivisions * kLanes];
      for (int row = 0; row < part.rows; row += kLanes) {
        const int rows = part.rows - row < kLanes ? part.rows - row : kLanes;
        go_on_early();
        attend<Vec>(adapter, low + long(row) * tile_.low_stride, tile_.low_stride, rows, deltas);
      }
    }
    if (kPerStep == 1) return;
    for (int row = 0; row < part.rows; ++row) {
      float* const inputs = low + long(row) * tile_.low_stride;
      const int end = adapter.exit_steps * kPerStep;
      std::memset(inputs + adapter.exit_inputs, 0, sizeof(float) * (end - adapter.exit_inputs));
      Form::narrow(inputs, 0, end);
    }
  }

  // The layer itself: a panel serves all rows of the tile before the next one is touched.
  void wide(int level, const float* input, long stride, float* output) {
    const Layer& layer = tile_.layers[level];
    const int count = chains(layer);
    for (int column = 0; column < layer.columns;) {
      const bool full = layer.columns - column >= Shape::vecs * kLanes;
      for (int i = 0, first = 0; i < count; ++i) {
        const int end = i == count - 1 ? layer.steps : first + Shape::steps;
        columns_of(level, column, full, first, end, input, stride, output);
        first = end;
      }
      column += (full ? Shape::vecs : 1) * kLanes;
    }
  }

  // Some columns' chains from one step to another; the last one ends them.
  void columns_of(int level, int column, bool full, int first, int end, const float* input, long stride,
                  float* output) {
    const Layer& layer = tile_.layers[level];
    const bool ends = end == layer.steps, last = level == tile_.depth - 1;
    const auto& table = full ? kWide.of : kNarrow.of;
    for (int number = 0; number < tile_.part_count; ++number) {
      const Part& part = tile_.parts[number];
      const AdapterLayer& adapter = part.layers[level];
      const int skip = skipped(level, part), from = first > skip ? first : skip;
      if (from >= end && !ends) continue;
      Product p;
      p.a_stride = stride;
      p.b = adapter.weights + long(column) * layer.steps + long(from) * kLanes;
      p.b_stride = long(layer.steps) * kLanes;
      p.k = end > from ? end - from : 0;
      p.a2_stride = tile_.low_stride;
      p.b2 = adapter.exit + long(column) * adapter.exit_held;
      p.b2_stride = long(adapter.exit_held) * kLanes;
      p.k2 = ends ? adapter.exit_steps : 0;
      p.scale = adapter.scale + column;
      p.bias = adapter.bias + column;
      p.finish = !ends ? Finish::keep : last ? Finish::activate_last : Finish::activate;
      const bool goes_on = first > skip;
      blocks(part.rows, [&](int row, int size) {
        float* const sums = tile_.sums + long(part.row + row) * kSumColumns;
        p.a = input + (part.row + row) * stride + from;
        p.a2 = tile_.low + long(part.row + row) * tile_.low_stride;
        p.start = goes_on ? sums : skip > 0 ? tile_.shared_wide + long(number) * tile_.shared_wide_stride + column : nullptr;
        p.start_stride = goes_on ? kSumColumns : 0;
        p.c = ends ? output + long(part.row + row) * tile_.activation_stride + (last ? column : column / kPerStep) : sums;
        p.c_stride = ends ? tile_.activation_stride : kSumColumns;
        ahead_.go_on();
        table[size - 1](p);
      });
    }
  }

  void finish(const float* input, long stride) const {
    const int columns = tile_.layers[tile_.depth - 1].columns;
    for (int number = 0; number < tile_.part_count; ++number) {
      const Part& part = tile_.parts[number];
      for (int r = 0; r < part.rows; ++r) {
        const float* row = input + (part.row + r) * stride;
        Vec total = Vec::zero();
        for (int column = 0; column < columns; column += kLanes) {
          total = fma(Vec::load(row + column), Vec::load(part.output->weights + column), total);
        }
        part.logits[r] = sum(total) + part.output->bias;
      }
    }
  }

  const Tile& tile_;
  Ahead<Form> ahead_;
};

}  // namespace espalier
