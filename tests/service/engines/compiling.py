"""`python -m tests.service.engines.compiling`: compile the kernels for one kind of GPU, without one, and say how large.

A process of its own, since Triton decides when it is imported whether kernels are interpreted or compiled.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from service.engines.gpu import kernels
from service.engines.gpu.batching import TILE
from service.engines.gpu.packing import BLOCK
from service.engines.gpu.pool import ENTRIES, HEAD, WIDEST_KEY
from service.engines.gpu.towers import COLUMNS, STEP

KERNELS = ("gather", "project", "weigh", "layer", "output")
H200 = GPUTarget("cuda", 90, 32)
NUMBERS = dict.fromkeys(("stride", "inputs", "level", "levels", "k", "d", "wide"), "i32")
INTEGERS = dict.fromkeys(("tiles", "codes", "counts", "tail", "table", "division"), "*i32")
CONSTANTS = {
    "ENTRIES": ENTRIES, "HEAD": HEAD, "KEYS": WIDEST_KEY, "TILE": TILE, "BLOCK": BLOCK, "STEP": STEP, "WIDTH": BLOCK,
    "MOST": 3, "COLUMNS": COLUMNS,
}  # fmt: skip


def compiled(name: str, precision: str) -> Any:
    """One kernel, compiled to machine code."""
    kernel = getattr(kernels, name)
    constants = {**CONSTANTS, "PRECISION": precision}
    types = {**NUMBERS, **INTEGERS, "about": "*i64", **dict.fromkeys(constants, "constexpr")}
    signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names}
    given = {(at,): constants[argument] for at, argument in enumerate(kernel.arg_names) if argument in constants}
    return triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=given), target=H200)


if __name__ == "__main__":
    found = {name: compiled(name, sys.argv[1]) for name in KERNELS}
    print(json.dumps({name: [len(one.asm["cubin"]), one.metadata.shared] for name, one in found.items()}))
