#include "schedule.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

namespace espalier {

namespace {

constexpr std::int64_t kCacheBytes = 640 << 10;  // of a second-level cache of 1 MiB or more; weights need the rest
constexpr int kLeastRows = 64, kMostRows = 256;

// Consecutive rows of one segment.
struct Piece {
  const Segment* segment;
  std::int64_t first;
  int rows;
  bool shared;
};

// Consecutive pieces.
struct Batch {
  std::size_t first;
  int pieces;
  int rows;
};

struct Plan {
  std::vector<Piece> pieces;
  std::vector<Batch> batches;
  int most_pieces = 0;
  int most_rows = 0;
};

bool shares(const Network& network, const Segment& segment) {
  if (segment.rows < 2) return false;
  for (std::size_t f = 0; f < network.fields().size(); ++f) {
    const FieldSpec& field = network.fields()[f].spec;
    if (field.shared && !is_constant(field, segment.columns[f], segment.rows)) return false;
  }
  return network.shared_inputs() > 0;
}

// Segments stay whole where they fit; a longer one is cut into equal pieces.
Plan plan(const Network& network, const std::vector<Segment>& segments, bool share, int tile_rows) {
  Plan made;
  for (const Segment& segment : segments) {
    if (segment.rows == 0) continue;
    const bool shared = share && shares(network, segment);
    const std::int64_t count = (segment.rows + tile_rows - 1) / tile_rows;
    for (std::int64_t i = 0, first = 0; i < count; ++i) {
      const int rows = int(segment.rows / count + (i < segment.rows % count));
      if (made.batches.empty() || made.batches.back().rows + rows > tile_rows) {
        made.batches.push_back({made.pieces.size(), 0, 0});
      }
      made.pieces.push_back({&segment, first, rows, shared});
      Batch& batch = made.batches.back();
      ++batch.pieces;
      batch.rows += rows;
      made.most_pieces = std::max(made.most_pieces, batch.pieces);
      made.most_rows = std::max(made.most_rows, batch.rows);
      first += rows;
    }
  }
  return made;
}

// Scratch of one thread, large enough for every batch of a plan.
class Workspace {
 public:
  Workspace(const Network& network, const Plan& plan, int low_columns, Scratch& scratch) : scratch_(scratch) {
    int widest = 0;
    for (const Layer& layer : network.layers()) widest = std::max(widest, layer.columns);
    tile_.layers = network.layers().data();
    tile_.depth = network.depth();
    tile_.inputs = network.inputs();
    tile_.shared_inputs = network.shared_inputs();
    tile_.input_stride = padded_stride(network.inputs());
    tile_.shared_input_stride = padded_stride(network.shared_inputs());
    tile_.activation_stride = padded_stride(widest);
    tile_.low_stride = padded_stride(low_columns);
    tile_.shared_wide_stride = padded_stride(network.layers()[0].columns);
    const std::size_t rows = plan.most_rows, parts = plan.most_pieces;
    const std::size_t sizes[] = {rows * tile_.input_stride,         rows * tile_.activation_stride,
                                 rows * tile_.activation_stride,    rows * tile_.low_stride,
                                 parts * tile_.shared_input_stride, parts * tile_.shared_wide_stride,
                                 parts * tile_.low_stride,          rows * kSumColumns};
    std::size_t total = 0;
    for (const std::size_t size : sizes) total += size;
    memory_ = scratch.take(total);
    float** const starts[] = {&tile_.input,        &tile_.activations[0], &tile_.activations[1], &tile_.low,
                              &tile_.shared_input, &tile_.shared_wide,    &tile_.shared_low, &tile_.sums};
    float* next = memory_.data();
    for (std::size_t i = 0; i < std::size(sizes); ++i) {
      *starts[i] = next;
      next += sizes[i];
    }
    parts_.resize(parts);
    logits_.resize(rows);
    beside_.resize(rows);
    tile_.parts = parts_.data();
  }

