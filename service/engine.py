"""What an engine is: it prepares a folded adapter once and scores lists of segments.

Engines are interchangeable: `tests/service/engine_contract.py` is the suite that each passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from adapters_store.folding import Folded
from features.overlay import Overlay
from features.rows import EncodedRows


class Prepared(Protocol):
    """One combination of an adapter, ready for the engine that prepared it; opaque to everyone else."""

    @property
    def nbytes(self) -> int:
        """Memory it keeps, bytes; arrays shared with other combinations are counted in each, an id overlay in none."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows of one request that are scored by one prepared combination.

    Args:
        rows: encoded rows, every field of the backbone; for an adapter with an id overlay, what that knows of them.
        prepared: what `Engine.prepare` of the same engine returned.
        engine: runs it.
    """

    rows: EncodedRows
    prepared: Any
    engine: Engine


class Engine(Protocol):
    """Scores encoded rows by one backbone and prepared adapters; called from the engine and the loader thread.

    `Folded.overlay` and `EncodedRows.overlaid` belong together: where the one is, its rows replace the id fields'
    vectors. An engine that cannot score a fold (a delta, an overlay) raises EngineFailed when it is to prepare it.
    """

    name: str

    def prepare(self, folded: Folded) -> Prepared:
        """Make a folded combination ready, with its calibration; called off the scoring path.

        Raises:
            EngineFailed: this engine cannot score it; says why.
        """

    def run(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """Score segments; segments of the same prepared combination share a run.

        Returns:
            Per segment the logits after calibration, float64 (n,). A non-finite logit is returned as such.
        """

    def logits(self, rows: EncodedRows, folded: Folded) -> NDArray[np.float64]:
        """Logits before calibration, float64 (n,), as verification compares them with golden rows."""


@dataclass(frozen=True, slots=True)
class EngineForm:
    """What decides whether an engine reproduces golden rows, and what it makes of a fold.

    Args:
        engine: its name.
        precision: fp32 or bf16.
        isa: the instruction set that it runs on.
        build: of the code that scores: the digest of an extension, or a library's version and the graph's digest.
        in_place: what it prepares uses arrays where they lie in a blob, rather than a copy in a form of its own.
    """

    engine: str
    precision: str
    isa: str
    build: str
    in_place: bool


@runtime_checkable
class HasForm(Protocol):
    """An engine that says so; what another one accepted is not kept on disk."""

    @property
    def form(self) -> EngineForm:
        """The same in every process in which it would do the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One combination in an engine's own form, which may lie in a file and is taken from there as it lies.

    Args:
        isa: the instruction set that it is for.
        sizes: the number of its layout, then whatever says where in the memory everything is; the engine's own.
        memory: float32 (n,), from a multiple of 64 bytes on; whatever stands there is the engine's own.
        slope: calibrated logit = slope * logit + intercept.
        intercept: see slope.
        overlay: the adapter's id overlay, one object for all its combinations.
    """

    isa: str
    sizes: Sequence[int]
    memory: NDArray[np.float32]
    slope: float
    intercept: float
    overlay: Overlay | None = None


@runtime_checkable
class Adopts(Protocol):
    """An engine whose preparing is worth keeping: it takes what it packed before without copying it."""

    def packed(self, prepared: Prepared, folded: Folded) -> Packed | None:
        """What this engine prepared of a fold, as a view of its memory; None where only the fold can be kept."""

    def adopt(self, packed: Packed) -> Prepared:
        """As `prepare` of the fold once was; the memory is used where it lies, for as long as the result lives.

        Raises:
            EngineFailed: layout, instruction set, sizes, length or alignment are not this engine's.
        """


def form_of(engine: Engine) -> EngineForm | None:
    """The form of an engine, if it says one."""
    form = engine.form if isinstance(engine, HasForm) else None
    return form if isinstance(form, EngineForm) else None  # the protocol takes any attribute of that name


def run_each(segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
    """Score segments, each by its own engine; those of one engine in one call.

    Returns:
        Per segment the logits after calibration, float64 (n,).
    """
    engines = list(dict.fromkeys(segment.engine for segment in segments))
    if len(engines) == 1:
        return engines[0].run(segments)
    logits: list[NDArray[np.float64]] = [np.empty(0)] * len(segments)
    for engine in engines:
        own = [position for position, segment in enumerate(segments) if segment.engine is engine]
        for position, part in zip(own, engine.run([segments[position] for position in own]), strict=True):
            logits[position] = part
    return logits
