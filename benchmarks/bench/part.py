"""`python -m benchmarks.bench.part NAME ...`: one measurement in a process of its own, its result as JSON.

A process of its own gives memory back, and is bound to its core before any library counts cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from benchmarks.bench import machine
from benchmarks.bench.shapes import MAIN, Batching, Shape, shapes
from benchmarks.claims.workplace import ROOT, ClaimError

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Args:
        part: one of PARTS.
        shape: name of the network.
        batching: requests x items, for `batch`.
        precision: fp32 or bf16, where that is a choice.
        subject: engine of `company`, source of `cold`.
        quick: small sizes: whether it runs, not how fast.
        threads: inside each engine, for `batch`.
        count: compositions, for `company`.
    """

    part: str
    shape: str = "MovieLens"
    batching: Batching = MAIN
    precision: str = "fp32"
    subject: str = ""
    quick: bool = False
    threads: int = 1
    count: int = 1000

    @property
    def network(self) -> Shape:
        """The shape itself."""
        return next(shape for shape in shapes(self.quick) if shape.name == self.shape)


Measure = Callable[[Asked, Path], Any]


def _batch(asked: Asked, folder: Path) -> Any:
    from benchmarks.bench.batches import measure

    return measure(asked.network, asked.batching, asked.threads, asked.quick)


def _in_a_batch(asked: Asked, folder: Path) -> Any:
    from benchmarks.bench.domains import in_a_batch

    return in_a_batch(asked.network, asked.precision, asked.quick)


def _resident(asked: Asked, folder: Path) -> Any:
    from benchmarks.bench.domains import resident

    return resident(asked.network, asked.precision, asked.quick)


def _company(asked: Asked, folder: Path) -> Any:
    from benchmarks.bench.company import looked_at

    return looked_at(asked.network, asked.subject, asked.count)


def _cold(asked: Asked, folder: Path) -> Any:
    from benchmarks.bench.cold import first_scores

    source: Literal["redis", "prepared"] = "prepared" if asked.subject == "prepared" else "redis"
    return first_scores(asked.network, asked.precision, source, folder, asked.quick)


def _web(asked: Asked, folder: Path) -> Any:
    from benchmarks.bench.web import one_core

    return one_core(asked.network, folder, asked.quick)


def _workers(asked: Asked, folder: Path) -> Any:
    from benchmarks.bench.web import workers

    return workers(asked.network, folder, asked.quick)


# each imports what it needs when it runs: a part without torch or PEFT starts in a fraction of the time
PARTS: Mapping[str, Measure] = {
    "batch": _batch,
    "in_a_batch": _in_a_batch,
    "resident": _resident,
    "company": _company,
    "cold": _cold,
    "web": _web,
    "workers": _workers,
}
SERVERS = frozenset({"cold", "web", "workers"})
"""Parts that start servers and bind them themselves; the client stays on another core."""


def measured(asked: Asked, kind: type[T], folder: Path, environment: Mapping[str, str] | None = None) -> T:
    """Run a part on its core; what it found.

    Args:
        asked: what to measure.
        kind: what the part returns.
        folder: for its files; those of the same networks are used again.
        environment: variables beside those of this process.

    Raises:
        ClaimError: it broke; the message carries the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out, log = folder / f"{asked.part}.json", folder / f"{asked.part}.log"
    out.unlink(missing_ok=True)
    threads = {f"{name}_NUM_THREADS": str(asked.threads) for name in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, "-m", "benchmarks.bench.part", msgspec.json.encode(asked).decode(), str(out)]
    if asked.part not in SERVERS and asked.threads == 1:
        command = ["taskset", "--cpu-list", str(machine.measured_core()), *command]
    with log.open("ab") as sink:
        done = subprocess.run(
            command, cwd=ROOT, stdout=sink, stderr=sink, env={**os.environ, **threads, **(environment or {})}
        )
    if done.returncode or not out.exists():
        raise ClaimError(f"{asked}: ended with {done.returncode}\n{log.read_text(errors='replace')[-3000:]}")
    return msgspec.json.decode(out.read_bytes(), type=kind)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one part, and write what it found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench.part", description=__doc__)
    parser.add_argument("asked", help="an `Asked` as JSON")
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    asked = msgspec.json.decode(given.asked, type=Asked)
    given.out.write_bytes(msgspec.json.encode(PARTS[asked.part](asked, given.out.parent)))


if __name__ == "__main__":
    main()
