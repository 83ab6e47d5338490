"""The torch engine on the CPU: torch's plain operators pass the whole contract, Triton's kernels the same in small."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adapters_store.backbone import Backbone, read_bundle
from adapters_store.folding import fold_backbone
from adapters_store.verification import verify_backbone
from benchmarks.forge import Run
from benchmarks.oracle import AdapterFile
from features.rows import EncodedRows
from service.engine import Engine, Segment, form_of
from service.engines.chosen import Engines
from service.engines.gpu.batching import TILE
from service.engines.native import EngineAbsent, HandedOn
from service.engines.onnx import OnnxEngine
from service.engines.torch_engine import TorchEngine, TorchPrepared
from service.errors import EngineFailed
from tests.deltas import make_delta, make_overlaid_lora, random_deltas, random_overlay, with_overlay
from tests.factory import THEMES
from tests.kinds import KINDS
from tests.service.dense_folds import dense_fold
from tests.service.engine_contract import MODES, EngineContract, World, probability
from tests.service.test_deltas import World as DeltaWorld
from tests.service.test_deltas import draw

ROOT = Path(__file__).resolve().parents[3]
TOLERANCE = 2e-6
POOL_BYTES = 4 << 20


def engine_of(backbone: Backbone, *, plain: bool = True, **options: Any) -> TorchEngine:
    """On the CPU; skips the test where Triton is asked for and cannot run."""
    if not plain:
        pytest.importorskip("triton", reason="triton is not installed")
    engine = TorchEngine(backbone, device="cpu", plain=plain, **{"pool_bytes": POOL_BYTES, **options})
    assert engine.kernels_in_use == ("plain" if plain else "triton")
    return engine


class TestPlainTorchEngine(EngineContract):
    """torch's operators."""

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """With batches of few tiles."""
        return engine_of(backbone, rows_per_run=rows_per_run)


class TestInterpretedTorchEngine(EngineContract):
    """Triton's kernels in its interpreter; what verifies many adapters takes long there, and is left to who asks."""

    if os.environ.get("INTERPRETED_CONTRACT") != "1":
        test_each_mode_equals_the_oracle_alone = None  # type: ignore[assignment]
        test_a_mixed_batch_equals_the_oracle = None  # type: ignore[assignment]
        test_results_come_in_the_order_of_the_segments = None  # type: ignore[assignment]
        test_verification_beside_scoring_disturbs_neither = None  # type: ignore[assignment]

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """With batches of few tiles."""
        return engine_of(backbone, plain=False, rows_per_run=rows_per_run)


def mixed(
    world: World, engine: TorchEngine, rng: np.random.Generator, modes: tuple[str, ...], n: int
) -> tuple[list[Segment], NDArray[np.float64]]:
    """A request of each mode, prepared by an engine after the world's own verified it, and the oracle's scores."""
    segments, expected = [], []
    for i, mode in enumerate(modes):
        domain = THEMES[i % len(THEMES)]
        prepared = {combination: engine.prepare(fold) for combination, fold in world.folds(mode, domain).items()}
        own, scores = world.segments(rng, mode, domain, prepared, n)
        segments += own
        expected.append(scores)
    return segments, np.concatenate(expected)


def test_the_kernels_reproduce_the_backbone_and_the_oracle(random_run: Run) -> None:
    """Law: in Triton's interpreter golden rows hold, and a mixed batch of all modes has the oracle's scores."""
    backbone = read_bundle(random_run.folder / "bundle")
    world, engine = World(random_run, backbone, engine_of(backbone)), engine_of(backbone, plain=False)
    verify_backbone(backbone, engine.logits)
    segments, expected = mixed(world, engine, np.random.default_rng(1), MODES, 9)
    scores = probability(np.concatenate(engine.run(segments)))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def test_what_it_accepted_is_kept_by_nobody(random_run: Run) -> None:
    """Law: it says no form, for none would name its kernels and the device; golden rows are scored at every load."""
    assert form_of(engine_of(read_bundle(random_run.folder / "bundle"))) is None


