// AVX-512 with bfloat16 products: the same block, two inputs in each step. Compiled with its own flags.
#include "half_avx512.hpp"
#include "isa.hpp"
#include "tile.hpp"

namespace espalier {

namespace {

struct Half : avx512::Half {
  template <int Rows, int Vecs>
  static void product(const Product& p) {
    espalier::product<Half, Rows, Vecs>(p);
  }
};

bool available() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("avx512bf16");
}

void score_tile(const Tile& tile) { Tower<Half, Shape<14, 2>>(tile).run(); }

}  // namespace

const Isa kAvx512Bf16{"avx512_bf16", Precision::half, 2, available, score_tile};

}  // namespace espalier
