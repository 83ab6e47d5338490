// Memory whose start is at a cache line.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace espalier {

class Buffer {
 public:
  Buffer() = default;
  // Zeros, so that what is padding adds nothing.
  explicit Buffer(std::size_t floats)
      : size_(floats), start_(static_cast<float*>(::operator new(floats * sizeof(float), kAlignment))) {
    std::fill_n(start_.get(), floats, 0.0f);
  }

  float* data() { return start_.get(); }
  const float* data() const { return start_.get(); }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* start) const { ::operator delete(start, kAlignment); }
  };
  std::size_t size_ = 0;
  std::unique_ptr<float, Free> start_;
};

// Buffers that calls leave for the next one: fresh memory of this size would come from the system page by page.
class Scratch {
 public:
  // What is in it is left over from whoever had it before.
  Buffer take(std::size_t floats) {
    {
      const std::lock_guard lock(state_);
      if (!spare_.empty()) {
        Buffer found = std::move(spare_.back());
        spare_.pop_back();
        if (found.size() >= floats) return found;
      }
    }
    return Buffer(floats);
  }

  void give(Buffer buffer) {
    const std::lock_guard lock(state_);
    spare_.push_back(std::move(buffer));
  }

 private:
  std::mutex state_;
  std::vector<Buffer> spare_;
};

}  // namespace espalier
