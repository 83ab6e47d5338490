"""What training a new domain leaves: an artifact that the oracle scores alike, calibrated and judged."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import read_bundle, write_bundle
from adapters_store.canonical import digest
from adapters_store.errors import MalformedArtifact
from adapters_store.manifest import Calibration as BundleCalibration
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile
from benchmarks.oracle_network import sigmoid
from tests.factory import Sizes
from tests.kinds import KINDS
from tests.training.newcomer.world import (
    DOMAIN,
    NEW_ITEMS,
    NEW_USERS,
    UNSEEN_USERS,
    config_of,
    frame_of,
    ground_of,
    make_bundle,
    rows_of,
)
from training.errors import ConfigError
from training.metrics import auc
from training.newcomer.addition import Addition, make_addition
from training.newcomer.ground import Ground
from training.progress import SilentMeter

MOVED: dict[str, Any] = {"min_of_class": 1000, "blind_epochs": 4}
"""Takes the last epoch, so that an adapter differs from its start whatever validation would have preferred."""


def made(frame: pl.DataFrame, ground: Ground, sizes: Sizes | None = None, **changes: Any) -> Addition:
    return make_addition(rows_of(frame), ground, config_of(sizes, **changes), SilentMeter())


def _course(addition: Addition) -> tuple[object, ...]:
    """How the training went, less the time that it took."""
    fitted = addition.trained.fitted
    return [{**line, "seconds": None} for line in fitted.history], fitted.epoch


def scored(oracle: Oracle, frame: pl.DataFrame, adapter: AdapterFile | None) -> np.ndarray[Any, Any]:
    """The oracle's probabilities of rows, each a request of its own."""
    found = []
    for row in frame.iter_rows(named=True):
        context = {name: row[name] for name in ("hour", "age_days") if row[name] is not None}
        found.append(oracle.score(row["user_id"], DOMAIN, [row["item_id"]], adapter, context=context)[0])
    return np.array(found)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The bundle of a perceptron."""
    return ground_of(make_bundle(tmp_path_factory.mktemp("addition") / "bundle"))


@pytest.mark.parametrize("kind", ["mlp", *sorted(KINDS)])
def test_an_artifact_of_every_kind_is_what_the_oracle_scores(kind: str, tmp_path: Path) -> None:
    """Law: golden logits are the oracle's; its probabilities of the rows are the trained network's, calibrated, as far
    as float16 keeps them; LoRA and overlay both move them."""
    sizes = KINDS.get(kind, Sizes())
    ground = ground_of(make_bundle(tmp_path / "bundle", sizes))
    frame = frame_of(90)
    addition = made(frame, ground, sizes, overlay={"ids": "all"}, artifact_dtype="float32", **MOVED)
    oracle, adapter = Oracle(tmp_path / "bundle"), AdapterFile(addition.content)
    np.testing.assert_allclose(adapter.tensors["golden.logits"], oracle.golden_logits(adapter), atol=1e-9)
    line = adapter.manifest["calibration"]
    raw = addition.trained.logits(np.arange(len(frame)))
    few = np.arange(0, len(frame), 15)
    expected = sigmoid(line["slope"] * raw[few] + line["intercept"])
    found = scored(oracle, frame[few.tolist()], adapter)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - scored(oracle, frame[few.tolist()], None)).max() > 1e-2
    assert set(adapter.overlay) == {"user", "item"}
    adapter.tensors = {k: v for k, v in adapter.tensors.items() if not k.startswith("overlay.")}
    del adapter.overlay
    assert np.abs(found - scored(oracle, frame[few.tolist()], adapter)).max() > 1e-4


def test_an_overlay_learns_what_no_lora_can(ground: Ground) -> None:
    """Law: users that the backbone never saw, with the same fields, are told apart by their overlay alone: without one
    no training orders their rows by taste."""
    table = ground.tables["users"].table
    segments = table.gather(table.find(list(UNSEEN_USERS))).arrays["segment"]
    alike = [
        raw for raw, segment in zip(UNSEEN_USERS, segments, strict=True) if segment == np.bincount(segments).argmax()
    ]
    assert len(alike) >= 2
    parts = [str(part) for part in np.random.default_rng(7).choice(["train", "validation", "test"], 400)]
    frame = frame_of(400, users=tuple(alike)).with_columns(split=pl.Series(parts))
    schedule = {"lr": 1e-2, "weight_decay": 0.0, "batch_rows": 64, "steps": 10_000, "epochs": 15}
    without, with_overlay = (
        made(frame, ground, schedule=schedule, overlay={"ids": ids}).figures["test"]["auc"]
        for ids in ("none", "unseen")
    )
    assert with_overlay > without + 0.15


def test_rare_ids_are_chosen_by_the_bundles_counts(ground: Ground, tmp_path: Path) -> None:
    """Law: `rare` is the unseen and those that fewer training rows name than asked, of those that the rows name."""
    vocabulary = ground.bundle.weights["embedding.user_id"].shape[0]
    counts = {
        "user_id": np.arange(vocabulary, dtype=np.int32),  # row i was named i times
        "item_id": np.full(ground.bundle.weights["embedding.item_id"].shape[0], 9, np.int32),
    }
    told = ground_of(make_bundle(tmp_path / "bundle", counts=counts))
    frame = frame_of(120)
    chosen = AdapterFile(made(frame, told, overlay={"ids": "rare", "rare_below": 9}).content).overlay
    named = frame["user_id"].unique().to_list()
    rows = told.vocabulary.rows("user_id", named)
    assert set(chosen["user"]) == {raw for raw, row in zip(named, rows, strict=True) if row < 9}
    assert set(UNSEEN_USERS) & set(named) <= set(chosen["user"])
    unseen = AdapterFile(made(frame, told).content).overlay
    assert set(unseen["user"]) < set(chosen["user"]) < set(named)
    assert chosen.keys() == unseen.keys()  # no item is rare


@pytest.mark.parametrize(
    ("counts", "error", "told"),
    [
        (None, ConfigError, "overlay.ids: rare needs counts.safetensors, and the bundle .* older build"),
        ({"item_id": np.zeros(3, np.int32)}, MalformedArtifact, "no tensor 'user_id', int32"),
        ({"user_id": np.zeros(3, np.int32)}, MalformedArtifact, "no tensor 'user_id', int32"),
    ],
)
def test_a_bundle_without_counts_has_no_rare_ids(
    counts: dict[str, Any] | None, error: type[Exception], told: str, tmp_path: Path
) -> None:
    """Law: what cannot be known is refused by name, with what to do."""
    ground = ground_of(make_bundle(tmp_path / "bundle", counts=counts))
    with pytest.raises(error, match=told):
        made(frame_of(60), ground, overlay={"ids": "rare"})


def test_the_same_rows_give_the_same_bytes_and_another_seed_others(ground: Ground) -> None:
    """Law: an artifact is decided by rows, backbone, configuration and seed."""
    frame = frame_of(150)
    first = made(frame, ground)
    assert made(frame, ground).content == first.content
    assert made(frame, ground, seed=1).content != first.content
    assert first.revision == digest(first.content)


def test_the_manifest_tells_how_it_was_trained_calibrated_and_judged(ground: Ground) -> None:
    """Law: rows, epochs, overlay, figures, calibration and verdict are those of the training."""
    addition = made(frame_of(400), ground, gate={"min_positives": 10}, calibration={"negatives_kept": 0.25})
    manifest = decode_adapter(addition.content).manifest
    assert (manifest.kind, manifest.domain, manifest.division) == ("lora", DOMAIN, "theme")
    assert manifest.fingerprint == ground.bundle.fingerprint
    assert manifest.training["rows"] == len(addition.split.train)
    assert manifest.training["epoch"] == addition.trained.fitted.epoch
    assert manifest.training["overlay"]["user"] == addition.overlaid["user"] > 0
    assert manifest.metrics == {part: dict(found) for part, found in addition.figures.items()}
    assert set(manifest.metrics) == {"stop", "gate"}
    calibration = addition.judged.calibrations["single"][DOMAIN]
    assert manifest.calibration.model_dump() == calibration.served()
    assert manifest.calibration.intercept == calibration.intercept + np.log(0.25)
    assert manifest.gate is not None
    assert addition.verdict is not None
    assert manifest.gate["passed"] == addition.verdict.passed
    assert math.isfinite(manifest.gate["log_loss"]["calibration_gain"])
    assert manifest.gate["rows"] == len(addition.split.gate)


def test_a_verdict_withholds_only_where_the_policy_says_so(ground: Ground) -> None:
    """Law: an adapter that does not pass is withheld under `withhold`, and under nothing else."""
    frame = frame_of(60)  # too few positives for the gate
    assert made(frame, ground, gate={"policy": "withhold"}).withheld
    assert not made(frame, ground, gate={"policy": "record"}).withheld
    judged = made(frame, ground, gate={"policy": "none"})
    assert (judged.withheld, judged.verdict) == (False, None)


@pytest.mark.parametrize("rows", [2, 6, 30])
def test_a_handful_of_rows_is_enough(ground: Ground, rows: int) -> None:
    """Law: where validation cannot tell, training takes the passes it was given, and says so."""
    half = frame_of(200).sort("label")
    frame = pl.concat([half.head(rows // 2), half.tail(rows // 2)])
    addition = made(frame, ground, blind_epochs=3)
    assert addition.trained.blind
    assert addition.trained.fitted.epoch == 3
    assert decode_adapter(addition.content).manifest.training["blind"]


def test_training_goes_on_from_what_is_live(ground: Ground) -> None:
    """Law: the start is the live adapter under its own overlay; ids that new rows do not name keep their bytes; the
    rival in the gate is what is live; the drift is told and recorded."""
    old_rows, new_rows = frame_of(300, seed=1), frame_of(200, seed=2, users=("3", "37", "38"))
    live = made(old_rows, ground, overlay={"ids": "all"}, **MOVED)
    begun = replace(ground, begun=decode_adapter(live.content), live=live.revision)
    addition = made(new_rows, begun, gate={"min_positives": 1}, **MOVED)
    oracle = Oracle(Path(str(ground.bundle.files["weights.safetensors"])).parent)
    few = np.arange(0, 200, 20)
    line = AdapterFile(live.content).manifest["calibration"]
    started = sigmoid(line["slope"] * addition.trained.start_logits(few) + line["intercept"])
    np.testing.assert_allclose(started, scored(oracle, new_rows[few.tolist()], AdapterFile(live.content)), atol=2e-5)
    old, new = AdapterFile(live.content).overlay["user"], AdapterFile(addition.content).overlay["user"]
    assert set(new) == set(old)
    untouched = [raw for raw in old if raw not in ("3", "37", "38")]
    assert all(np.array_equal(old[raw], new[raw]) for raw in untouched)
    assert not np.array_equal(old["37"], new["37"])
    assert addition.drift is not None
    assert addition.drift["from"] == live.revision
    assert 0 < addition.drift["mean"] < addition.drift["largest"] < 1
    assert decode_adapter(addition.content).manifest.training["drift"] == addition.drift
    assert addition.figures["gate"]["auc_start"] != addition.figures["gate"]["auc_backbone"]


def test_a_replacement_is_judged_against_what_is_live(ground: Ground) -> None:
    """Law: what is better than the backbone and worse than the live adapter passes where nothing is live and is
    withheld where that one is; the live one is scored under its own overlay and calibration."""
    frame = frame_of(1000, seed=1)
    long = {"lr": 1e-2, "weight_decay": 0.0, "batch_rows": 64, "steps": 10_000, "epochs": 15}
    live = made(frame, ground, overlay={"ids": "all"}, schedule=long)
    over = replace(ground, replaced=decode_adapter(live.content), live=live.revision)
    gate, short = {"policy": "withhold", "min_positives": 5}, {**long, "lr": 2e-2, "epochs": 6}
    changes: dict[str, Any] = {"overlay": {"ids": "none"}, "gate": gate, "schedule": short}
    alone, judged = (made(frame, where, **changes) for where in (ground, over))
    assert (alone.withheld, judged.withheld) == (False, True)
    assert _course(alone) == _course(judged)
    assert (alone.drift, judged.drift) == (None, None)
    figures = judged.figures["gate"]
    assert figures["auc_backbone"] < figures["auc"] < figures["auc_live"]
    gate = judged.split.gate
    oracle = Oracle(Path(str(ground.bundle.files["weights.safetensors"])).parent)
    expected = auc(frame["label"].to_numpy()[gate], scored(oracle, frame[gate.tolist()], AdapterFile(live.content)))
    assert figures["auc_live"] == pytest.approx(expected, abs=2e-3)
    assert judged.verdict is not None
    assert judged.verdict.loss is not None
    probability = scored(oracle, frame[gate.tolist()], AdapterFile(live.content))
    label = frame["label"].to_numpy()[gate]
    loss = -np.mean(np.log(np.where(label == 1, probability, 1 - probability)))
    assert judged.verdict.loss.backbone == pytest.approx(loss, abs=1e-3)


def test_the_backbone_is_judged_as_it_serves(ground: Ground, tmp_path: Path) -> None:
    """Law: the gate's rival has the bundle's calibration, less the shift that the given rows lack as well."""
    bundle, shift = ground.bundle, float(np.log(0.25))
    manifest = bundle.manifest.model_copy(update={"calibration": BundleCalibration(intercept=shift)})
    write_bundle(tmp_path / "bundle", manifest, {name: bundle.file(name) for name in bundle.files})
    shifted = ground_of(read_bundle(tmp_path / "bundle"))

    def of_backbone(where: Ground, kept: float) -> float:
        addition = made(frame, where, gate={"min_positives": 5}, calibration={"negatives_kept": kept})
        assert addition.verdict is not None
        assert addition.verdict.loss is not None
        return float(addition.verdict.loss.backbone)

    frame = frame_of(400)
    plain = of_backbone(ground, 1.0)
    assert of_backbone(shifted, 0.25) == pytest.approx(plain, abs=1e-12)  # the same rows, said of fewer
    assert of_backbone(ground, 0.25) != pytest.approx(plain, abs=1e-2)
    split = made(frame, ground).split.gate.tolist()
    probability = scored(Oracle(tmp_path / "bundle"), frame[split], None)
    label = frame["label"].to_numpy()[split]
    loss = -np.mean(np.log(np.where(label == 1, probability, 1 - probability)))
    assert of_backbone(shifted, 1.0) == pytest.approx(loss, abs=1e-5)


def test_new_users_and_items_are_trained_and_overlaid(ground: Ground, tmp_path: Path) -> None:
    """Law: ids of the given files are part of the rows as if the table had them, and get embeddings of their own."""
    pl.DataFrame(NEW_USERS).write_parquet(tmp_path / "users.parquet")
    pl.DataFrame(NEW_ITEMS).write_parquet(tmp_path / "items.parquet")
    grown = ground.with_files({"users": tmp_path / "users.parquet", "items": tmp_path / "items.parquet"})
    frame = frame_of(80).with_columns(
        user_id=pl.Series(["u-new", "90001"] * 40), item_id=pl.Series(["brand new"] * 20 + ["item-1"] * 60)
    )
    overlay = AdapterFile(made(frame, grown).content).overlay
    assert set(overlay["user"]) == {"u-new", "90001"}
    assert set(overlay["item"]) == {"brand new"}
