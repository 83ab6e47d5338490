"""Whether an artifact may serve: it fits the backbone, its pins are right, and an engine reproduces its golden rows.

Decoding has checked the form. What is checked here is checked before any work in proportion to it: names and shapes
before folding, folding before scoring.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from adapters_store.artifact import DEFAULT_LIMITS, Adapter, Fusion
from adapters_store.backbone import Backbone, fingerprint, golden_rows
from adapters_store.dense import DENSE_GRAPH
from adapters_store.errors import (
    BadValue,
    DoesNotFit,
    GoldenMismatch,
    LimitExceeded,
    MalformedArtifact,
    MissingPin,
    WrongDomain,
    WrongFingerprint,
    WrongPin,
)
from adapters_store.folding import Combination, Folded, combinations, count_combinations, fold_adapter, fold_backbone
from adapters_store.overlays import check_overlay, read_overlay
from adapters_store.pausing import Pause, no_pause
from adapters_store.structure import DELTA, GOLDEN, OVERLAY, check_values, golden_inputs, overlaid_sides
from adapters_store.tensors import Array, TensorLimits
from features.rows import EncodedRows

LogitsOf = Callable[[EncodedRows, Folded], Array]
"""An engine, as verification sees it: rows and a fold to float (n,) logits before calibration."""

TOLERANCE = 1e-4
_REQUIRED_FILES = (
    "weights.safetensors",
    "vocabulary.safetensors",
    "users.safetensors",
    "items.safetensors",
    "golden.safetensors",
    "scoring.onnx",
)


def verify_adapter(
    adapter: Adapter,
    backbone: Backbone,
    auxiliaries: Mapping[str, Adapter],
    fusion: Fusion | None,
    logits_of: LogitsOf,
    domain: str | None = None,
    limits: TensorLimits = DEFAULT_LIMITS,
    pause: Pause = no_pause,
) -> dict[Combination, Folded]:
    """Accept an adapter for serving, and fold it while at it.

    Args:
        adapter: What to verify; decoded, so its form is known to be right.
        backbone: Whose adapter it claims to be.
        auxiliaries: Pinned adapters by domain, decoded; more than it pins is no fault.
        fusion: The pinned fusion, decoded, if it pins one.
        logits_of: The engine.
        domain: The domain that it is meant for, if the caller knows.
        limits: Its `combinations` bounds how many folds there may be.
        pause: Called between two steps.

    Returns:
        Every combination that can occur, folded.

    Raises:
        WrongDomain: It is of another domain or an unknown division.
        WrongFingerprint: It, or a pin, was made for another backbone.
        DoesNotFit: A module, tensor or shape is none of the backbone's, or its bundle has no graph for a delta.
        MissingPin: A pinned adapter or fusion is absent.
        WrongPin: A pinned adapter is not of a kind that can be fused here, or the fusion is not of its divisions.
        LimitExceeded: It has too many combinations.
        BadValue: A folded value or a golden logit is not finite.
        MalformedArtifact: The golden rows are not rows of this backbone.
        GoldenMismatch: The engine does not reproduce the golden rows.
    """
    _check_fits(adapter, backbone)
    _check_domain(adapter, backbone, domain)
    pinned = _pinned(adapter, backbone, auxiliaries)
    _check_fusion_pin(adapter, backbone, fusion)
    count = count_combinations(adapter, pinned)
    if count > limits.combinations:
        raise LimitExceeded(f"{count} combinations of auxiliary domains, more than the limit of {limits.combinations}")
    overlay = read_overlay(backbone, adapter)
    folds = {}
    for combination in combinations(adapter, pinned):
        folds[combination] = fold_adapter(backbone, adapter, pinned, fusion, combination, pause, overlay)
        pause()
    _check_golden(adapter, backbone, folds, logits_of, pause)
    return folds


def verify_fusion(fusion: Fusion, backbone: Backbone) -> None:
    """Accept a fusion: it is of this backbone and fits it.

    Raises:
        WrongFingerprint: It was made for another backbone.
        DoesNotFit: A module or shape is none of the backbone's.
    """
    _check_fingerprint(f"fusion {fusion.revision}", fusion.manifest.fingerprint, backbone)
    for module in fusion.manifest.ranks:
        d, _ = _shape(backbone, module)
        _check_width(f"fusion.{module}.query", fusion.tensors[f"fusion.{module}.query"].shape[1], d)


def verify_backbone(backbone: Backbone, logits_of: LogitsOf) -> Folded:
    """Accept a backbone: complete, finite, as its fingerprint says, and the engine reproduces its golden rows.

    Args:
        backbone: What to verify; reading it has checked digests, names and shapes.
        logits_of: The engine.

    Returns:
        The backbone itself, folded.

    Raises:
        MalformedArtifact: A file is missing, or the golden rows are not rows of this backbone.
        WrongFingerprint: Field spec, vocabulary and weights are not what the fingerprint says.
        BadValue: A weight or a golden logit is not finite.
        GoldenMismatch: The engine does not reproduce the golden rows.
    """
    for name in _REQUIRED_FILES:
        if name not in backbone.files:
            raise MalformedArtifact(f"the bundle has no file {name!r}")
    found = fingerprint(backbone.manifest, backbone.tensors("vocabulary"), backbone.weights)
    if found != backbone.fingerprint:
        raise WrongFingerprint(f"bundle {backbone.revision} says fingerprint {backbone.fingerprint}, its files {found}")
    check_values(backbone.weights)
    folded = fold_backbone(backbone)
    rows, expected = backbone.golden()
    _compare(logits_of(rows, folded), expected, np.arange(rows.n))
    return folded


def _check_domain(adapter: Adapter, backbone: Backbone, domain: str | None) -> None:
    manifest = adapter.manifest
    if domain is not None and manifest.domain != domain:
        raise WrongDomain(f"the adapter is of domain {manifest.domain!r}, not {domain!r}")
    for division in (manifest.division, *manifest.auxiliary):
        if backbone.manifest.division(division) is None:
            known = ", ".join(repr(one.name) for one in backbone.manifest.divisions)
            raise WrongDomain(f"division {division!r} is none of the backbone's; it has {known}")
    own = backbone.manifest.division(manifest.division)
    if manifest.kind == "delta" and own is not None and not own.natural:
        raise WrongDomain(f"kind 'delta' is for domains of a natural division; {manifest.division!r} is auxiliary")
    for one in backbone.manifest.divisions:
        if manifest.domain in one.domains and one.name != manifest.division:
            raise WrongDomain(f"domain {manifest.domain!r} is of division {one.name!r}, not {manifest.division!r}")


def _check_fits(adapter: Adapter, backbone: Backbone) -> None:
    """Hold every module and shape to the backbone's."""
    _check_fingerprint(f"the adapter of domain {adapter.manifest.domain!r}", adapter.manifest.fingerprint, backbone)
    for module in adapter.manifest.ranks:
        d, k = _shape(backbone, module)
        _check_width(f"{module}.down", adapter.tensors[f"{module}.down"].shape[1], k)
        _check_width(f"{module}.up", adapter.tensors[f"{module}.up"].shape[0], d)
        _check_norm(f"{module}.norm.mean", adapter, backbone)
    if adapter.manifest.kind == "delta":
        _check_deltas(adapter, backbone)
    check_overlay(backbone, adapter)


