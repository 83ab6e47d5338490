// The tiles of isa_amx.cpp in plain code, as Intel's manual describes TDPBF16PS: per group, even and odd inputs are summed
// apart from zero, then both join the chain. Denormals are not flushed here, which real tiles do.
#include <bit>
#include <cstdint>
#include <stdexcept>

#include "half_avx512.hpp"
#include "isa.hpp"
#include "tile_product.hpp"

namespace espalier {

namespace {

struct Machine {
  static inline thread_local int rows[8];
  static inline thread_local float tiles[8][16][16];

  static void configure(const int (&given)[8]) {
    for (int t = 0; t < 8; ++t) {
      if (given[t] < 0 || given[t] > 16) throw std::logic_error("a tile has at most 16 rows");
      rows[t] = given[t];
    }
    std::memset(tiles, 0, sizeof tiles);
  }
  template <int T>
  static void zero() {
    std::memset(tiles[T], 0, sizeof tiles[T]);
  }
  template <int T>
  static void load(const void* from, long stride) {
    for (int r = 0; r < rows[T]; ++r) std::memcpy(tiles[T][r], static_cast<const char*>(from) + r * stride, 64);
  }
  template <int T>
  static void pass(const void* from, long stride) {
    load<T>(from, stride);
  }
  template <int T>
  static void store(void* to, long stride) {
    for (int r = 0; r < rows[T]; ++r) std::memcpy(static_cast<char*>(to) + r * stride, tiles[T][r], 64);
  }
  static float half(float step, int which) {
    const auto bits = std::bit_cast<std::uint32_t>(step);
    return std::bit_cast<float>(which == 0 ? bits << 16 : bits & 0xffff0000u);
  }
  template <int C, int A, int B>
  static void multiply() {
    for (int m = 0; m < rows[C]; ++m) {
      for (int n = 0; n < 16; ++n) {
        float even = 0.0f, odd = 0.0f;
        for (int k = 0; k < 16; ++k) {
          even += half(tiles[A][m][k], 0) * half(tiles[B][k][n], 0);
          odd += half(tiles[A][m][k], 1) * half(tiles[B][k][n], 1);
        }
        tiles[C][m][n] += even + odd;
      }
    }
  }
};

struct Half : avx512::Half {
  template <int Rows, int Vecs>
  static void product(const Product& p) {
    TileProduct<Machine, Half, Rows, Vecs>::run(p);
  }
};

bool available() { return kAvx512Bf16.available(); }

// Sums are laid aside after each group: the networks of a fuzz are small.
void score_tile(const Tile& tile) { Tower<Half, Shape<32, 2, 16>>(tile).run(); }

}  // namespace

extern const Isa kEmulated;
const Isa kEmulated{"emulated", Precision::half, 32, available, score_tile};

}  // namespace espalier
