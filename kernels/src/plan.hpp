// What a tile is made of, as the instruction sets see it: plain pointers and sizes, no ownership.
//
// Every matrix product here is one chain of fused multiply-adds for each output, over the inputs in ascending order,
// whatever the shape of the tile. That is why the result of a row does not depend on what else is in the batch, and why
// the part that a request's rows share can be computed once and carried on from without a trace.
#pragma once

#include <cstdint>

namespace espalier {

// Functions here are static: a copy that one instruction set's file emits must not be taken by another's.
constexpr int kLanes = 16;  // columns of one panel, whatever the width of the registers

constexpr int kMaxDivisions = 64;
constexpr int kSumColumns = 2 * kLanes;  // of sums that are laid aside

static constexpr int round_up(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

static constexpr int whole(int inputs, int group) { return (inputs + group - 1) / group * group; }

// A row of floats whose stride is an odd number of cache lines, so that the rows of a block do not share cache sets.
static constexpr int padded_stride(int n) {
  const int lines = round_up(n) / kLanes;
  return (lines | 1) * kLanes;
}

// How inputs and weights are held; sums are float32 in any case.
enum class Precision {
  single,  // float32
  half,    // bfloat16, two inputs in the four bytes of a float: one step of a chain takes a pair
};

static constexpr int per_step(Precision precision) { return precision == Precision::single ? 1 : 2; }

static constexpr int steps_of(int inputs, Precision precision) {
  return (inputs + per_step(precision) - 1) / per_step(precision);
}

// One layer of the network: y = x weights, panels [columns / 16][steps][16], each of four bytes.
struct Layer {
  int steps;
  int columns;  // multiple of 16; the padding is zero
  const float* weights;  // the backbone's
};

// One layer of a prepared adapter; see adapter.hpp for what its parts are.
struct AdapterLayer {
  int rank;       // columns of z in use
  int rank_p;     // rounded up
  int query;      // columns of q in use; 0 where the weights are constant
  int query_p;    // rounded up
  int divisions;  // 1 where the weights are constant

  const float* weights;         // panels of the layer itself: the backbone's, or the adapter's own in their place
  const float* entry;           // panels [(rank_p + query_p) / 16][steps][16]: down and query
  const float* entry_bias;      // [rank_p + query_p]
  const float* key;             // [divisions - 1] panels [rank_p / 16][query][16], float32
  const float* key_shift;       // [divisions - 1][query_p]
  const std::int32_t* division_of;  // [rank_p]
  const float* exit;            // panels [columns / 16][exit_held][16]: up, and differences of shifts
  const float* scale;           // [columns]
  const float* bias;            // [columns]

  const float* memory;  // all of these that are the adapter's own, one after the other
  long floats;

  int entry_columns;  // rank_p + query_p
  int exit_inputs;    // rank + divisions - 1
  int exit_steps;     // with padding to whole groups, whose inputs are zero
  int exit_held;      // without: a chain reads on into the next panel, whose numbers count nothing while they are finite
};

struct Output {
  const float* weights;  // [columns of the last layer]
  float bias;
};

// Consecutive rows of a tile that belong to one segment.
struct Part {
  const AdapterLayer* layers;
  const Output* output;
  int row;          // first row in the tile
  int rows;
  bool shared;      // the first `Tile::shared_inputs` inputs are the same in all rows
  float* logits;    // [rows], before calibration
};

// Rows that go through all layers together, small enough that they stay in the cache.
struct Tile {
  const Layer* layers;
  int depth;
  const Part* parts;
  int part_count;
  const AdapterLayer* const* coming;  // first layers of the parts of the tile that comes next
  int coming_count;
  int rows;
  int inputs;         // of the first layer, with padding to whole steps
  int shared_inputs;  // those that come first; whole steps

  // Scratch of one thread. Where a part is shared, the shared inputs stand in `shared_input` alone.
  float* input;      // [rows][input_stride]
  int input_stride;
  float* shared_input;  // [parts][shared_input_stride]
  int shared_input_stride;
  float* activations[2];  // [rows][activation_stride]
  int activation_stride;
  float* sums;       // [rows][kSumColumns]: those laid aside
  float* low;        // [rows][low_stride]: z and q, then the weighted z
  int low_stride;
  float* shared_wide;  // [parts][shared_wide_stride]: what shared inputs give to the first layer
  int shared_wide_stride;
  float* shared_low;   // [parts][low_stride]
};

}  // namespace espalier