@pytest.mark.parametrize("plain", [True, False])
def test_a_row_scores_the_same_in_every_company(three_way_run: Run, plain: bool) -> None:
    """Law: whatever stands beside a segment, in whatever order and tile, its probabilities move by 2e-6 at most."""
    backbone = read_bundle(three_way_run.folder / "bundle")
    engine, rng = engine_of(backbone, plain=plain), np.random.default_rng(2)
    world = World(three_way_run, backbone, engine_of(backbone))
    segments, expected = mixed(world, engine, rng, ("attention", "single"), TILE + 8)
    parts = np.split(expected, np.cumsum([segment.rows.n for segment in segments])[:-1])
    for _ in range(20 if plain else 2):
        chosen = rng.integers(0, len(segments), int(rng.integers(1, 12 if plain else 4)))
        for at, part in zip(chosen, engine.run([segments[i] for i in chosen]), strict=True):
            np.testing.assert_allclose(probability(part), parts[at], rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def dense_backbone(dense_run: Run) -> Backbone:
    """One that can score deltas."""
    return read_bundle(dense_run.folder / "bundle")


@pytest.mark.parametrize("plain", [True, False])
def test_overlays_and_what_is_handed_on_equal_the_oracle(dense_run: Run, dense_backbone: Backbone, plain: bool) -> None:
    """Law: overlays are sent with the rows that need them, deltas are entries of the stacks, and deltas of tables go to
    onnx, each in its own place."""
    rng, run = np.random.default_rng(3), dense_run
    engine = engine_of(dense_backbone, plain=plain, portable=OnnxEngine(dense_backbone))
    served = DeltaWorld(run, dense_backbone, engine)
    fused = (run.folder / "adapters" / f"{THEMES[0]}.safetensors").read_bytes()
    bodies = [make_overlaid_lora(run, rng, THEMES[2], random_overlay(run.oracle, rng, np.float32))]
    if plain:
        bodies.append(with_overlay(run, rng, fused, random_overlay(run.oracle, rng)))
    said = {"calibration": {"slope": 0.9, "intercept": 0.3}}
    overlaid = random_deltas(run.oracle, rng) | random_overlay(run.oracle, rng)
    bodies.append(make_delta(run, rng, THEMES[1], overlaid, **said))
    bodies.append(make_delta(run, rng, THEMES[3], random_deltas(run.oracle, rng)))
    bodies.append(make_delta(run, rng, THEMES[1], random_deltas(run.oracle, rng, tables=("item_id",))))
    slots = [served.slot(body) for body in bodies]
    kinds = [type(next(iter(slot.combinations.values()))) for slot in slots]
    assert kinds == [*[TorchPrepared] * (len(bodies) - 1), HandedOn]
    segments, expected = [], []
    for at in rng.permutation([*range(len(bodies))] * (8 if plain else 2)):
        domain = AdapterFile(bodies[at]).manifest["domain"]
        user, items = draw(rng, run)
        segments += served.asked(slots[at], domain, user, items)
        expected.append(served.expected(bodies[at], domain, user, items)[np.concatenate(served.places)])
    scores = probability(np.concatenate(engine.run(segments)))
    np.testing.assert_allclose(scores, np.concatenate(expected), rtol=0, atol=TOLERANCE)


def test_without_room_for_a_whole_network_it_is_handed_on(dense_backbone: Backbone) -> None:
    """Law: entries are as many as there is room for; the next delta goes to onnx, until one is given back."""
    fold = dense_fold(dense_backbone, np.random.default_rng(6))
    rows = dense_backbone.golden()[0]
    probe = engine_of(dense_backbone).prepare(fold)
    assert isinstance(probe, TorchPrepared)
    assert probe.entry is not None
    assert probe.nbytes == probe.held.nbytes + probe.entry.nbytes
    engine = engine_of(dense_backbone, pool_bytes=4 * probe.entry.nbytes, portable=OnnxEngine(dense_backbone))
    first, second = engine.prepare(fold), engine.prepare(fold)
    assert (type(first), type(second)) == (TorchPrepared, HandedOn)
    one, other = engine.run([Segment(rows, second, engine), Segment(rows, first, engine)])
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    del first
    assert isinstance(engine.prepare(fold), TorchPrepared)


def test_slots_are_given_away_only_when_no_segment_has_them(random_run: Run) -> None:
    """Law: through a pool of few slots, adapters come and go beside one that is held, and its scores stay its own."""
    backbone = read_bundle(random_run.folder / "bundle")
    engine, rng = engine_of(backbone, pool_bytes=250_000), np.random.default_rng(4)
    assert 3 <= engine.pool.slots <= 8
    folds = list(World(random_run, backbone, engine_of(backbone)).folds("single", THEMES[0]).values())
    rows = World(random_run, backbone, engine).draw(rng, THEMES[0], 5)[2]
    held = [Segment(rows, engine.prepare(folds[0]), engine)]
    before, used = engine.run(held)[0], set()
    for scale in range(1, 4 * engine.pool.slots):
        fold = replace(fold_backbone(backbone), slope=float(scale))
        prepared = engine.prepare(fold)
        assert isinstance(prepared, TorchPrepared)
        used.add(prepared.held.slot)
        own, kept = engine.run([Segment(rows, prepared, engine), *held])
        np.testing.assert_allclose(own, scale * engine.logits(rows, fold), rtol=1e-5)
        np.testing.assert_allclose(kept, before, rtol=0, atol=1e-5)
        del prepared
    assert len(used) < engine.pool.slots
    assert held[0].prepared.held.slot not in used


def test_a_full_pool_hands_on_or_says_so(random_run: Run) -> None:
    """Law: what has no room is scored by the portable engine, and refused where there is none."""
    backbone = read_bundle(random_run.folder / "bundle")
    fold = fold_backbone(backbone)
    engine = engine_of(backbone, pool_bytes=1, portable=OnnxEngine(backbone))
    rows = World(random_run, backbone, engine).draw(np.random.default_rng(5), THEMES[0], 4)[2]
    first, second = engine.prepare(fold), engine.prepare(fold)
    assert (type(first), type(second)) == (TorchPrepared, HandedOn)
    one, other = engine.run([Segment(rows, second, engine), Segment(rows, first, engine)])
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    alone = engine_of(backbone, pool_bytes=1)
    kept = alone.prepare(fold)
    with pytest.raises(EngineFailed, match="no room left"):
        alone.prepare(fold)
    del kept


def test_an_empty_batch_and_an_empty_segment_have_no_logits(random_run: Run) -> None:
    """Law: nothing to score is no error."""
    backbone = read_bundle(random_run.folder / "bundle")
    engine = engine_of(backbone)
    rows = World(random_run, backbone, engine).draw(np.random.default_rng(6), THEMES[0], 3)[2]
    prepared = engine.prepare(fold_backbone(backbone))
    assert engine.run([]) == []
    empty = rows.take(np.empty(0, np.int64))
    none, some = engine.run([Segment(empty, prepared, engine), Segment(rows, prepared, engine)])
    assert (len(none), len(some)) == (0, 3)


def rows_with(rows: EncodedRows, name: str, array: NDArray[Any]) -> EncodedRows:
    """The rows with one array replaced."""
    return replace(rows, arrays={**rows.arrays, name: array})


def test_rows_that_leave_their_tables_are_refused_by_field(random_run: Run) -> None:
    """Law: an index outside its table is an error before anything is sent; the field is named."""
    backbone = read_bundle(random_run.folder / "bundle")
    engine, fold = engine_of(backbone), fold_backbone(backbone)
    rows = World(random_run, backbone, engine).draw(np.random.default_rng(7), THEMES[0], 5)[2]
    offsets, values = rows.arrays["tags.offsets"], rows.arrays["tags.values"]
    for broken, named in [
        (rows_with(rows, "hour", np.full(5, 25, np.int32)), "'hour' holds a row outside its table of 25"),
        (rows_with(rows, "hour", np.full(5, -1, np.int32)), "'hour' holds a row outside"),
        (rows_with(rows, "tags.values", np.full_like(values, 8)), "'tags' holds a row outside its table of 8"),
        (rows_with(rows, "tags.offsets", offsets + 1_000), "'tags' has offsets that leave its values"),
        (rows_with(rows, "tags.offsets", offsets[::-1].copy()), "'tags' has offsets that leave its values"),
        (EncodedRows(5, {name: a for name, a in rows.arrays.items() if name != "hour"}), "hour"),
    ]:
        with pytest.raises(EngineFailed, match=named):
            engine.logits(broken, fold)


def test_other_kinds_are_absent(random_run: Run) -> None:
    """Law: what cannot run here says why when it is made, so that another engine may serve."""
    backbone = read_bundle(random_run.folder / "bundle")
    backbone.manifest = backbone.manifest.model_copy(update={"kind": "deepfm"})
    assert "deepfm" in KINDS
    with pytest.raises(EngineAbsent, match="no backbones of kind 'deepfm'"):
        TorchEngine(backbone, device="cpu")


def test_a_device_without_room_is_absent(random_run: Run) -> None:
    """Law: what torch cannot allocate is a reason for another engine, not for no start."""
    backbone = read_bundle(random_run.folder / "bundle")
    with pytest.raises(EngineAbsent, match="the torch engine cannot run"):
        TorchEngine(backbone, device="cpu", pool_bytes=1 << 60)


def test_torch_is_not_imported_before_it_is_asked_for() -> None:
    """Law: a service of another engine does without torch."""
    asked = "import sys, service.engines.chosen; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], cwd=ROOT, check=False).returncode == 0


def test_without_a_device_or_torch_the_portable_engine_serves_and_says_so_once(
    random_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: `engine: torch` costs a warning with its reason where it cannot run, once, and no start."""
    backbone = read_bundle(random_run.folder / "bundle")
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engines = Engines(lambda *said: told.append(said))
    assert [engines.make("torch", backbone, threads=1, rows_per_run=64).name for _ in range(2)] == ["onnx", "onnx"]
    assert told == [("onnx", "torch finds no CUDA device")]
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineAbsent, match="torch is not installed"):
        TorchEngine(backbone)
