// AVX2: 6 rows x 16 columns take 12 of the 16 registers. Compiled with its own flags; see CMakeLists.txt.
#include "isa.hpp"
#include "tile.hpp"
#include "vector_avx2.hpp"

namespace espalier {

namespace {
bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

void score_tile(const Tile& tile) { Tower<Single<avx2::Vec>, Shape<6, 1>>(tile).run(); }
}  // namespace

const Isa kAvx2{"avx2", Precision::single, 1, available, score_tile};

}  // namespace espalier
