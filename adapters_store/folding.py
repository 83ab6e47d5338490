"""Folding: an adapter's literal equations as the few small matrices that an engine multiplies.

MultiLoRA Eq. 7 to 11 (CIKM'24), exact in exact arithmetic, computed in float64 and stored in float32. Per module, with
m divisions present, R their ranks side by side and rf the rank of the fusion:

    q = x queryᵀ + query_shift;  z = x downᵀ;  w = softmax((z * (q key)) groupᵀ + q key_shiftᵀ)
    h = W0 x + b0 + (z * (w group)) upᵀ + w shift;  y = h * norm_scale + norm_shift, then ReLU in the tower

where up = diag(scale) up, query = WQ W0, query_shift = WQ b0, key = WK up / divisor, key_shift = WK shift / divisor.
Modes: avg has query = key = 0; add is avg with up and shift times m; single has m = 1; the backbone is one zero row.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from adapters_store.artifact import Adapter, Fusion
from adapters_store.backbone import Backbone
from adapters_store.dense import FoldedDelta, as_float32, fold_delta
from adapters_store.errors import DoesNotFit, MissingPin
from adapters_store.manifest import AdapterManifest
from adapters_store.pausing import Pause, no_pause
from adapters_store.tensors import Array
from features.overlay import Overlay

Combination = tuple[str | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FoldedModule:
    """One module of one combination; every array contiguous float32.

    Args:
        down: (R, k).
        up: (d, R), with the LoRAs' scales inside.
        shift: (m, d).
        query: (rf, k).
        query_shift: (rf,).
        key: (rf, R).
        key_shift: (m, rf).
        group: (m, R) of 0 and 1: which columns belong to which division.
        norm_scale: (d,), ones where the module has no norm.
        norm_shift: (d,), zeros where it has none.
    """

    down: Array
    up: Array
    shift: Array
    query: Array
    query_shift: Array
    key: Array
    key_shift: Array
    group: Array
    norm_scale: Array
    norm_shift: Array

    def arrays(self) -> dict[str, Array]:
        """Name to array, in the order above."""
        return {part: getattr(self, part) for part in FOLDED_PARTS}


FOLDED_PARTS = tuple(field.name for field in fields(FoldedModule))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Folded:
    """One combination of one adapter, ready for an engine.

    Args:
        modules: Every adaptable module of the backbone; none where `delta` is.
        slope: Calibration: calibrated logit = slope * logit + intercept.
        intercept: See slope.
        delta: The whole network instead of modules, for kind delta.
        overlay: The adapter's id overlay, one object for all its combinations.
    """

    modules: dict[str, FoldedModule]
    slope: float = 1.0
    intercept: float = 0.0
    delta: FoldedDelta | None = None
    overlay: Overlay | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays but the overlay's; arrays that several folds share are counted in each."""
        low_rank = sum(array.nbytes for module in self.modules.values() for array in module.arrays().values())
        return low_rank + (0 if self.delta is None else self.delta.nbytes)


def combinations(adapter: Adapter, auxiliaries: Mapping[str, Adapter]) -> list[Combination]:
    """All combinations of auxiliary domains that a row can be in: per division each pinned domain, or none.

    Args:
        adapter: The natural domain's.
        auxiliaries: Pinned adapters by domain.

    Returns:
        Tuples of one domain or None per auxiliary division; `[()]` for an adapter that fuses nothing.
    """
    return list(itertools.product(*_choices(adapter, auxiliaries)))


def count_combinations(adapter: Adapter, auxiliaries: Mapping[str, Adapter]) -> int:
    """How many `combinations` there are, without making them."""
    return math.prod(len(choice) for choice in _choices(adapter, auxiliaries))


def fold_backbone(backbone: Backbone) -> Folded:
    """The backbone itself, in the form that engines run: no LoRA, its own norms, its own calibration."""
    calibration = backbone.manifest.calibration
    modules = {module: _unadapted(backbone, module, 1) for module in backbone.modules}
    return Folded(modules, calibration.slope, calibration.intercept)


