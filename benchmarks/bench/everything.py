"""All parts of `make bench`, one after the other, each in a process of its own; what is done is kept on the disk."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.bench import machine
from benchmarks.bench.batches import Batch
from benchmarks.bench.cold import Cold
from benchmarks.bench.domains import Domains
from benchmarks.bench.part import Asked, measured
from benchmarks.bench.shapes import BATCHINGS, SHAPES, Batching
from benchmarks.bench.web import Web
from benchmarks.claims.workplace import ROOT

PACKAGES = ("onnxruntime", "openvino", "torch", "peft", "mosec", "litserve")
SERVED = ("MovieLens", "Ali-CCP")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Where:
    """What was measured on.

    Args:
        processor: and its cores.
        commit: of this checkout.
        date: YYYY-MM-DD.
        versions: of Python and of the peers that are installed.
        quick: sizes so small that the figures mean nothing.
    """

    processor: str
    commit: str
    date: str
    versions: dict[str, str]
    quick: bool = False

    @classmethod
    def here(cls, quick: bool) -> Where:
        """This machine, this checkout, today."""
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        versions = {"Python": platform.python_version()}
        for package in PACKAGES:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "not installed"
        return cls(machine.described(), done.stdout.strip(), time.strftime("%Y-%m-%d"), versions, quick)


@dataclass(frozen=True)
class Bench:
    """Everything that was measured."""

    where: Where
    batches: list[Batch] = field(default_factory=list)
    in_a_batch: list[Domains] = field(default_factory=list)
    resident: list[Domains] = field(default_factory=list)
    cold: list[Cold] = field(default_factory=list)
    web: list[Web] = field(default_factory=list)
    workers: list[Web] = field(default_factory=list)


def everything(folder: Path, quick: bool, say: Callable[[str], None]) -> Bench:
    """Measure all parts.

    Args:
        folder: for files of the parts.
        quick: small sizes.
        say: told of each part before it runs.

    Raises:
        ClaimError: a part broke.
    """
    batchings = (Batching(4, 5), Batching(1, 7)) if quick else BATCHINGS
    shapes = [shape.name for shape in (SHAPES[:1] if quick else SHAPES)]
    served = SERVED[:1] if quick else SERVED

    def part(asked: Asked) -> Asked:
        words = (asked.part, asked.shape, str(asked.batching), asked.precision, asked.subject)
        say(" ".join(word for word in words if word))
        return asked

    def split(name: str) -> list[Domains]:
        asked = [Asked(name, shape, precision=p, quick=quick) for shape in shapes for p in PRECISIONS]
        return [measured(part(one), Domains, folder) for one in asked]

    return Bench(
        where=Where.here(quick),
        batches=[
            measured(part(Asked("batch", shape, batching, quick=quick)), Batch, folder)
            for shape in shapes
            for batching in batchings
        ],
        in_a_batch=split("in_a_batch"),
        resident=split("resident"),
        cold=[
            measured(part(Asked("cold", served[-1], precision=p, subject=source, quick=quick)), Cold, folder)
            for p in PRECISIONS
            for source in ("redis", "prepared")
        ],
        web=[measured(part(Asked("web", shape, quick=quick)), Web, folder) for shape in served],
        workers=[measured(part(Asked("workers", served[-1], quick=quick)), Web, folder)],
    )
