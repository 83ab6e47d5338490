"""The form of adapter and fusion tensors, as far as it can be told without a backbone.

Names, dtypes, shapes that fit each other and the manifest, finite values, variances >= 0. Whether they fit a backbone
is `verification`'s question.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from adapters_store.errors import BadValue, LimitExceeded, MalformedArtifact
from adapters_store.manifest import AdapterManifest, FusionManifest
from adapters_store.tensors import Array, TensorFile, TensorLimits
from features.overlay import FEWEST_BITS, MOST_BITS, OVERLAID_SIDES, OverlaidSide

LORA_PARTS = ("down", "up", "scale", "shift")
NORM_PARTS = ("norm.weight", "norm.bias", "norm.mean", "norm.var")
GOLDEN = "golden."
DELTA = "delta."
OVERLAY = "overlay."
_LOW_RANK_TYPES = frozenset({"F32", "F16", "BF16"})
_ONLY_F32 = frozenset({"F32"})
_INTEGERS = frozenset({"I8", "I16", "I32", "I64"})
CODED_PARTS = ("codes", "start", "step")
"""Of an overlay's rows, where they are not `rows` (`features.overlay.CodedRows`)."""
_GOLDEN_ROWS = 4096
_GOLDEN_VALUES = 65_536  # of one golden input
_SMALL = 16_384  # values of a tensor


def check_adapter(manifest: AdapterManifest, file: TensorFile, limits: TensorLimits) -> None:
    """Hold an adapter's tensors to its manifest.

    Raises:
        LimitExceeded: A rank, the number of golden rows, or the bytes of decoded rows are over a limit.
        MalformedArtifact: A tensor is missing, unknown, or of a wrong dtype or shape; named.
        BadValue: A value is not finite or a variance is negative; tensor and place named.
    """
    _check_ranks(manifest.ranks, limits)
    expected = _check_overlay(file, limits)
    if manifest.kind == "delta":
        expected |= _check_delta(file)
    for module, rank in manifest.ranks.items():
        expected |= _check_lora(file, module, rank)
        width = file.tensors[f"{module}.up"].shape[0]
        own_norm = any(f"{module}.{part}" in file.tensors for part in NORM_PARTS)
        prefixes = [module, *(f"pair.{i}.{module}" for i in range(len(manifest.pairs)))] if own_norm else []
        for prefix in prefixes:
            expected |= _check_norm(file, prefix, width)
    expected |= _check_golden(manifest, file)
    _check_nothing_else(file.tensors, expected)
    check_values(file.tensors)


def check_fusion(manifest: FusionManifest, file: TensorFile, limits: TensorLimits) -> None:
    """Hold a fusion's tensors to its manifest.

    Raises:
        LimitExceeded: A rank is over its limit.
        MalformedArtifact: A tensor is missing, unknown, or of a wrong dtype or shape; named.
        BadValue: A value is not finite; tensor and place named.
    """
    _check_ranks(manifest.ranks, limits)
    expected: set[str] = set()
    for module, rank in manifest.ranks.items():
        query, key = f"fusion.{module}.query", f"fusion.{module}.key"
        width = _tensor(file, query, _LOW_RANK_TYPES, 2).shape[1]
        for name in (query, key):
            _check_shape(name, _tensor(file, name, _LOW_RANK_TYPES, 2), (rank, width))
        expected |= {query, key}
    _check_nothing_else(file.tensors, expected)
    check_values(file.tensors)


def check_values(tensors: Mapping[str, Array]) -> None:
    """Hold every float finite and every norm variance >= 0.

    Raises:
        BadValue: One is not; tensor and place named.
    """
    floats = {name: tensor for name, tensor in tensors.items() if tensor.dtype.kind == "f" and tensor.size}
    small: dict[np.dtype[Any], list[Array]] = {}  # looked at together, by type: one look costs more than their bytes
    for name, tensor in floats.items():
        if tensor.size <= _SMALL:
            small.setdefault(tensor.dtype, []).append(tensor.reshape(-1))
        else:
            _check_finite(name, tensor)
    for group in small.values():
        if not _is_finite(np.concatenate(group)):
            for name, tensor in floats.items():
                _check_finite(name, tensor)
    for name, tensor in floats.items():
        # what a delta adds to a variance may be negative
        if name.endswith(".norm.var") and not name.startswith(DELTA) and tensor.min() < 0:
            raise BadValue(f"tensor {name!r}: the variance at {place_of(tensor < 0)} is negative")