def fold_adapter(
    backbone: Backbone,
    adapter: Adapter,
    auxiliaries: Mapping[str, Adapter],
    fusion: Fusion | None,
    combination: Combination,
    pause: Pause = no_pause,
    overlay: Overlay | None = None,
) -> Folded:
    """Fold one combination of an adapter.

    Args:
        backbone: The adapter's, by fingerprint.
        adapter: Of the natural domain.
        auxiliaries: Pinned adapters by domain.
        fusion: The pinned fusion, for mode attention.
        combination: One domain or None per `adapter.manifest.auxiliary`; None is masked out of the softmax.
        pause: Called between two modules.
        overlay: The adapter's, as `read_overlay` indexed it; auxiliaries' own are left out, as their norms are.

    Returns:
        The fold, with the adapter's own calibration.

    Raises:
        MissingPin: A domain of the combination is not among the auxiliaries, or the fusion is absent.
        BadValue: A folded value is not finite in float32.
    """
    calibration = adapter.manifest.calibration
    if adapter.manifest.kind == "delta":
        delta = fold_delta(backbone, adapter, pause)
        return Folded({}, calibration.slope, calibration.intercept, delta, overlay)
    loras = [adapter, *(_pinned(auxiliaries, domain) for domain in combination if domain is not None)]
    mode = adapter.manifest.mode
    if mode == "attention" and fusion is None:
        raise MissingPin(f"mode 'attention' needs its fusion {adapter.manifest.fusion}")
    norm_prefix = _norm_prefix(adapter.manifest, combination)
    modules = {}
    for module in backbone.modules:
        if module not in adapter.manifest.ranks:
            modules[module] = _unadapted(backbone, module, len(loras))
            continue
        if modules:
            pause()
        norm = _norm(backbone, adapter.tensors, module, norm_prefix)
        # one LoRA has weight 1 whatever its query is
        attending = fusion if mode == "attention" and len(loras) > 1 else None
        modules[module] = _module(backbone, module, loras, attending, len(loras) if mode == "add" else 1, norm)
    return Folded(modules, calibration.slope, calibration.intercept, overlay=overlay)


def fold_auxiliary_only(backbone: Backbone, auxiliaries: Sequence[Adapter], fusion: Fusion | None = None) -> Folded:
    """Fold auxiliary adapters alone, for a domain that has no adapter: its division is masked out of Eq. 10.

    Norms are combined as methods.md 2 says for a pair: the folded maps are averaged. The calibration is the backbone's:
    auxiliary adapters have none of their own.

    Args:
        backbone: The adapters', by fingerprint.
        auxiliaries: One per auxiliary division that is present; none gives the backbone.
        fusion: That weighs them, verified with each; without one they count alike.

    Returns:
        The fold.

    Raises:
        BadValue: A folded value is not finite in float32.
    """
    modules = {}
    for module in backbone.modules:
        present = [adapter for adapter in auxiliaries if module in adapter.manifest.ranks]
        if not present:
            modules[module] = _unadapted(backbone, module, max(len(auxiliaries), 1))
            continue
        norms = [_norm(backbone, adapter.tensors, module) for adapter in present]
        scales, shifts = zip(*norms, strict=True)
        norm = np.mean(scales, 0), np.mean(shifts, 0)
        modules[module] = _module(backbone, module, present, fusion if len(present) > 1 else None, 1, norm)
    calibration = backbone.manifest.calibration
    return Folded(modules, calibration.slope, calibration.intercept)


def _choices(adapter: Adapter, auxiliaries: Mapping[str, Adapter]) -> list[list[str | None]]:
    pinned = [(domain, _pinned(auxiliaries, domain).manifest.division) for domain in adapter.manifest.fuses]
    return [[*(domain for domain, of in pinned if of == division), None] for division in adapter.manifest.auxiliary]


def _pinned(auxiliaries: Mapping[str, Adapter], domain: str) -> Adapter:
    if domain not in auxiliaries:
        raise MissingPin(f"the pinned adapter of domain {domain!r} is absent")
    return auxiliaries[domain]


def _norm_prefix(manifest: AdapterManifest, combination: Combination) -> str:
    """Whose norms serve: the pair that names exactly this combination; else drop its last division and look again."""
    pairs = {tuple(pair.domains): i for i, pair in enumerate(manifest.pairs)}
    left = list(combination)
    for position in reversed(range(len(left))):
        if tuple(left) in pairs:
            return f"pair.{pairs[tuple(left)]}."
        left[position] = None
    return ""


def _norm(backbone: Backbone, tensors: Mapping[str, Array], module: str, prefix: str = "") -> tuple[Array, Array]:
    """DomNorm in eval mode (Eq. 9) as h * scale + shift; each (d,), float64; ones and zeros where there is no norm."""
    if f"{module}.norm.mean" not in backbone.weights:
        d, _ = backbone.modules[module]
        return np.ones(d), np.zeros(d)
    weight, bias, mean, var = (
        tensors[f"{prefix}{module}.norm.{part}"].astype(np.float64) for part in ("weight", "bias", "mean", "var")
    )
    scale = weight / np.sqrt(var + backbone.manifest.norm_eps)
    return scale, bias - mean * scale


@dataclass(frozen=True, slots=True, eq=False)
class FoldedLora:
    """What one LoRA gives to every combination that it is part of; r is its rank.

    Args:
        down: (r, k) float32.
        up: (d, r) float32, with its scale inside.
        shift: (d,) float32.
    """

    down: Array
    up: Array
    shift: Array


@dataclass(frozen=True, slots=True, eq=False)
class FoldedKey:
    """What a LoRA is found by in one fusion's attention.

    Args:
        fusion: the fusion's revision.
        key: (rf, r) float32.
        shift: (rf,) float32.
    """

    fusion: str
    key: Array
    shift: Array


