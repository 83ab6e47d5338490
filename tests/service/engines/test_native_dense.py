"""Dense adapters in the native engine: whole networks beside low-rank ones in one call, with the bits as promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import Backbone, read_bundle
from adapters_store.dense import FoldedDelta
from adapters_store.folding import Folded, fold_adapter, fold_backbone
from benchmarks.forge import Run
from benchmarks.oracle import AdapterFile
from features.rows import EncodedRows
from service.engine import Segment
from service.engines.native import NativeEngine, NativePrepared
from service.errors import EngineFailed
from tests.deltas import make_delta, make_overlaid_lora, random_deltas, random_overlay
from tests.factory import THEMES
from tests.service.dense_folds import dense_fold, folded_of, weights_of
from tests.service.engine_contract import probability
from tests.service.test_deltas import World, draw

kernels = pytest.importorskip("espalier_kernels", reason="the extension espalier-kernels is not installed")
takes_dense = pytest.mark.skipif(
    not hasattr(kernels.Network, "prepare_dense"), reason="an extension of before scores no deltas"
)
pytestmark = takes_dense
HERE = kernels.instruction_sets()
HALF = ("avx512_bf16", "amx_bf16")
EVERY = [
    pytest.param(isa, id=isa, marks=pytest.mark.skipif(isa not in HERE, reason=f"this processor has no {isa}"))
    for isa in ("avx512", "avx2", *HALF)
]
TABLES = ("user_id", "item_id", "tags", "theme")
FORMS = ("delta", "delta fp16 with tables", "delta with tables and overlay", "lora with overlay", "fused")
FP32, BF16 = 2e-6, 2e-2  # of a probability, against the float64 oracle


def engine_of(backbone: Backbone, isa: str, **options: Any) -> NativeEngine:
    """Without another engine beside it."""
    return NativeEngine(backbone, isa=isa, precision="bf16" if isa in HALF else "fp32", **options)


@pytest.fixture(scope="module")
def backbone(dense_run: Run) -> Backbone:
    """A bundle that is made for deltas."""
    return read_bundle(dense_run.folder / "bundle")


@pytest.fixture(scope="module")
def bodies(dense_run: Run) -> dict[str, bytes]:
    """Artifacts of all kinds; bfloat16 bears them, too."""
    rng, oracle = np.random.default_rng(20), dense_run.oracle
    said = {"calibration": {"slope": 0.9, "intercept": 0.3}}

    def delta(dtype: type[np.floating], tables: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        return random_deltas(oracle, rng, dtype, 0.1, tables)

    return {
        "delta": make_delta(dense_run, rng, THEMES[1], delta(np.float32), **said),
        "delta fp16 with tables": make_delta(dense_run, rng, THEMES[1], delta(np.float16, TABLES), **said),
        "delta with tables and overlay": make_delta(
            dense_run, rng, THEMES[3], delta(np.float32, TABLES) | random_overlay(oracle, rng)
        ),
        "lora with overlay": make_overlaid_lora(dense_run, rng, THEMES[2], random_overlay(oracle, rng)),
        "fused": (dense_run.folder / "adapters" / f"{THEMES[0]}.safetensors").read_bytes(),
    }


class Mixed(World):
    """Requests of all kinds of adapters, and of the backbone itself."""

    def __init__(self, run: Run, engine: NativeEngine, backbone: Backbone, bodies: dict[str, bytes]) -> None:
        super().__init__(run, backbone, engine)
        self.bodies = bodies
        self.slots = {form: self.slot(bodies[form]) for form in FORMS}
        self.plain = engine.prepare(fold_backbone(backbone))

    def requests(self, rng: np.random.Generator, rounds: int) -> tuple[list[Segment], list[NDArray[np.float64] | None]]:
        """Segments, and of each what the oracle says; None of the backbone's."""
        segments: list[Segment] = []
        expected: list[NDArray[np.float64] | None] = []
        for form in rng.permutation([*FORMS] * rounds):
            body = self.bodies[str(form)]
            domain, (user, items) = AdapterFile(body).manifest["domain"], draw(rng, self.run)
            segments += self.asked(self.slots[str(form)], domain, user, items)
            wanted = self.expected(body, domain, user, items)
            expected += [wanted[place] for place in self.places]
            rows = self.serving.tables.current.encode(user, items, domain, {"hour": 5}).rows
            segments.append(Segment(rows, self.plain, self.engine))
            expected.append(None)
        return segments, expected


