#include <cstring>

#include "isa.hpp"

namespace espalier {

namespace {
// Best first.
const Isa* const kAll[] = {&kAvx512, &kAmx, &kAvx512Bf16, &kAvx2};
}  // namespace

const Isa* best_isa(Precision precision) {
  for (const Isa* isa : kAll) {
    if (isa->precision == precision && isa->available()) return isa;
  }
  return nullptr;
}

const Isa* find_isa(const char* name) {
  for (const Isa* isa : kAll) {
    if (std::strcmp(isa->name, name) == 0 && isa->available()) return isa;
  }
  return nullptr;
}

}  // namespace espalier
