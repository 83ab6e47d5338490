"""The contract suite with its float64 oracle, on every engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.claims.engine_lines import absent
from benchmarks.claims.line import Line
from benchmarks.claims.operate_suites import outcome
from benchmarks.claims.workplace import Workplace

NATIVE, TORCH = "tests/service/test_native_engine.py", "tests/service/engines/test_torch_engine.py"
SUITES: Mapping[str, Sequence[str]] = {
    "onnx": ("tests/service/test_engine_onnx.py",),
    "native fp32, AVX-512": (f"{NATIVE}::TestNativeEngineAvx512",),
    "native fp32, AVX2": (f"{NATIVE}::TestNativeEngineAvx2",),
    "native bf16, AVX512_BF16": (f"{NATIVE}::TestNativeEngineBf16",),
    "native bf16, AMX": (f"{NATIVE}::TestNativeEngineAmx",),
    "torch, operators on the CPU": (f"{TORCH}::TestPlainTorchEngine",),
    "torch, kernels in Triton's interpreter": (f"{TORCH}::TestInterpretedTorchEngine",),
}
BOUND = "all pass"
TIMEOUT = "--timeout=1800"  # of one test: in the interpreter the long ones take minutes


def lines(work: Workplace) -> Iterator[Line]:
    """One line an engine; in quick mode the first two."""
    for name, paths in list(SUITES.items())[: 2 if work.quick else None]:
        ends, others = outcome(work, name, (*paths, TIMEOUT), {"INTERPRETED_CONTRACT": "1"})
        yield judged(name, ends["passed"], ends["skipped"], ends.total(), others)


def judged(name: str, passed: int, skipped: int, of: int, others: str) -> Line:
    """One line; an engine whose tests are all skipped cannot run here."""
    claim = f"contract suite and oracle: {name}"
    if skipped == of > 0:
        return absent(claim, BOUND, others)
    figure = f"{passed} of {of} tests passed" + (f"; not: {others}" if others else "")
    return Line(claim, figure, BOUND, "holds" if passed == of > 0 else "falls short")