_SIGNLESS, _NO_NUMBER = np.uint16(0x7FFF), 0x7C00  # bits of a float16; from the second on it is infinite or none


def _is_finite(tensor: Array) -> bool:
    if tensor.dtype == np.float16:  # whose numbers are compared one by one, but whose bits are many at a time
        return int((tensor.view(np.uint16) & _SIGNLESS).max()) < _NO_NUMBER
    with np.errstate(invalid="ignore"):
        least, greatest = tensor.min(), tensor.max()  # a NaN comes through both, and no mask is allocated
    return bool(np.isfinite(least) and np.isfinite(greatest))


def _check_finite(name: str, tensor: Array) -> None:
    if not _is_finite(tensor):
        raise BadValue(f"tensor {name!r}: the value at {place_of(~np.isfinite(tensor))} is not finite")


def golden_inputs(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The `golden.inputs.*` tensors, without the word golden."""
    prefix = GOLDEN + "inputs."
    return {name.removeprefix(GOLDEN): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def overlaid_sides(tensors: Mapping[str, Array]) -> list[OverlaidSide]:
    """The sides that an adapter's tensors carry an id overlay of."""
    return [side for side in OVERLAID_SIDES if any(name.startswith(f"{OVERLAY}{side}.") for name in tensors)]


def _check_delta(file: TensorFile) -> set[str]:
    """Hold the deltas to their types; only a backbone can tell their names and shapes."""
    names = {name for name in file.tensors if name.startswith(DELTA)}
    if not names and not overlaid_sides(file.tensors):
        raise MalformedArtifact("there are no delta tensors and no id overlay: the adapter changes nothing")
    for name in sorted(names):
        _check_type(name, file, _ONLY_F32 if ".norm." in name else _LOW_RANK_TYPES)
    return names


def _check_overlay(file: TensorFile, limits: TensorLimits) -> set[str]:
    """Hold an id overlay's tensors to each other, and golden rows to name its rows."""
    expected: set[str] = set()
    for side in overlaid_sides(file.tensors):
        ids, offsets = (f"{OVERLAY}{side}.{part}" for part in ("ids", "offsets"))
        golden = f"{GOLDEN}{OVERLAY}{side}"
        rows, n, names = _check_rows(file, f"{OVERLAY}{side}.", limits)
        if offsets in file.tensors:
            _tensor(file, ids, frozenset({"U8"}), 1)
            _check_shape(offsets, _tensor(file, offsets, frozenset({"I64"}), 1), (n + 1,))
            expected.add(offsets)
        else:
            _check_shape(ids, _tensor(file, ids, _INTEGERS, 1), (n,))
        positions = _tensor(file, golden, frozenset({"I32"}), 1)
        if not len(positions) or positions.min() < -1 or positions.max() >= n:
            raise MalformedArtifact(f"tensor {golden!r} names a row outside the {n} of {rows!r}")
        if positions.max() < 0:
            raise MalformedArtifact(f"tensor {golden!r} names no row of {rows!r}: some golden row must be scored by it")
        expected |= {ids, golden, *names}
        weights = f"{OVERLAY}{side}.first_order"
        if weights in file.tensors:
            _check_shape(weights, _tensor(file, weights, _LOW_RANK_TYPES, 1), (n,))
            expected.add(weights)
    return expected


def _check_rows(file: TensorFile, prefix: str, limits: TensorLimits) -> tuple[str, int, set[str]]:
    """Hold an overlay's embeddings to their form: the tensor that has a row for each id, how many, and all names."""
    if prefix + "codes" not in file.tensors:
        rows = prefix + "rows"
        return rows, _tensor(file, rows, _LOW_RANK_TYPES, 2).shape[0], {rows}
    codes, start, step = (prefix + part for part in CODED_PARTS)
    n, bits, packed = _tensor(file, codes, frozenset({"U8"}), 3).shape
    width = len(_tensor(file, start, _ONLY_F32, 1))
    if not FEWEST_BITS <= bits <= MOST_BITS or packed != -(-width // 8):
        raise MalformedArtifact(
            f"tensor {codes!r} has shape {(n, bits, packed)}; with {start!r} of {width} it must have "
            f"{FEWEST_BITS} to {MOST_BITS} bits of {-(-width // 8)} byte(s) a row"
        )
    _check_shape(step, _tensor(file, step, _ONLY_F32, 1), (width,))
    if 2 * n * width > limits.bytes:
        raise LimitExceeded(f"tensor {codes!r} decodes to {2 * n * width} bytes, more than the limit of {limits.bytes}")
    return codes, n, {codes, start, step}


def _check_ranks(ranks: Mapping[str, int], limits: TensorLimits) -> None:
    for module, rank in ranks.items():
        if rank > limits.rank:
            raise LimitExceeded(f"module {module!r} has rank {rank}, more than the limit of {limits.rank}")


def _check_lora(file: TensorFile, module: str, rank: int) -> set[str]:
    down = _tensor(file, f"{module}.down", _LOW_RANK_TYPES, 2)
    up = _tensor(file, f"{module}.up", _LOW_RANK_TYPES, 2)
    width = up.shape[0]
    _check_shape(f"{module}.down", down, (rank, down.shape[1]))
    _check_shape(f"{module}.up", up, (width, rank))
    for part in ("scale", "shift"):
        _check_shape(f"{module}.{part}", _tensor(file, f"{module}.{part}", _ONLY_F32, 1), (width,))
    return {f"{module}.{part}" for part in LORA_PARTS}


def _check_norm(file: TensorFile, prefix: str, width: int) -> set[str]:
    names = {f"{prefix}.{part}" for part in NORM_PARTS}
    for name in sorted(names):
        _check_shape(name, _tensor(file, name, _ONLY_F32, 1), (width,))
    return names


def _check_golden(manifest: AdapterManifest, file: TensorFile) -> set[str]:
    logits = _tensor(file, "golden.logits", frozenset({"F64"}), 1)
    rows = logits.shape[0]
    if not 1 <= rows <= _GOLDEN_ROWS:
        raise LimitExceeded(f"{rows} golden rows; there must be 1 to {_GOLDEN_ROWS}")
    names = {"golden.logits"}
    for division in manifest.auxiliary:
        name = f"golden.division.{division}"
        positions = _tensor(file, name, frozenset({"I32"}), 1)
        _check_shape(name, positions, (rows,))
        domains = len(manifest.golden_divisions[division])
        if positions.min() < -1 or positions.max() >= domains:
            raise MalformedArtifact(f"tensor {name!r} names a position outside its {domains} golden_divisions")
        names.add(name)
    for side in overlaid_sides(file.tensors):
        _check_shape(f"{GOLDEN}{OVERLAY}{side}", file.tensors[f"{GOLDEN}{OVERLAY}{side}"], (rows,))
    inputs = {name for name in file.tensors if name.startswith(GOLDEN + "inputs.")}
    if not inputs:
        raise MalformedArtifact("there are no golden.inputs tensors")
    for name in sorted(inputs):
        # lists of a multi-hot field are scored by their embeddings: a small file could ask for much memory
        if file.tensors[name].size > _GOLDEN_VALUES:
            raise LimitExceeded(f"tensor {name!r} has {file.tensors[name].size} values, more than {_GOLDEN_VALUES}")
    return names | inputs


def _tensor(file: TensorFile, name: str, dtypes: frozenset[str], dimensions: int) -> Array:
    if name not in file.tensors:
        raise MalformedArtifact(f"tensor {name!r} is missing")
    _check_type(name, file, dtypes)
    tensor = file.tensors[name]
    if tensor.ndim != dimensions:
        raise MalformedArtifact(f"tensor {name!r} has shape {tensor.shape}; it must have {dimensions} dimension(s)")
    return tensor


def _check_type(name: str, file: TensorFile, dtypes: frozenset[str]) -> None:
    if file.dtypes[name] not in dtypes:
        raise MalformedArtifact(
            f"tensor {name!r} has dtype {file.dtypes[name]}; it must be {' or '.join(sorted(dtypes))}"
        )


def _check_shape(name: str, tensor: Array, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise MalformedArtifact(
            f"tensor {name!r} has shape {tensor.shape}; with the rest of the file it must be {shape}"
        )


def _check_nothing_else(names: Iterable[str], expected: set[str]) -> None:
    unknown = sorted(set(names) - expected)
    if not unknown:
        return
    if unknown[0].startswith(DELTA):
        raise MalformedArtifact(f"tensor {unknown[0]!r}: only kind 'delta' has deltas")
    raise MalformedArtifact(f"tensor {unknown[0]!r} has no place in this artifact's manifest")


def place_of(mask: Array) -> str:
    """The first place of a mask, as a message names it."""
    position = np.unravel_index(int(np.argmax(mask)), mask.shape)
    return "[" + ", ".join(str(int(index)) for index in position) + "]"