def bits(logits: Sequence[NDArray[np.float64]]) -> list[bytes]:
    """What must not change."""
    return [part.tobytes() for part in logits]


@pytest.mark.parametrize("isa", EVERY)
def test_a_mixed_batch_of_all_kinds_equals_the_oracle(
    dense_run: Run, backbone: Backbone, bodies: dict[str, bytes], isa: str
) -> None:
    """Law: low-rank and dense adapters, with tables and overlays, and the backbone keep their scores in one call."""
    world = Mixed(dense_run, engine_of(backbone, isa), backbone, bodies)
    assert all(isinstance(own, NativePrepared) for slot in world.slots.values() for own in slot.combinations.values())
    segments, expected = world.requests(np.random.default_rng(21), 6)
    for scored, wanted in zip(world.engine.run(segments), expected, strict=True):
        if wanted is not None:
            tolerance = BF16 if isa in HALF else FP32
            np.testing.assert_allclose(probability(scored), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("isa", EVERY)
def test_a_row_has_the_same_bits_in_every_company(
    dense_run: Run, backbone: Backbone, bodies: dict[str, bytes], isa: str
) -> None:
    """Law: what stands beside a segment, its tile, threads and what a request computes once change no bit."""
    world = Mixed(dense_run, engine_of(backbone, isa), backbone, bodies)
    segments, _ = world.requests(np.random.default_rng(22), 2)
    alone = [world.engine.run([segment])[0].tobytes() for segment in segments]
    rng = np.random.default_rng(23)
    for _ in range(60):
        chosen = rng.integers(0, len(segments), int(rng.integers(1, 30)))
        assert bits(world.engine.run([segments[i] for i in chosen])) == [alone[i] for i in chosen]
    for form in ({"tile_rows": 5}, {"tile_rows": 33, "threads": 3}, {"share": False}):
        other = Mixed(dense_run, engine_of(backbone, isa, **form), backbone, bodies)
        again, _ = other.requests(np.random.default_rng(22), 2)
        assert bits(other.engine.run(again)) == alone


@pytest.mark.skipif(not {"avx2", "avx512"} <= {*HERE}, reason="this processor has no two float32 instruction sets")
def test_float32_has_the_same_bits_on_every_instruction_set(
    dense_run: Run, backbone: Backbone, bodies: dict[str, bytes]
) -> None:
    """Law: dense adapters, too, have the bits of AVX2 on AVX-512."""
    found = []
    for isa in ("avx2", "avx512"):
        world = Mixed(dense_run, engine_of(backbone, isa), backbone, bodies)
        segments, _ = world.requests(np.random.default_rng(24), 2)
        found.append(bits(world.engine.run(segments)))
    assert found[0] == found[1]


@pytest.fixture
def rows(backbone: Backbone) -> EncodedRows:
    """The bundle's golden rows."""
    return backbone.golden()[0]


@pytest.mark.parametrize("isa", EVERY)
def test_a_network_that_changes_nothing_is_the_backbone(backbone: Backbone, rows: EncodedRows, isa: str) -> None:
    """Law: the backbone's own weights, said as a dense adapter, give its bits and keep no copy of a layer."""
    engine = engine_of(backbone, isa)
    plain, same = engine.prepare(fold_backbone(backbone)), engine.prepare(folded_of(weights_of(backbone)))
    assert same.nbytes == plain.nbytes
    one, other = engine.run([Segment(rows, plain, engine), Segment(rows, same, engine)])
    assert one.tobytes() == other.tobytes()


def test_a_layer_that_is_left_alone_stays_shared(backbone: Backbone, rows: EncodedRows) -> None:
    """Law: memory is that of the layers that differ, and each of them counts."""
    engine = NativeEngine(backbone)
    plain = engine.prepare(fold_backbone(backbone))
    for name, own_bytes in {
        "tower.0.bias": 0,
        "tower.0.norm_shift": 0,
        "tower.0.weight": backbone.weights["tower.0.weight"].nbytes,
        "tower.1.weight": backbone.weights["tower.1.weight"].nbytes,
        "output.bias": backbone.weights["output.weight"].nbytes,
    }.items():
        weights = weights_of(backbone)
        weights[name] = weights[name] + np.float32(0.25)
        own = engine.prepare(folded_of(weights))
        more = own.nbytes - plain.nbytes
        assert own_bytes <= more <= 2 * own_bytes + 64 * bool(own_bytes), name
        one, other = engine.run([Segment(rows, plain, engine), Segment(rows, own, engine)])
        assert (one != other).any(), name
        if name == "output.bias":
            np.testing.assert_allclose(other, one + 0.25, rtol=0, atol=1e-5)


def test_merged_weights_are_the_adapter_that_was_merged(dense_run: Run, backbone: Backbone, rows: EncodedRows) -> None:
    """Law: W0 + up down, b0 + shift as a dense adapter score as the low-rank adapter itself."""
    engine = NativeEngine(backbone)
    content = make_overlaid_lora(dense_run, np.random.default_rng(25), THEMES[1], {})
    low_rank = fold_adapter(backbone, decode_adapter(content), {}, None, ())
    weights = weights_of(backbone)
    for name, module in low_rank.modules.items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.up @ module.down
        weights[f"{name}.bias"] = weights[f"{name}.bias"] + module.shift[0]
        weights |= {f"{name}.norm_scale": module.norm_scale, f"{name}.norm_shift": module.norm_shift}
    merged = folded_of(weights, low_rank.slope, low_rank.intercept)
    one, other = engine.run([Segment(rows, engine.prepare(fold), engine) for fold in (low_rank, merged)])
    np.testing.assert_allclose(probability(other), probability(one), rtol=0, atol=FP32)
    assert np.abs(probability(one) - probability(engine.logits(rows, fold_backbone(backbone)))).max() > 1e-3


def test_a_dense_adapter_that_overflows_moves_no_other(backbone: Backbone, rows: EncodedRows) -> None:
    """Law: a non-finite logit is returned as such, and stays in its own segment."""
    engine = NativeEngine(backbone)
    good = dense_fold(backbone, np.random.default_rng(26))
    assert good.delta is not None
    broken = {**good.delta.weights, "tower.1.norm_shift": np.full(16, np.inf, np.float32)}
    prepared = [engine.prepare(fold) for fold in (good, folded_of(broken), good)]
    first, bad, last = engine.run([Segment(rows, own, engine) for own in prepared])
    assert not np.isfinite(bad).any()
    assert np.isfinite(first).all()
    assert first.tobytes() == last.tobytes()


def test_what_does_not_fit_the_backbone_is_refused(backbone: Backbone) -> None:
    """Law: weights, outputs and tables of another shape, and unknown tables, are engine errors that say so."""
    engine = NativeEngine(backbone)
    fold = dense_fold(backbone, np.random.default_rng(27))
    assert fold.delta is not None
    weights, table = fold.delta.weights, backbone.weights["embedding.item_id"]

    def changed(name: str, array: NDArray[Any]) -> Folded:
        return folded_of({**weights, name: array})

    def adding(name: str, array: NDArray[Any]) -> Folded:
        return replace(fold, delta=FoldedDelta(weights, {name: array}, 0))

    for broken, named in [
        (changed("tower.0.weight", weights["tower.0.weight"][:, :-1]), "weight has a shape"),
        (changed("tower.1.bias", weights["tower.1.bias"][:-1]), "bias has a wrong length"),
        (changed("output.weight", weights["output.weight"][:, :-1]), "output does not fit"),
        (adding("embedding.item_id", table[:-1]), "no table of field item_id"),
        (adding("embedding.item_id", table[:, :-1]), "no table of field item_id"),
        (adding("embedding.nothing", table), "no table of field nothing"),
        (adding("first_order.item_id", table), "no table of field first_order.item_id"),
        (adding("embedding.item_id", table.astype(np.float64)), "float16 or float32"),
    ]:
        with pytest.raises(EngineFailed, match=named):
            engine.prepare(broken)
