"""Laws of a blob's bytes: equal folds are equal bytes, and what does not hold together is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters_store.folding import Folded, FoldedModule
from adapters_store.pausing import no_pause
from adapters_store.tensors import TensorLimits, read_tensors, write_tensors
from features.index import RawIndex
from features.overlay import IdOverlay, Overlay
from service.engine import EngineForm, Packed
from service.prepared.contents import Accepted, ForeignBlob, decode, encode
from service.prepared.identity import SCHEMA, Identity
from service.prepared.mapping import Mappings

FORM = EngineForm("onnx", "fp32", "x86_64", "1", in_place=True)
IDENTITY = Identity("theme-1", "a" * 64, "b" * 64, "c" * 64, FORM, TensorLimits(), "d" * 64)
SHAPES = ((3, 5), (4, 3), (2, 4), (2, 5), (2,), (2, 3), (2, 2), (2, 3), (4,), (4,))


def module(rng: np.random.Generator) -> FoldedModule:
    """One of no particular meaning."""
    return FoldedModule(*(rng.normal(0, 1, shape).astype(np.float32) for shape in SHAPES))


def accepted() -> Accepted:
    """Two combinations that share a module."""
    rng = np.random.default_rng(0)
    shared = module(rng)
    folds = {("a",): Folded({"tower.0": shared}, 1.5, -0.1), (None,): Folded({"tower.0": shared}), ("b",): Folded({})}
    folds["b",] = Folded({"tower.0": module(rng)}, 1.0, 1e-17)
    return Accepted(("segment",), {"a": "e" * 64}, "f" * 64, 12.5, folds)  # type: ignore[arg-type]


def test_what_is_read_is_what_was_written() -> None:
    """Law: every array, calibration and name comes back bit for bit, shared arrays stored once and in place."""
    given = accepted()
    content = encode(IDENTITY, given, no_pause)
    found = decode(content, IDENTITY)
    assert (found.divisions, found.fuses, found.fusion, found.made_s) == (("segment",), given.fuses, "f" * 64, 12.5)
    assert list(found.folds) == list(given.folds)
    folds = [own for own in given.folds.values() if isinstance(own, Folded)]
    found_folds = [own for own in found.folds.values() if isinstance(own, Folded)]
    for own, other in zip(folds, found_folds, strict=True):
        assert (own.slope, own.intercept) == (other.slope, other.intercept)
        arrays, others = own.modules["tower.0"].arrays(), other.modules["tower.0"].arrays()
        assert [(a.shape, a.tobytes()) for a in arrays.values()] == [(a.shape, a.tobytes()) for a in others.values()]
    first, second = (fold.modules["tower.0"].down for fold in found_folds[:2])
    assert np.shares_memory(first, second)
    assert encode(IDENTITY, accepted(), no_pause) == content


def test_what_an_engine_packed_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Law: sizes, instruction set, calibration and every bit come back, at a cache line of the mapped file, also behind
    ids of an overlay that are as wide."""
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (3, 4)).astype(np.float16)
    overlay = Overlay({"item": IdOverlay("item_id", RawIndex.from_values([3, 5, 9]), rows)})
    memory = [rng.integers(0, 2**32, 16 * n, np.uint32).view(np.float32) for n in (3, 5)]
    packed = {(name,): Packed("avx2", [1, n], memory[n], 1.5, float(n), overlay) for n, name in enumerate(("a", "b"))}
    (tmp_path / "blob").write_bytes(encode(IDENTITY, replace(accepted(), folds=packed), no_pause))
    found = decode(Mappings(1).open(tmp_path / "blob") or b"", IDENTITY)
    assert found.overlay is not None
    assert found.is_keepable
    for own, other in zip(packed.values(), found.folds.values(), strict=True):
        assert isinstance(other, Packed)
        assert (other.isa, other.sizes, other.slope, other.intercept) == (own.isa, own.sizes, own.slope, own.intercept)
        assert other.memory.tobytes() == own.memory.tobytes()
        assert other.memory.ctypes.data % 64 == 0
        assert not other.memory.flags.writeable


@pytest.mark.parametrize(
    "changes",
    [
        {"domain": "theme-2"},
        {"revision": "0" * 64},
        {"bundle": "0" * 64},
        {"fingerprint": "0" * 64},
        {"code": "0" * 64},
        {"limits": TensorLimits(rank=1)},
        {"form": replace(FORM, build="2")},
    ],
)
def test_every_part_of_an_identity_counts(changes: dict[str, Any]) -> None:
    """Law: no two identities share a record, and a blob of one is refused for another."""
    other = replace(IDENTITY, **changes)
    assert other.key != IDENTITY.key
    with pytest.raises(ForeignBlob, match="identity"):
        decode(encode(IDENTITY, accepted(), no_pause), other)


@pytest.mark.parametrize(
    "changes",
    [
        {"arrays": [[0, 3, 5]]},
        {"arrays": [[10**9, 3, 5]] * 20},
        {"combinations": []},
        {"combinations": [[["a"], 1.0, 0.0, {"modules": {"tower.0": [0, 1]}}]]},
        {"combinations": [[["a"], 1.0, 0.0, {"modules": 3}]]},
        {"combinations": [[["a"], 1.0, 0.0, {"packed": {"isa": "avx2", "sizes": [1], "memory": 99}}]]},
        {"overlay": {"item": "item_id"}},
        {"identity": {**IDENTITY.written(), "schema": SCHEMA - 1}},
        {"divisions": 3},
    ],
)
def test_a_blob_of_another_layout_is_foreign(changes: dict[str, Any]) -> None:
    """Law: whatever does not hold together raises the one error that means: prepare it afresh."""
    file = read_tensors(encode(IDENTITY, accepted(), no_pause), TensorLimits())
    assert isinstance(file.metadata, dict)
    with pytest.raises(ForeignBlob):
        decode(write_tensors(file.tensors, {**file.metadata, **changes}), IDENTITY)
    assert decode(write_tensors(file.tensors, file.metadata), IDENTITY).folds
