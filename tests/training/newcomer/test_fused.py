"""Overlays beside a fused adapter: it stays as it is, is scored as it is served, and new ids get rows of their own."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from adapters_store.artifact import Adapter, decode_adapter, decode_fusion
from adapters_store.backbone import read_bundle, write_bundle
from adapters_store.errors import MissingPin
from adapters_store.manifest import Calibration
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from adapters_store.tensors import write_tensors
from benchmarks.forge import Run
from benchmarks.oracle_files import AdapterFile
from benchmarks.oracle_network import sigmoid
from service.engines.onnx import OnnxEngine
from tests.deltas import make_delta, random_deltas
from tests.factory import THEMES, make_run
from tests.kinds import KINDS
from tests.training.newcomer.world import UNSEEN_USERS, config_of, frame_of, ground_of, rows_of
from training.batches import RowTensors
from training.metrics import auc
from training.newcomer.addition import Addition, make_addition
from training.newcomer.encoding import encode_rows
from training.newcomer.errors import NothingLive, NothingToTrain
from training.newcomer.fused import Pins, loaded_tower
from training.newcomer.ground import Ground, read_ground
from training.newcomer.loading import network_of
from training.newcomer.publishing import verify_newcomer
from training.progress import SilentMeter

DOMAIN = THEMES[0]
LONG: dict[str, Any] = {"schedule": {"lr": 3e-2, "batch_rows": 64, "steps": 10_000, "epochs": 15}}


def pins_of(run: Run) -> Pins:
    """Every auxiliary adapter of a run, and its fusion."""
    names = run.auxiliaries()
    bodies = {name: (run.folder / "adapters" / f"{name}.safetensors").read_bytes() for name in names}
    fusion = (run.folder / "fusion.safetensors").read_bytes()
    return Pins({name: decode_adapter(body) for name, body in bodies.items()}, decode_fusion(fusion))


def ground_in(run: Run, mode: str = "attention") -> Ground:
    """A domain of a run that is served by its fused adapter of a mode."""
    adapter = decode_adapter(run.natural(mode)[DOMAIN].read_bytes())
    ground = replace(ground_of(read_bundle(run.folder / "bundle")), domain=DOMAIN, live=adapter.revision)
    return replace(ground, begun=adapter, pins=pins_of(run))


def served(run: Run, frame: pl.DataFrame, adapter: AdapterFile) -> np.ndarray[Any, Any]:
    """The oracle's probabilities of rows, each a request of its own."""
    oracle, auxiliaries, fusion = run.oracle, run.auxiliaries(), run.fusion()
    found = []
    for row in frame.iter_rows(named=True):
        context = {name: row[name] for name in ("hour", "age_days") if row[name] is not None}
        named = [row["item_id"]]
        found.append(oracle.score(row["user_id"], DOMAIN, named, adapter, auxiliaries, fusion, context)[0])
    return np.array(found)