  ~Workspace() { scratch_.give(std::move(memory_)); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void score(const Network& network, const Branch& branch, const Plan& plan, const Batch& batch, const Options& options) {
    tile_.part_count = batch.pieces;
    tile_.rows = batch.rows;
    int row = 0;
    for (int i = 0; i < batch.pieces; ++i) {
      const Piece& piece = plan.pieces[batch.first + i];
      const Column* columns = piece.segment->columns;
      float* input = tile_.input + std::size_t(row) * tile_.input_stride;
      gather(network, columns, piece.first, piece.rows, false, input, tile_.input_stride);
      if (piece.shared) {
        float* shared = tile_.shared_input + std::size_t(i) * tile_.shared_input_stride;
        gather(network, columns, piece.first, 1, true, shared, tile_.shared_input_stride);
      } else {
        gather(network, columns, piece.first, piece.rows, true, input, tile_.input_stride);
      }
      if (!branch.empty()) {  // before the tile rounds its inputs
        const float* shared = piece.shared ? tile_.shared_input + std::size_t(i) * tile_.shared_input_stride : nullptr;
        branch.score(network, columns, piece.first, piece.rows, input, tile_.input_stride, shared, branch_scratch_,
                     beside_.data() + row);
      }
      const Adapter& adapter = *piece.segment->adapter;
      parts_[i] = {adapter.layers(), &adapter.output(), row, piece.rows, piece.shared, logits_.data() + row};
      row += piece.rows;
    }
    coming_.clear();
    const std::size_t next = batch.first + batch.pieces;
    for (std::size_t i = next; i < plan.pieces.size() && i < next + parts_.size(); ++i) {
      coming_.push_back(plan.pieces[i].segment->adapter->layers());
    }
    tile_.coming = coming_.data();
    tile_.coming_count = int(coming_.size());
    options.isa->score_tile(tile_);
    for (int i = 0; i < batch.pieces; ++i) {
      const float* const beside = branch.empty() ? nullptr : beside_.data() + parts_[i].row;
      write(plan.pieces[batch.first + i], parts_[i], beside, options.calibrated);
    }
  }

 private:
  static void write(const Piece& piece, const Part& part, const float* beside, bool calibrated) {
    const double slope = calibrated ? piece.segment->adapter->slope() : 1.0;
    const double intercept = calibrated ? piece.segment->adapter->intercept() : 0.0;
    double* to = piece.segment->logits + piece.first;
    for (int r = 0; r < part.rows; ++r) {
      const double logit = double(part.logits[r]) + (beside != nullptr ? double(beside[r]) : 0.0);
      to[r] = slope * logit + intercept;
    }
  }

  Scratch& scratch_;
  Tile tile_{};
  Buffer memory_;
  std::vector<Part> parts_;
  std::vector<const AdapterLayer*> coming_;
  std::vector<float> logits_;
  std::vector<float> beside_;  // what the branch adds to them
  std::vector<float> branch_scratch_;
};

}  // namespace

int fitting_rows(const Network& network, std::int64_t cache_bytes) {
  std::int64_t widest = 0;
  for (const Layer& layer : network.layers()) {
    widest = std::max<std::int64_t>(widest, layer.steps + steps_of(layer.columns, network.precision()));
  }
  const std::int64_t rows = cache_bytes / (widest * std::int64_t(sizeof(float)));
  return int(std::clamp<std::int64_t>(rows, kLeastRows, kMostRows));
}

void score(const Network& network, const Branch& branch, const std::vector<Segment>& segments, const Options& options,
           Threads& threads, Scratch& scratch) {
  std::int64_t rows = 0;
  int low_columns = kLanes;
  for (const Segment& segment : segments) {
    for (std::size_t f = 0; f < network.fields().size(); ++f) {
      check_column(network.fields()[f].spec, segment.columns[f], segment.rows);
    }
    rows += segment.rows;
    low_columns = std::max(low_columns, segment.adapter->low_columns());
    for (int level = 0; level < network.depth(); ++level) __builtin_prefetch(segment.adapter->layers() + level);
  }
  const int most = options.tile_rows > 0 ? options.tile_rows : fitting_rows(network, kCacheBytes);
  const std::int64_t share = (rows + threads.count() - 1) / threads.count();
  const Plan made = plan(network, segments, options.share, int(std::min<std::int64_t>(most, std::max<std::int64_t>(share, kLanes))));
  std::atomic<std::size_t> next{0};
  std::mutex failing;
  std::exception_ptr failure;
  threads.run([&] {
    try {
      if (next.load() >= made.batches.size()) return;
      Workspace workspace(network, made, low_columns, scratch);
      for (std::size_t i = next++; i < made.batches.size(); i = next++) {
        workspace.score(network, branch, made, made.batches[i], options);
      }
    } catch (...) {
      const std::lock_guard lock(failing);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace espalier
