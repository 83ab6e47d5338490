"""The CPU kernel: all segments of a batch in one call of the optional extension `espalier-kernels`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from adapters_store.backbone import Backbone
from adapters_store.canonical import digest
from adapters_store.dense import FoldedDelta
from adapters_store.folding import Folded
from features.overlay import Overlay
from features.rows import EncodedRows
from service.engine import Engine, EngineForm, Packed, Prepared, Segment
from service.engines.beside import KINDS, PLAIN, beside_of
from service.errors import EngineFailed

EXTENSION = "espalier_kernels"
_EMBEDDING = "embedding."
_MOST, _MEAN = 2e-2, 2e-3  # of a probability: what bfloat16 may move
_MANY = 16  # rows that a mean is looked at of; one combination may have one golden row

Precision = Literal["fp32", "bf16"]
FP32: Precision = "fp32"


class EngineAbsent(EngineFailed):
    """The native engine cannot run here, or not with this backbone; says why."""


class _Adapter(Protocol):
    """What the extension makes of a fold."""

    @property
    def nbytes(self) -> int: ...
    @property
    def sizes(self) -> list[int]: ...
    @property
    def memory(self) -> NDArray[np.float32]: ...


_Layers = list[dict[str, NDArray[np.float32]]]
_OverlaysGiven = list[tuple[str, str, NDArray[Any]]]
_WeightsGiven = list[tuple[str, NDArray[Any]]]
_Given = tuple[dict[str, NDArray[Any]], int, _Adapter, dict[str, NDArray[np.int64]] | None]


class _Network(Protocol):
    """What the extension makes of a backbone."""

    @property
    def isa(self) -> str: ...

    def prepare(
        self,
        modules: _Layers,
        slope: float,
        intercept: float,
        overlays: _OverlaysGiven,
        weights: _WeightsGiven = ...,
    ) -> _Adapter: ...

    def prepare_dense(
        self,
        modules: _Layers,
        output: tuple[NDArray[np.float32], float] | None,
        slope: float,
        intercept: float,
        overlays: _OverlaysGiven,
        tables: list[tuple[str, NDArray[Any]]],
    ) -> _Adapter: ...

    def adopt(
        self,
        isa: str,
        sizes: list[int],
        memory: NDArray[np.float32],
        slope: float,
        intercept: float,
        overlays: _OverlaysGiven,
        weights: _WeightsGiven = ...,
    ) -> _Adapter: ...

    def score(self, segments: list[_Given], logits: NDArray[np.float64], *, calibrated: bool) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class NativePrepared:
    """One combination, packed here or adopted.

    Args:
        adapter: the extension's.
        nbytes: of its memory and of the deltas of tables, an id overlay left out.
        is_whole: whether all that scores is in its memory and its overlay; deltas of tables lie beside it.
    """

    adapter: _Adapter
    nbytes: int
    is_whole: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class HandedOn:
    """One combination that another engine scores.

    Args:
        prepared: by that engine.
        nbytes: as that engine counts it.
    """

    prepared: Prepared
    nbytes: int


class NativeEngine:
    """Scores with the extension's fused tower; the instruction set is chosen when it is made.

    Args:
        backbone: the bundle whose weights are packed; its tables are read in place.
        threads: one for each core that it is given, the caller's included.
        cpus: cores that the threads beside the caller's are bound to; none leaves that to the system.
        isa: instruction set to use; None takes the best one.
        tile_rows: rows that go through the tower together; 0 takes what the cache holds.
        share: whether what the rows of a request have in common is computed once; it changes no bit of a result.
        precision: bf16 multiplies in bfloat16 (sums stay float32); verification looks at float32 first, then at both.
        dense: scores the folds that are whole networks (kind delta) where the extension cannot: one of before, or a
            backbone with something beside its tower, which such a fold may change. Without it they are refused then.

    Raises:
        EngineAbsent: the extension is not installed, the processor lacks the instructions, or the backbone is of a
            form that it does not have.
    """

    name = "native"

    def __init__(
        self,
        backbone: Backbone,
        threads: int = 1,
        *,
        cpus: Sequence[int] = (),
        isa: str | None = None,
        tile_rows: int = 0,
        share: bool = True,
        precision: Precision = "fp32",
        dense: Engine | None = None,
    ) -> None:
        self._modules = _modules(backbone)
        self._weights = backbone.weights
        options = {"threads": threads, "cpus": list(cpus), "isa": isa, "tile_rows": tile_rows, "share": share}
        self._network = _network(backbone, self._modules, {**options, "precision": precision})
        self._precision = precision
        exact = {"threads": 1, "cpus": [], "isa": None}
        self._exact = self._network if precision == "fp32" else _network(backbone, self._modules, exact)
        # an extension of before lacks these
        self._adopts = hasattr(self._network, "adopt")
        self._packs_dense = hasattr(self._network, "prepare_dense")
        self._plain = backbone.manifest.kind == PLAIN
        self._dense = None if self._packs_dense and self._plain else dense
        self._verified: WeakKeyDictionary[Folded, NativePrepared] = WeakKeyDictionary()
        build = _digest_of(type(self._network).__module__)
        self._form = EngineForm(self.name, precision, self._network.isa, build, in_place=self._adopts)

    @property
    def form(self) -> EngineForm:
        """Precision, instruction set and the extension's digest; what it packed once it takes as it lies in a blob."""
        return self._form

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._network.isa

    def prepare(self, folded: Folded) -> NativePrepared | HandedOn:
        """Pack a fold for the tower.

        Raises:
            EngineFailed: it does not fit the backbone, or is a delta and nothing here scores those.
        """
        other = self._other(folded)
        if other is not None:
            prepared = other.prepare(folded)
            return HandedOn(prepared, prepared.nbytes)
        return self._verified.pop(folded, None) or self._pack(self._network, folded)

    def packed(self, prepared: Prepared, folded: Folded) -> Packed | None:
        """The tower's own memory of a fold that this engine prepared; None by an extension of before.

        None with deltas of tables, too: a table may have millions of rows, and the artifact has its delta already.
        """
        if not self._adopts or not isinstance(prepared, NativePrepared) or not prepared.is_whole:
            return None
        own = prepared.adapter
        return Packed(self.isa, own.sizes, own.memory, folded.slope, folded.intercept, folded.overlay)

    def adopt(self, packed: Packed) -> NativePrepared:
        """Let the tower use memory as it lies.

        Raises:
            EngineFailed: it is of another layout, instruction set or network, or not as long or aligned as it must be.
        """
        try:
            adapter = self._network.adopt(
                packed.isa,
                list(packed.sizes),
                packed.memory,
                packed.slope,
                packed.intercept,
                _overlays(packed.overlay),
                *_first_orders(packed.overlay),
            )
        except (ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
            raise EngineFailed(f"the native engine cannot adopt the adapter: {error}") from error
        return NativePrepared(adapter, adapter.nbytes)

    def run(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """Score all segments in one call; those that another engine prepared, by that.

        Raises:
            EngineFailed: rows are not of this backbone.
        """
        own = [segment for segment in segments if isinstance(segment.prepared, NativePrepared)]
        scored = iter(_scored(self._network, [(segment.rows, segment.prepared) for segment in own], calibrated=True))
        if len(own) == len(segments):
            return list(scored)
        handed_on = iter(self._hand_on([segment for segment in segments if isinstance(segment.prepared, HandedOn)]))
        return [next(scored if isinstance(segment.prepared, NativePrepared) else handed_on) for segment in segments]

    def logits(self, rows: EncodedRows, folded: Folded) -> NDArray[np.float64]:
        """Logits before calibration in float32, as float64 (n,).

        Raises:
            EngineFailed: rows or fold are not of this backbone, or bfloat16 moves a probability too far.
        """
        other = self._other(folded)
        if other is not None:
            return other.logits(rows, folded)
        own = self._pack(self._network, folded)
        found = _scored(self._network, [(rows, own)], False)[0]
        if self._precision == "bf16":
            half, found = found, _scored(self._exact, [(rows, self._pack(self._exact, folded))], False)[0]
            _check_distance(found, half)
        self._verified[folded] = own  # whoever accepts the fold prepares it next
        return found

    def _other(self, folded: Folded) -> Engine | None:
        """The engine that a fold is handed to; None for what the extension takes."""
        if folded.delta is None or (self._packs_dense and self._plain):
            return None
        if self._dense is None:
            raise EngineFailed(
                "the extension espalier-kernels that is installed scores no adapters of kind 'delta': install the one "
                "of this release"
                if self._plain
                else "the native engine scores adapters of kind 'delta' on backbones of kind 'mlp' alone"
            )
        return self._dense

    def _pack(self, network: _Network, folded: Folded) -> NativePrepared:
        try:
            if folded.delta is not None:
                return self._pack_dense(network, folded, folded.delta)
            modules = [folded.modules[module].arrays() for module in self._modules]
            overlays, weights = _overlays(folded.overlay), _first_orders(folded.overlay)
            adapter = network.prepare(modules, folded.slope, folded.intercept, overlays, *weights)
        except (KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            raise EngineFailed(f"the native engine cannot prepare the adapter: {error}") from error
        return NativePrepared(adapter, adapter.nbytes)

    def _pack_dense(self, network: _Network, folded: Folded, delta: FoldedDelta) -> NativePrepared:
        """Pack the layers and the output that differ from the backbone's; the others stay shared with it."""
        weights, tables = delta.weights, _tables(delta)
        own = _changed(weights, self._weights)
        layers = [_layer(module, weights, own) for module in self._modules]
        output = None
        if not own.isdisjoint(("output.weight", "output.bias")):
            output = weights["output.weight"][0], float(weights["output.bias"][0])
        adapter = network.prepare_dense(
            layers, output, folded.slope, folded.intercept, _overlays(folded.overlay), tables
        )
        nbytes = adapter.nbytes + sum(table.nbytes for _, table in tables)
        return NativePrepared(adapter, nbytes, is_whole=not tables)

    def _hand_on(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        assert self._dense is not None
        return self._dense.run([Segment(each.rows, each.prepared.prepared, self._dense) for each in segments])


def _scored(
    network: _Network, given: Sequence[tuple[EncodedRows, NativePrepared]], calibrated: bool
) -> list[NDArray[np.float64]]:
    stops = np.cumsum([rows.n for rows, _ in given]).tolist()
    logits = np.empty(stops[-1] if stops else 0)
    segments: list[_Given] = [(rows.arrays, rows.n, own.adapter, _by_side(rows)) for rows, own in given]
    try:
        network.score(segments, logits, calibrated=calibrated)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise EngineFailed(f"the native engine failed: {error}") from error
    return [logits[stop - rows.n : stop] for (rows, _), stop in zip(given, stops, strict=True)]


def _changed(weights: Mapping[str, NDArray[Any]], backbone: Mapping[str, NDArray[Any]]) -> set[str]:
    """Names of the weights that are not the backbone's."""
    same = {
        name
        for name, own in weights.items()
        if name in backbone and (own is backbone[name] or np.array_equal(own, backbone[name]))
    }
    return weights.keys() - same


def _layer(module: str, weights: Mapping[str, NDArray[Any]], own: AbstractSet[str]) -> dict[str, NDArray[np.float32]]:
    """One layer of a dense adapter; without its weight where that is the backbone's."""
    bias = weights[f"{module}.bias"]
    scale = weights.get(f"{module}.norm_scale", np.ones_like(bias))
    shift = weights.get(f"{module}.norm_shift", np.zeros_like(bias))
    parts = {"bias": bias, "norm_scale": scale, "norm_shift": shift}
    name = f"{module}.weight"
    return {**parts, "weight": weights[name]} if name in own else parts


def _tables(delta: FoldedDelta) -> list[tuple[str, NDArray[Any]]]:
    """Deltas of tables by field; whatever is no embedding, the extension has no field for."""
    return [(name.removeprefix(_EMBEDDING), np.ascontiguousarray(table)) for name, table in delta.tables.items()]


def _overlays(overlay: Overlay | None) -> _OverlaysGiven:
    sides = {} if overlay is None else overlay.sides
    return [(side, own.field, np.ascontiguousarray(own.rows)) for side, own in sides.items()]


def _first_orders(overlay: Overlay | None) -> tuple[_WeightsGiven, ...]:
    """The overlay's first-order weights as a last argument; none for kinds that an extension of before has too."""
    sides = {} if overlay is None else overlay.sides
    found = [(side, own.first_order) for side, own in sides.items() if own.first_order is not None]
    weights = [(str(side), np.ascontiguousarray(first_order).reshape(-1, 1)) for side, first_order in found]
    return (weights,) if weights else ()


def _by_side(rows: EncodedRows) -> dict[str, NDArray[np.int64]] | None:
    return None if rows.overlaid is None else {str(side): positions for side, positions in rows.overlaid.items()}


def _check_distance(exact: NDArray[np.float64], half: NDArray[np.float64]) -> None:
    """Hold probabilities in bfloat16 to those in float32; what is not finite is verification's to refuse."""
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(1.0 / (1.0 + np.exp(-exact)) - 1.0 / (1.0 + np.exp(-half)))
    if off.size and (off.max() > _MOST or (off.size >= _MANY and off.mean() > _MEAN)):
        raise EngineFailed(
            f"in bfloat16 probabilities move by up to {off.max():.1e} and {off.mean():.1e} on average, more than "
            f"{_MOST} and {_MEAN}; set precision: fp32 on this replica, or publish an adapter that it moves less"
        )


def _modules(backbone: Backbone) -> list[str]:
    modules = [f"tower.{level}" for level in range(len(backbone.manifest.tower))]
    if backbone.manifest.kind not in KINDS or list(backbone.modules) != modules:
        raise EngineAbsent(
            f"the native engine has no backbones of kind {backbone.manifest.kind!r}; it has {', '.join(KINDS)}"
        )
    return modules


def _digest_of(module: str) -> str:
    """Digest of the file that an extension module was loaded from."""
    file = sys.modules[module].__file__
    assert file is not None  # an extension has one
    return digest(Path(file).read_bytes())


def _network(backbone: Backbone, modules: Sequence[str], options: Mapping[str, Any]) -> _Network:
    try:
        extension = importlib.import_module(EXTENSION)
    except ImportError as error:
        raise EngineAbsent(f"the extension espalier-kernels is not installed ({error})") from error
    weights = {name: np.ascontiguousarray(array, np.float32) for name, array in backbone.weights.items()}
    fields = [
        (field.name, field.kind, field.of != "item", field.width, weights.get(_EMBEDDING + field.name))
        for field in backbone.manifest.fields
    ]
    layers = [(weights[f"{module}.weight"], weights[f"{module}.bias"]) for module in modules]
    # what stands beside the tower comes first in the output layer's input
    output = np.ascontiguousarray(weights["output.weight"][0, -backbone.manifest.tower[-1] :])
    bias, beside = float(weights["output.bias"][0]), beside_of(backbone, weights)
    try:
        branch = {} if beside is None else {"branch": beside}  # an extension of before has kind mlp alone
        made = extension.Network(fields, layers, output, bias, **options, **branch)
    except (RuntimeError, ValueError, TypeError) as error:
        raise EngineAbsent(f"the native engine cannot run: {error}") from error
    return cast(_Network, made)
