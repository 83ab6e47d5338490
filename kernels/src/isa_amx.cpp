// bfloat16 in AMX tiles. Where there is no such processor its logic is held by the same code on emulated tiles
// (tests/isa_emulated.cpp). Compiled with its own flags.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "half_avx512.hpp"
#include "isa.hpp"
#include "tile_product.hpp"

namespace espalier {

namespace {

// Tells the compiler that memory is read next. GCC's header hands the loads below an address and not what stands there,
// so it may leave out, or move behind them, what was just written to a local array: the product is then of rubbish.
inline void written() { asm volatile("" ::: "memory"); }

// The instructions take a tile's number as text, so each number stands here once.
struct Machine {
  // A configuration takes as long as several products, so one stays until another is asked for.
  static void configure(const int (&rows)[8]) {
    if (configured == rows[4] + rows[5]) return;
    configured = rows[4] + rows[5];
    alignas(64) unsigned char config[64] = {1};  // palette 1
    for (int t = 0; t < 8; ++t) {
      config[16 + 2 * t] = rows[t] > 0 ? 64 : 0;
      config[48 + t] = static_cast<unsigned char>(rows[t]);
    }
    written();
    _tile_loadconfig(config);
  }
  static void release() {
    _tile_release();
    configured = 0;
  }
  template <int T>
  static void zero() {
    if constexpr (T == 0) _tile_zero(0);
    if constexpr (T == 1) _tile_zero(1);
    if constexpr (T == 2) _tile_zero(2);
    if constexpr (T == 3) _tile_zero(3);
  }
  template <int T>
  static void load(const void* from, long stride) {
    written();
    if constexpr (T == 0) _tile_loadd(0, from, stride);
    if constexpr (T == 1) _tile_loadd(1, from, stride);
    if constexpr (T == 2) _tile_loadd(2, from, stride);
    if constexpr (T == 3) _tile_loadd(3, from, stride);
    if constexpr (T == 4) _tile_loadd(4, from, stride);
    if constexpr (T == 5) _tile_loadd(5, from, stride);
    if constexpr (T == 6) _tile_loadd(6, from, stride);
    if constexpr (T == 7) _tile_loadd(7, from, stride);
  }
  // The same of what comes by once, and must not drive out of the nearest cache what stays.
  template <int T>
  static void pass(const void* from, long stride) {
    written();
    if constexpr (T == 4) _tile_stream_loadd(4, from, stride);
    if constexpr (T == 5) _tile_stream_loadd(5, from, stride);
  }
  template <int T>
  static void store(void* to, long stride) {
    if constexpr (T == 0) _tile_stored(0, to, stride);
    if constexpr (T == 1) _tile_stored(1, to, stride);
    if constexpr (T == 2) _tile_stored(2, to, stride);
    if constexpr (T == 3) _tile_stored(3, to, stride);
  }
  template <int C, int A, int B>
  static void multiply() {
    if constexpr (C == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (C == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (C == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (C == 3) _tile_dpbf16ps(3, 5, 7);
  }

 private:
  // Rows of the thread's tiles; 0: none. Found without a call: it is looked at for each block.
  [[gnu::tls_model("initial-exec")]] static inline thread_local int configured = 0;
};

struct Half : avx512::Half {
  template <int Rows, int Vecs>
  static void product(const Product& p) {
    TileProduct<Machine, Half, Rows, Vecs>::run(p);
  }
};

// The system gives tile state to a process that asks for it (Linux 5.16 and later).
bool permitted() {
  constexpr int kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

bool available() {
  static const bool found = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512bf16") && permitted();
  return found;
}

void score_tile(const Tile& tile) {
  Tower<Half, Shape<32, 2, 256>>(tile).run();
  Machine::release();
}

}  // namespace

const Isa kAmx{"amx_bf16", Precision::half, 32, available, score_tile};

}  // namespace espalier