def _module(
    backbone: Backbone,
    module: str,
    loras: Sequence[Adapter],
    fusion: Fusion | None,
    factor: int,
    norm: tuple[Array, Array],
) -> FoldedModule:
    """Fold m LoRAs of one module; `factor` multiplies their outputs."""
    parts = [_lora(lora, module, factor) for lora in loras]
    ranks = [len(part.down) for part in parts]
    if fusion is None:
        query, query_shift = _zeros(1, backbone.modules[module][1]), _zeros(1)
        key, key_shift = _zeros(1, sum(ranks)), _zeros(len(loras), 1)
    else:
        query, query_shift = _query(backbone, fusion, module)
        keys = [_lora_key(lora, module, fusion) for lora in loras]
        key, key_shift = np.hstack([each.key for each in keys]), np.stack([each.shift for each in keys])
    return FoldedModule(
        down=np.vstack([part.down for part in parts]),
        up=np.hstack([part.up for part in parts]),
        shift=np.stack([part.shift for part in parts]),
        query=query,
        query_shift=query_shift,
        key=key,
        key_shift=key_shift,
        group=np.repeat(np.eye(len(loras), dtype=np.float32), ranks, axis=1),
        norm_scale=as_float32(f"{module}.norm_scale", norm[0]),
        norm_shift=as_float32(f"{module}.norm_shift", norm[1]),
    )


def _lora(lora: Adapter, module: str, factor: int) -> FoldedLora:
    """One LoRA of one module, folded once for all combinations: a pinned one is part of many adapters' folds."""
    found: FoldedLora | None = lora.folded.get((module, factor))
    if found is None:
        up, shift = _scaled(lora, module, factor)
        found = lora.folded[module, factor] = FoldedLora(
            as_float32(f"{module}.down", lora.tensors[f"{module}.down"]),
            as_float32(f"{module}.up", up),
            as_float32(f"{module}.shift", shift),
        )
    return found


def _lora_key(lora: Adapter, module: str, fusion: Fusion) -> FoldedKey:
    """WK up / divisor (rf, r) and WK shift / divisor (rf,) of one LoRA (Eq. 10); that of the latest fusion is kept."""
    found: FoldedKey | None = lora.keys.get(module)
    if found is None or found.fusion != fusion.revision:
        up, shift = _scaled(lora, module, 1)
        key = fusion.tensors[f"fusion.{module}.key"].astype(np.float64)
        rank = len(key)
        divided = key / (rank if fusion.manifest.divisor == "r" else math.sqrt(rank))
        found = lora.keys[module] = FoldedKey(
            fusion.revision,
            as_float32(f"{module}.key", divided @ up),
            as_float32(f"{module}.key_shift", divided @ shift),
        )
    return found


def _scaled(lora: Adapter, module: str, factor: int) -> tuple[Array, Array]:
    """A LoRA's `up` with its scale inside (d, r), and its shift (d,), both times the factor, in float64."""
    scale = lora.tensors[f"{module}.scale"].astype(np.float64) * factor
    up: Array = lora.tensors[f"{module}.up"] * scale[:, None]
    return up, lora.tensors[f"{module}.shift"].astype(np.float64) * factor


def _query(backbone: Backbone, fusion: Fusion, module: str) -> tuple[Array, Array]:
    """WQ W0 (rf, k) and WQ b0 (rf,): they depend on backbone and fusion alone, so every adapter shares them."""
    found = fusion.queries.get(module)
    if found is None:
        if fusion.manifest.fingerprint != backbone.fingerprint:
            raise DoesNotFit(f"fusion {fusion.revision} is of another backbone than {backbone.revision}")
        query = fusion.tensors[f"fusion.{module}.query"].astype(np.float64)
        weight, bias = backbone.weights[f"{module}.weight"], backbone.weights.get(f"{module}.bias")
        found = (
            as_float32(f"{module}.query", query @ weight.astype(np.float64)),
            as_float32(
                f"{module}.query_shift", np.zeros(len(query)) if bias is None else query @ bias.astype(np.float64)
            ),
        )
        fusion.queries[module] = found
    return found


def _unadapted(backbone: Backbone, module: str, m: int) -> FoldedModule:
    """The backbone's own module, said with m LoRAs of rank 1 that are all zero."""
    d, k = backbone.modules[module]
    scale, shift = _norm(backbone, backbone.weights, module)
    return FoldedModule(
        down=_zeros(m, k),
        up=_zeros(d, m),
        shift=_zeros(m, d),
        query=_zeros(1, k),
        query_shift=_zeros(1),
        key=_zeros(1, m),
        key_shift=_zeros(m, 1),
        group=np.eye(m, dtype=np.float32),
        norm_scale=as_float32(f"{module}.norm_scale", scale),
        norm_shift=as_float32(f"{module}.norm_shift", shift),
    )


def _zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)