def _check_norm(name: str, adapter: Adapter, backbone: Backbone) -> None:
    """Hold an adapter to have a norm of its own where the backbone has one, and there alone."""
    if name in backbone.weights and name not in adapter.tensors:
        raise DoesNotFit(f"tensor {name!r} is missing: the backbone has a norm there")
    if name in adapter.tensors and name not in backbone.weights:
        raise DoesNotFit(f"tensor {name!r} has no place: the backbone has no norm there")


def _check_deltas(adapter: Adapter, backbone: Backbone) -> None:
    """Hold every delta to the weight that it is added to."""
    if DENSE_GRAPH not in backbone.files:
        raise DoesNotFit(
            f"the backbone's bundle {backbone.revision} has no {DENSE_GRAPH}, by which kind 'delta' is scored: "
            "export and publish the bundle again"
        )
    frozen = {f"{DELTA}embedding.{field.name}" for field in backbone.manifest.fields if field.frozen}
    for name, tensor in adapter.tensors.items():
        if not name.startswith(DELTA):
            continue
        if name in frozen:
            raise DoesNotFit(f"tensor {name!r} is the delta of given vectors, which no domain changes")
        own = backbone.weights.get(name.removeprefix(DELTA))
        if own is None:
            raise DoesNotFit(f"tensor {name!r} is the delta of no weight of the backbone")
        if own.shape != tensor.shape:
            raise DoesNotFit(f"tensor {name!r} has shape {tensor.shape}; the backbone's weight has {own.shape}")


def _pinned(adapter: Adapter, backbone: Backbone, auxiliaries: Mapping[str, Adapter]) -> dict[str, Adapter]:
    """The adapters that this one pins, each held to what a pin must be."""
    found: dict[str, Adapter] = {}
    for domain, revision in adapter.manifest.fuses.items():
        pin = auxiliaries.get(domain)
        if pin is None or pin.revision != revision:
            raise MissingPin(f"the pinned adapter of domain {domain!r}, revision {revision}, is absent")
        _check_pin(adapter, pin, domain)
        _check_fits(pin, backbone)
        _check_domain(pin, backbone, domain)
        found[domain] = pin
    return found


