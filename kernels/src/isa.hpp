// The instruction sets: each is one translation unit, compiled with its own flags and entered through this table only.
#pragma once

#include "plan.hpp"

namespace espalier {

struct Isa {
  const char* name;
  Precision precision;
  int group;                          // inputs whose products are added together before they join a chain
  bool (*available)();                // this processor and operating system have it
  void (*score_tile)(const Tile&);    // fills Part::logits
};

extern const Isa kAvx2;
extern const Isa kAvx512;
extern const Isa kAvx512Bf16;
extern const Isa kAmx;

// The best one of a precision that this machine has, or nullptr.
const Isa* best_isa(Precision precision);

// By name, or nullptr where there is none of that name on this machine.
const Isa* find_isa(const char* name);

}  // namespace espalier
