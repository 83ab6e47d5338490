"""Reads again what the fuzzer tried, plainly: `python -m benchmarks.claims.fuzzed TARGET RUN LOOKS EVERY < PIPE`."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import psutil

from benchmarks.claims.fuzzing import TARGETS
from benchmarks.forge import Run


def reread(target: str, folder: Path, looks: Path, every: int) -> None:
    """Until the pipe ends; resident memory goes to `looks` as it runs, a line `inputs bytes` each time."""
    read, _ = TARGETS[target](Run(folder))
    process, seen = psutil.Process(), 0
    with looks.open("w") as sink:
        while head := sys.stdin.buffer.read(4):
            (size,) = struct.unpack("<I", head)
            content = sys.stdin.buffer.read(size)
            if len(content) != size:
                raise ValueError(f"input {seen} ends after {len(content)} of {size} bytes")
            read(content)
            seen += 1
            if seen % every == 0:
                sink.write(f"{seen} {process.memory_info().rss}\n")


if __name__ == "__main__":
    reread(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
