"""Laws of a blob's bytes: equal folds are equal bytes, and what does not hold together is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adapters_store.folding import Folded, FoldedModule
from adapters_store.pausing import no_pause
from adapters_store.tensors import TensorLimits, read_tensors, write_tensors
from service.engine import EngineForm
from service.prepared.contents import Accepted, ForeignBlob, decode, encode
from service.prepared.identity import Identity

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
    for own, other in zip(given.folds.values(), found.folds.values(), strict=True):
        assert (own.slope, own.intercept) == (other.slope, other.intercept)
        arrays, others = own.modules["tower.0"].arrays(), other.modules["tower.0"].arrays()
        assert [(a.shape, a.tobytes()) for a in arrays.values()] == [(a.shape, a.tobytes()) for a in others.values()]
    first, second = (fold.modules["tower.0"].down for fold in list(found.folds.values())[:2])
    assert np.shares_memory(first, second)
    assert first.ctypes.data % 4 == 0
    assert encode(IDENTITY, accepted(), no_pause) == content


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
        {"combinations": [[["a"], 1.0, 0.0, {"tower.0": [0, 1]}]]},
        {"overlay": {"item": "item_id"}},
        {"identity": {**IDENTITY.written(), "schema": 2}},
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