def _check_pin(adapter: Adapter, pin: Adapter, domain: str) -> None:
    manifest = pin.manifest
    if manifest.kind != "lora":
        raise WrongPin(f"the pinned adapter of domain {domain!r} is of kind {manifest.kind!r}; only 'lora' is pinned")
    if manifest.domain != domain:
        raise WrongPin(f"the adapter pinned for domain {domain!r} is of domain {manifest.domain!r}")
    if manifest.division not in adapter.manifest.auxiliary:
        raise WrongPin(
            f"the pinned adapter of domain {domain!r} is of division {manifest.division!r}; "
            f"auxiliary divisions are {adapter.manifest.auxiliary}"
        )
    different = set(adapter.manifest.ranks) ^ set(manifest.ranks)
    if different:
        raise WrongPin(f"the pinned adapter of domain {domain!r} differs in module {min(different)!r}")
    places = [pair.domains.index(domain) for pair in adapter.manifest.pairs if domain in pair.domains]
    if any(adapter.manifest.auxiliary[place] != manifest.division for place in places):
        raise WrongPin(f"pairs names domain {domain!r} at the place of another division than {manifest.division!r}")


def _check_fusion_pin(adapter: Adapter, backbone: Backbone, fusion: Fusion | None) -> None:
    manifest, revision = adapter.manifest, adapter.manifest.fusion
    if revision is None:
        return
    own = backbone.manifest.division(manifest.division)
    if manifest.kind == "lora" and own is not None and own.natural:
        raise WrongPin(f"kind 'lora' of the natural division {manifest.division!r} fuses nothing: it pins no fusion")
    if fusion is None or fusion.revision != revision:
        raise MissingPin(f"the pinned fusion {revision} is absent")
    verify_fusion(fusion, backbone)
    for module in manifest.ranks:
        if module not in fusion.manifest.ranks:
            raise WrongPin(f"the pinned fusion {revision} has no module {module!r}, which the adapter adapts")
    unknown = sorted(set(manifest.auxiliary or [manifest.division]) - set(fusion.manifest.divisions))
    if fusion.manifest.divisions and unknown:
        raise WrongPin(f"the pinned fusion {revision} was not trained on division {unknown[0]!r}")


def _check_golden(
    adapter: Adapter, backbone: Backbone, folds: Mapping[Combination, Folded], logits_of: LogitsOf, pause: Pause
) -> None:
    rows, expected = golden_rows(
        backbone.manifest, golden_inputs(adapter.tensors), adapter.tensors.get("golden.logits")
    )
    sides = overlaid_sides(adapter.tensors)
    if sides:
        found = {side: adapter.tensors[f"{GOLDEN}{OVERLAY}{side}"].astype(np.int64) for side in sides}
        rows = replace(rows, overlaid=found)
    by_combination: dict[Combination, list[int]] = {}
    for row, combination in enumerate(_golden_combinations(adapter, rows.n)):
        if combination not in folds:
            raise MalformedArtifact(f"golden row {row} names the combination {combination}, which pins do not cover")
        by_combination.setdefault(combination, []).append(row)
    for combination, positions in by_combination.items():
        pause()
        taken = np.array(positions, np.int64)
        _compare(logits_of(rows.take(taken), folds[combination]), expected[taken], taken)


def _golden_combinations(adapter: Adapter, rows: int) -> list[Combination]:
    columns: list[list[str | None]] = []
    for division in adapter.manifest.auxiliary:
        domains: list[str | None] = [*adapter.manifest.golden_divisions[division], None]  # -1 is the last: none
        columns.append([domains[position] for position in adapter.tensors[f"golden.division.{division}"]])
    return list(zip(*columns, strict=True)) if columns else [()] * rows


def _compare(logits: Array, expected: Array, rows: Array) -> None:
    """Hold an engine's logits to golden ones; `rows` are their places in the file."""
    if not np.isfinite(expected).all() or not np.isfinite(logits).all():
        row = rows[int(np.argmin(np.isfinite(expected) & np.isfinite(logits)))]
        raise BadValue(f"golden row {row}: a logit is not finite")
    difference = np.abs(_probability(np.asarray(logits, np.float64)) - _probability(expected))
    worst = int(np.argmax(difference))
    if difference[worst] > TOLERANCE:
        raise GoldenMismatch(
            f"golden row {rows[worst]}: the engine's logit is {float(logits[worst]):.6g}, the artifact says "
            f"{float(expected[worst]):.6g}; probabilities differ by {difference[worst]:.2g}, more than {TOLERANCE:g}"
        )


def _probability(logits: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * logits))  # the sigmoid, without overflow


def _check_fingerprint(what: str, claimed: str, backbone: Backbone) -> None:
    if claimed != backbone.fingerprint:
        raise WrongFingerprint(
            f"{what} was made for backbone fingerprint {claimed}; this backbone has {backbone.fingerprint}"
        )


def _shape(backbone: Backbone, module: str) -> tuple[int, int]:
    if module not in backbone.modules:
        raise DoesNotFit(f"module {module!r} is none of the backbone's; it has {', '.join(backbone.modules)}")
    return backbone.modules[module]


def _check_width(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise DoesNotFit(f"tensor {name!r} has width {found}; the backbone's module has {wanted}")
