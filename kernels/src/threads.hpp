// Threads of one engine, which sleep between calls.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace espalier {

class Threads {
 public:
  // `count` threads in all, the caller's included; helper i is bound to cpus[i] where there are any (the caller binds
  // itself). Throws std::system_error where a thread cannot be started or bound.
  Threads(int count, const std::vector<int>& cpus);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return int(helpers_.size()) + 1; }

  // Call work() on every thread and wait for all; only on the caller's where the helpers are at someone else's.
  // `work` must not throw.
  void run(const std::function<void()>& work);

 private:
  void help();

  std::vector<std::thread> helpers_;
  std::mutex taken_;  // held by the caller that the helpers work for
  std::mutex state_;
  std::condition_variable begin_;
  std::condition_variable end_;
  const std::function<void()>* work_ = nullptr;
  unsigned long round_ = 0;
  int busy_ = 0;
  bool stopping_ = false;
};

}  // namespace espalier
