// AVX-512: 14 rows x 32 columns take 28 of the 32 registers. Compiled with its own flags; see CMakeLists.txt.
#include "isa.hpp"
#include "tile.hpp"
#include "vector_avx512.hpp"

namespace espalier {

namespace {
bool available() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

void score_tile(const Tile& tile) { Tower<Single<avx512::Vec>, Shape<14, 2>>(tile).run(); }
}  // namespace

const Isa kAvx512{"avx512", Precision::single, 1, available, score_tile};

}  // namespace espalier
