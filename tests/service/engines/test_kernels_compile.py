"""The kernels are more than what the interpreter takes: they compile to machine code of an H200."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[3]
SHARED_BYTES = 227 << 10  # of one block on such a GPU


def test_every_kernel_compiles_for_an_h200(tmp_path: Path) -> None:
    """Law: Triton and its assembler take each kernel, and none needs more shared memory than there is."""
    environ = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environ.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.engines.compiling", "ieee"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    assert set(sizes) == {"gather", "project", "weigh", "layer", "output"}
    assert all(code > 0 and shared <= SHARED_BYTES for code, shared in sizes.values())
