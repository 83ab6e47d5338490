"""The CPU kernel: all segments of a batch in one call of the optional extension `espalier-kernels`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from adapters_store.backbone import Backbone
from adapters_store.folding import Folded
from features.rows import EncodedRows
from service.engine import Segment
from service.errors import EngineFailed

EXTENSION = "espalier_kernels"
_KINDS = frozenset({"mlp"})


class EngineAbsent(EngineFailed):
    """The native engine cannot run here, or not with this backbone; says why."""


class _Adapter(Protocol):
    """What the extension makes of a fold."""

    @property
    def nbytes(self) -> int: ...


class _Network(Protocol):
    """What the extension makes of a backbone."""

    @property
    def isa(self) -> str: ...

    def prepare(self, modules: list[dict[str, NDArray[np.float32]]], slope: float, intercept: float) -> _Adapter: ...

    def score(
        self,
        segments: list[tuple[Mapping[str, NDArray[Any]], int, _Adapter]],
        logits: NDArray[np.float64],
        *,
        calibrated: bool,
    ) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class NativePrepared:
    """One combination, packed.

    Args:
        adapter: the extension's.
        nbytes: of its memory.
    """

    adapter: _Adapter
    nbytes: int


class NativeEngine:
    """Scores with the extension's fused tower; instruction set chosen when it is made.

    Args:
        backbone: the bundle whose weights are packed; its tables are read in place.
        threads: one for each core that it is given, the caller's included.
        cpus: cores that the threads beside the caller's are bound to; none leaves that to the system.
        isa: instruction set to use; None takes the best one.

    Raises:
        EngineAbsent: the extension is not installed, the processor lacks the instructions, or the backbone is of a
            kind that it does not have.
    """

    name = "native"

    def __init__(
        self, backbone: Backbone, threads: int = 1, *, cpus: Sequence[int] = (), isa: str | None = None
    ) -> None:
        self._modules = _modules(backbone)
        self._network = _network(backbone, self._modules, threads, cpus, isa)

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._network.isa

    def prepare(self, folded: Folded) -> NativePrepared:
        """Pack a fold for the tower.

        Raises:
            EngineFailed: it does not fit the backbone.
        """
        modules = [folded.modules[module].arrays() for module in self._modules]
        try:
            adapter = self._network.prepare(modules, folded.slope, folded.intercept)
        except (ValueError, TypeError, RuntimeError) as error:
            raise EngineFailed(f"the native engine cannot prepare the adapter: {error}") from error
        return NativePrepared(adapter, adapter.nbytes)

    def run(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """Score all segments in one call.

        Raises:
            EngineFailed: rows are not of this backbone.
        """
        return self._score([(segment.rows, segment.prepared) for segment in segments], calibrated=True)

    def logits(self, rows: EncodedRows, folded: Folded) -> NDArray[np.float64]:
        """Logits before calibration, float64 (n,).

        Raises:
            EngineFailed: rows or fold are not of this backbone.
        """
        return self._score([(rows, self.prepare(folded))], calibrated=False)[0]

    def _score(
        self, given: Sequence[tuple[EncodedRows, NativePrepared]], *, calibrated: bool
    ) -> list[NDArray[np.float64]]:
        stops = np.cumsum([rows.n for rows, _ in given]).tolist()
        logits = np.empty(stops[-1] if stops else 0)
        try:
            self._network.score(
                [(rows.arrays, rows.n, prepared.adapter) for rows, prepared in given], logits, calibrated=calibrated
            )
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise EngineFailed(f"the native engine failed: {error}") from error
        return [logits[stop - rows.n : stop] for (rows, _), stop in zip(given, stops, strict=True)]


def _modules(backbone: Backbone) -> list[str]:
    kind = backbone.manifest.kind
    if kind not in _KINDS:
        raise EngineAbsent(f"the native engine has no backbones of kind {kind!r}")
    return [f"tower.{level}" for level in range(len(backbone.manifest.tower))]


def _network(
    backbone: Backbone, modules: Sequence[str], threads: int, cpus: Sequence[int], isa: str | None
) -> _Network:
    try:
        extension = importlib.import_module(EXTENSION)
    except ImportError as error:
        raise EngineAbsent(f"the extension espalier-kernels is not installed ({error})") from error
    weights = {name: np.ascontiguousarray(array, np.float32) for name, array in backbone.weights.items()}
    fields = [
        (field.name, field.kind, field.of != "item", field.width, weights.get(f"embedding.{field.name}"))
        for field in backbone.manifest.fields
    ]
    layers = [(weights[f"{module}.weight"], weights[f"{module}.bias"]) for module in modules]
    output, bias = weights["output.weight"][0], float(weights["output.bias"][0])
    try:
        made = extension.Network(fields, layers, output, bias, isa=isa, threads=threads, cpus=list(cpus))
    except (RuntimeError, ValueError, TypeError) as error:
        raise EngineAbsent(f"the native engine cannot run: {error}") from error
    return cast(_Network, made)
