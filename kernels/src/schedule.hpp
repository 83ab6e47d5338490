// From segments to tiles, and tiles to threads.
#pragma once

#include <cstdint>
#include <vector>

#include "adapter.hpp"
#include "branch.hpp"
#include "gather.hpp"
#include "isa.hpp"
#include "network.hpp"
#include "threads.hpp"

namespace espalier {

// Rows that one adapter scores.
struct Segment {
  const Adapter* adapter;
  std::int64_t rows;
  const Column* columns;  // one a field, in the order of Network::fields()
  double* logits;         // [rows]
};

struct Options {
  const Isa* isa;
  int tile_rows;    // rows of a tile at most; 0: what the cache holds
  bool share;       // compute what a segment's rows share once
  bool calibrated;  // logits are slope * logit + intercept
};

// Rows of a tile whose activations stay in a cache of this many bytes.
int fitting_rows(const Network& network, std::int64_t cache_bytes);

// Score all segments, each row's logit with what the branch adds to it. Throws std::out_of_range where a column leads outside its table; nothing is scored then.
void score(const Network& network, const Branch& branch, const std::vector<Segment>& segments, const Options& options,
           Threads& threads, Scratch& scratch);

}  // namespace espalier
