#!/usr/bin/env bash
# Build the core with AddressSanitizer and UndefinedBehaviorSanitizer and fuzz it against the oracle.
# Usage: kernels/sanitize.sh [worlds]
set -euo pipefail
cd "$(dirname "$0")"
cmake -S . -B build/sanitize -DCMAKE_BUILD_TYPE=None -DESPALIER_PYTHON=OFF -DESPALIER_TESTS=ON -DESPALIER_SANITIZE=ON \
  >/dev/null
cmake --build build/sanitize --parallel "${JOBS:-1}"
UBSAN_OPTIONS=print_stacktrace=1 build/sanitize/fuzz "${1:-200}"
