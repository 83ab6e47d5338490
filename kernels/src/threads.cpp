#include "threads.hpp"

#include <pthread.h>
#include <sched.h>

#include <system_error>

namespace espalier {

namespace {

void bind(std::thread& thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  const int error = pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
  if (error != 0) throw std::system_error(error, std::generic_category(), "a thread cannot be bound to its core");
}

}  // namespace

Threads::Threads(int count, const std::vector<int>& cpus) {
  try {
    for (int i = 0; i + 1 < count; ++i) {
      helpers_.emplace_back([this] { help(); });
      if (i < int(cpus.size())) bind(helpers_.back(), cpus[i]);
    }
  } catch (...) {
    this->~Threads();
    throw;
  }
}

Threads::~Threads() {
  {
    const std::lock_guard lock(state_);
    stopping_ = true;
  }
  begin_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
  helpers_.clear();
}

void Threads::run(const std::function<void()>& work) {
  const std::unique_lock own(taken_, std::try_to_lock);
  if (!own || helpers_.empty()) {
    work();
    return;
  }
  {
    const std::lock_guard lock(state_);
    work_ = &work;
    busy_ = int(helpers_.size());
    ++round_;
  }
  begin_.notify_all();
  work();
  std::unique_lock lock(state_);
  end_.wait(lock, [this] { return busy_ == 0; });
}

void Threads::help() {
  unsigned long done = 0;
  std::unique_lock lock(state_);
  while (true) {
    begin_.wait(lock, [&] { return stopping_ || round_ != done; });
    if (stopping_) return;
    done = round_;
    const std::function<void()>* work = work_;
    lock.unlock();
    (*work)();
    lock.lock();
    if (--busy_ == 0) end_.notify_one();
  }
}

}  // namespace espalier