def calibrated(adapter: Adapter, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Probabilities as the adapter serves them."""
    line = adapter.manifest.calibration
    return sigmoid(line.slope * logits + line.intercept)


def made(frame: pl.DataFrame, ground: Ground, **changes: Any) -> Addition:
    return make_addition(rows_of(frame), ground, config_of(**changes), SilentMeter())


@pytest.mark.parametrize("mode", ["attention", "add", "avg"])
def test_a_published_fused_adapter_is_loaded_as_it_is_served(three_way_run: Run, mode: str) -> None:
    """Law: the network of its file and pins scores rows as the oracle does, each in its own auxiliary domains."""
    ground, frame = ground_in(three_way_run, mode), frame_of(80)
    assert ground.begun is not None
    encoded = encode_rows(rows_of(frame), ground)
    rows = RowTensors(encoded.dataset)
    assert len({tuple(row) for row in rows.domains.tolist()}) > 6  # of 12 combinations
    backbone = network_of(ground.bundle)
    tower = loaded_tower(backbone, ground.begun, ground.pins, rows.divisions)
    logits = tower.logits(backbone, rows.batch(rows.domains.new_tensor(range(80))), rows.domains).detach().numpy()
    found = calibrated(ground.begun, logits.astype(np.float64))
    adapter = AdapterFile(three_way_run.natural(mode)[DOMAIN])
    np.testing.assert_allclose(found, served(three_way_run, frame, adapter), atol=2e-6)


@pytest.mark.parametrize("mode", ["attention", "avg"])
def test_an_overlay_is_trained_beside_it(three_way_run: Run, mode: str) -> None:
    """Law: its own tensors and pins keep their bytes, the overlay learns, engine and oracle score the file alike, and
    what moved is told."""
    ground, frame = ground_in(three_way_run, mode), frame_of(1500)
    assert ground.begun is not None
    addition = made(frame, ground, overlay={"ids": "all"}, **LONG)
    verify_newcomer(addition.content, ground, OnnxEngine(ground.bundle).logits)
    adapter, manifest = AdapterFile(addition.content), decode_adapter(addition.content).manifest
    own = {name: value for name, value in ground.begun.tensors.items() if not name.startswith("golden.")}
    for name, value in own.items():
        np.testing.assert_array_equal(adapter.tensors[name], value)
    kept = {"kind", "mode", "ranks", "auxiliary", "pairs", "fuses", "fusion", "strength", "fingerprint"}
    assert manifest.model_dump(include=kept) == ground.begun.manifest.model_dump(include=kept)
    assert set(adapter.overlay) == {"user", "item"}
    assert addition.overlay_alone
    few = np.arange(0, len(frame), 60)
    line = manifest.calibration
    expected = sigmoid(line.slope * addition.trained.logits(few) + line.intercept)
    np.testing.assert_allclose(served(three_way_run, frame[few.tolist()], adapter), expected, atol=5e-3)  # fp16 rows
    figures = addition.figures["gate"]
    assert figures["auc"] > figures["auc_live"] + 0.05
    assert addition.drift is not None
    assert addition.drift["from"] == ground.begun.revision
    named = [adapter.tensors[f"golden.division.{name}"].tolist() for name in manifest.auxiliary]
    given = np.arange(len(named[0])) // 12 % 2 == 0
    assert (adapter.tensors["golden.overlay.user"][given] >= 0).all()
    assert len({row for row, own in zip(zip(*named, strict=True), given, strict=True) if own}) == 12  # all combinations
    assert len({row for row, own in zip(zip(*named, strict=True), given, strict=True) if not own}) == 12


def test_it_is_trained_under_its_calibration(random_run: Run) -> None:
    """Law: where rows are too few for another line the live one stays, and what is served agrees with the labels; the
    prior's shift of the rows at hand is taken off."""
    ground, frame = ground_in(random_run), frame_of(1500)
    assert ground.begun is not None
    line = Calibration(slope=0.8, intercept=-2.0)
    begun = replace(ground.begun, manifest=ground.begun.manifest.model_copy(update={"calibration": line}))
    parts = pl.Series(["train"] * 1300 + ["validation"] * 200)
    for kept in (1.0, 0.25):
        few = {"min_rows": 10_000, "negatives_kept": kept}
        given, over = frame.with_columns(split=parts), replace(ground, begun=begun)
        last = {"min_of_class": 10_000, "blind_epochs": 15}
        addition = made(given, over, overlay={"ids": "all", "l2": 0.0}, calibration=few, **LONG, **last)
        manifest = decode_adapter(addition.content).manifest
        assert manifest.calibration.slope == pytest.approx(line.slope)
        assert manifest.calibration.intercept == pytest.approx(line.intercept)
        train = addition.split.train
        shifted = line.intercept - np.log(kept)
        before, after = (
            abs(sigmoid(line.slope * raw + shifted).mean() - frame["label"][:1300].mean())
            for raw in (addition.trained.start_logits(train), addition.trained.logits(train))
        )
        assert after < 0.9 * before  # as far as embeddings alone bring it


async def test_a_bundle_that_lacks_what_it_fuses_is_told(three_way_run: Run, tmp_path: Path) -> None:
    """Law: divisions are outside the fingerprint; another bundle of it without one that a live adapter fuses refuses
    --continue by name, and --replace is not judged against it."""
    bundle = read_bundle(three_way_run.folder / "bundle")
    kept = [division for division in bundle.manifest.divisions if division.name != "shelf"]
    manifest = bundle.manifest.model_copy(update={"divisions": kept})
    tensors = {name: value for name, value in bundle.tensors("items").items() if name != "division.shelf"}
    files = {name: bundle.file(name) for name in bundle.files}
    write_bundle(
        tmp_path / "bundle", manifest, {**files, "items.safetensors": write_tensors(tensors, {"content": "items"})}
    )
    store = AdapterStore(MemoryBackend(), time.time)
    await store.publish_backbone(tmp_path / "bundle", "someone")
    live = await store.put(three_way_run.natural("attention")[DOMAIN].read_bytes())
    await store.set_live(DOMAIN, "theme", live, "someone")
    with pytest.raises(
        NothingLive, match="it fuses division 'shelf', which the backbone's bundle does not have: --repl"
    ):
        await read_ground(store, DOMAIN, "continue")
    assert (await read_ground(store, DOMAIN, "replace")).rival is None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_backbone_has_them(kind: str, tmp_path: Path) -> None:
    """Law: first-order weights and interactions go through the fused layers as well: the engine accepts the file, and
    the oracle scores rows as the trained network does."""
    run, frame = make_run(tmp_path / "run", sizes=KINDS[kind]), frame_of(90)
    ground = ground_in(run)
    addition = made(frame, ground, overlay={"ids": "all"}, min_of_class=1000, blind_epochs=3, artifact_dtype="float32")
    verify_newcomer(addition.content, ground, OnnxEngine(ground.bundle).logits)
    few = np.arange(0, len(frame), 15)
    found = served(run, frame[few.tolist()], AdapterFile(addition.content))
    line = decode_adapter(addition.content).manifest.calibration
    np.testing.assert_allclose(found, sigmoid(line.slope * addition.trained.logits(few) + line.intercept), atol=2e-5)
    assert np.abs(found - served(run, frame[few.tolist()], AdapterFile(run.natural("attention")[DOMAIN]))).max() > 1e-3


def test_it_starts_from_what_is_live_and_goes_on(random_run: Run) -> None:
    """Law: the start is the live adapter; going on once more keeps every id, those that rows do not name as they are;
    a wrong pin is refused."""
    ground = ground_in(random_run)
    first = made(frame_of(200, users=UNSEEN_USERS), ground, min_of_class=1000, blind_epochs=2)
    assert set(AdapterFile(first.content).overlay["user"]) == set(UNSEEN_USERS)
    frame = frame_of(60, seed=5)
    adapter = AdapterFile(random_run.natural("attention")[DOMAIN])
    start = made(frame, ground).trained.start_logits(np.arange(len(frame)))
    assert ground.begun is not None
    np.testing.assert_allclose(calibrated(ground.begun, start), served(random_run, frame, adapter), atol=2e-6)
    begun = decode_adapter(first.content)
    on = replace(ground, begun=begun, live=begun.revision)
    seen = frame.filter(~pl.col("user_id").is_in(UNSEEN_USERS))
    second = AdapterFile(made(seen, on, overlay={"ids": "all"}, min_of_class=1000, blind_epochs=2).content)
    assert set(UNSEEN_USERS) < set(second.overlay["user"])
    assert set(second.overlay["user"]) <= set(UNSEEN_USERS) | set(seen["user_id"].unique().to_list())
    for raw in UNSEEN_USERS:
        np.testing.assert_array_equal(second.overlay["user"][raw], AdapterFile(first.content).overlay["user"][raw])
    others = dict(zip(ground.pins.auxiliaries, reversed(ground.pins.auxiliaries.values()), strict=True))
    swapped = replace(ground, pins=replace(ground.pins, auxiliaries=others))
    with pytest.raises(MissingPin, match="is absent"):
        verify_newcomer(first.content, swapped, OnnxEngine(ground.bundle).logits)


def test_a_lora_in_its_place_is_judged_against_it(three_way_run: Run) -> None:
    """Law: the rival is the fused adapter as it is served, and what takes its place is a LoRA."""
    ground, frame = ground_in(three_way_run), frame_of(400)
    over = replace(ground, begun=None, replaced=ground.begun)
    addition = made(frame, over, gate={"min_positives": 5})
    gate = addition.split.gate
    probability = served(three_way_run, frame[gate.tolist()], AdapterFile(three_way_run.natural("attention")[DOMAIN]))
    label = frame["label"].to_numpy()[gate]
    assert addition.figures["gate"]["auc_live"] == pytest.approx(auc(label, probability), abs=1e-9)
    assert addition.verdict is not None
    assert addition.verdict.loss is not None
    loss = -np.mean(np.log(np.where(label == 1, probability, 1 - probability)))
    assert addition.verdict.loss.backbone == pytest.approx(loss, abs=1e-5)
    assert decode_adapter(addition.content).manifest.kind == "lora"
    assert not addition.overlay_alone


def test_nothing_to_train_is_told(random_run: Run) -> None:
    """Law: without an id to overlay nothing of a fused adapter would be trained, and the message says what to do."""
    with pytest.raises(NothingToTrain, match=r"no id is to have one: choose other overlay\.ids, or --replace it"):
        made(frame_of(60), ground_in(random_run), overlay={"ids": "none"})


async def test_a_store_gives_what_it_pins(random_run: Run, dense_run: Run) -> None:
    """Law: --continue reads a fused adapter with its pins, --replace too; a pin that is gone leaves nothing to judge
    against; a delta is refused with what to do."""
    store = AdapterStore(MemoryBackend(), time.time)
    await store.publish_backbone(random_run.folder / "bundle", "someone")
    for path in [random_run.folder / "fusion.safetensors", *(random_run.folder / "adapters").iterdir()]:
        await store.put(path.read_bytes())
    live = await store.put(random_run.natural("attention")[DOMAIN].read_bytes())
    await store.set_live(DOMAIN, "theme", live, "someone")
    for over in ("continue", "replace"):
        ground = await read_ground(store, DOMAIN, over)
        assert ground.rival is not None
        assert ground.rival.manifest.kind == "fused"
        assert set(ground.pins.auxiliaries) == set(ground.rival.manifest.fuses)
        assert ground.pins.fusion is not None
        assert [division.name for division in ground.fused_divisions] == ["segment"]


async def test_what_a_store_cannot_score_here_is_no_rival(dense_run: Run, random_run: Run) -> None:
    """Law: a delta refuses --continue with what to do, and is replaced without being judged against; so is a fused
    adapter whose pin is gone."""
    store = AdapterStore(MemoryBackend(), time.time)
    await store.publish_backbone(random_run.folder / "bundle", "someone")
    live = await store.put(random_run.natural("attention")[DOMAIN].read_bytes())
    await store.set_live(DOMAIN, "theme", live, "someone")
    ground = await read_ground(store, DOMAIN, "replace")
    assert (ground.rival, ground.pins) == (None, Pins())
    rng = np.random.default_rng(0)
    delta = await store.put(make_delta(dense_run, rng, DOMAIN, random_deltas(dense_run.oracle, rng)))
    await store.set_live(DOMAIN, "theme", delta, "someone")
    with pytest.raises(NothingLive, match="goes on from kinds 'lora' and 'fused' alone: --replace trains it anew"):
        await read_ground(store, DOMAIN, "continue")
    assert (await read_ground(store, DOMAIN, "replace")).rival is None
