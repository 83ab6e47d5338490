"""Strengths in whole runs: what is searched, what serves, what is published."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters_store.artifact import decode_adapter
from tests.training.small import contents, small_config
from training.artifacts_of import Choice, Notes
from training.batches import logits_of
from training.config import StrengthConfig
from training.fusion import FusionTrainer
from training.pipeline import _candidates, train_all
from training.predictions import read_predictions
from training.stages import Run
from training.strength import Earned, Score, earn

SEARCH = StrengthConfig(policy="search", steps=4, prior_rows=1.0)


@pytest.fixture(scope="module")
def trained(opened: Run) -> tuple[FusionTrainer, dict[Choice, Score]]:
    """The finished run's trainer of the fusion, and its candidates."""
    pretrained = opened.pretrained()
    trainer, fusions = opened.fusions(pretrained, opened.adapters(pretrained))
    return trainer, _candidates(trainer, fusions)


def searched(opened: Run, trained: tuple[FusionTrainer, dict[Choice, Score]], chosen: Choice) -> Earned:
    trainer, candidates = trained
    return earn(trainer, candidates, chosen, opened.positions.stop, SEARCH)


def test_what_serves_is_the_best_of_each_domain(
    opened: Run, trained: tuple[FusionTrainer, dict[Choice, Score]]
) -> None:
    """Law: on its search rows a domain's served loss is the lowest that was tried, up to the prior."""
    earned = searched(opened, trained, "single")
    stop = opened.positions.stop
    served, label = earned.score(stop), opened.rows.label[stop].double().numpy()
    losses = np.logaddexp(0.0, served) - label * served
    domain = opened.rows.domains[stop, 0].numpy()
    for i, name in enumerate(opened.rows.divisions[0].domains):
        found = earned.strengths[name]
        assert set(found.losses) == {0.0, 0.25, 0.5, 0.75, 1.0}
        assert losses[domain == i].mean() == pytest.approx(found.losses[found.value], abs=1e-6)
        assert found.losses[found.value] <= min(found.losses.values()) + 0.05 / found.rows


def test_adapter_that_stands_alone_carries_its_strength(
    opened: Run, trained: tuple[FusionTrainer, dict[Choice, Score]]
) -> None:
    """Law: an adapter that does too much is weakened, and what is published scores its rows as served."""
    trainer = _overdone(trained[0])
    tower = trainer.untrained("single").eval()
    candidates: dict[Choice, Score] = {**trained[1], "single": lambda rows: trainer.logits(tower, rows)}
    earned = searched(opened, (trainer, candidates), "single")
    assert earned.strong  # which ones gain by it is for their validation rows to say
    for i, adapter in earned.strong.items():
        rows = opened.rows.of_domain(opened.positions.test, 0, i)
        own = logits_of(rows, lambda part, adapter=adapter: trainer.backbone(opened.rows.batch(part), adapter))
        np.testing.assert_allclose(own, earned.score(rows), rtol=0, atol=1e-5)


def _overdone(trainer: FusionTrainer) -> FusionTrainer:
    """The same with natural adapters whose LoRAs do eight times what they learned."""
    adapters = [dict(found) for found in trainer.adapters]
    for i, own in trainer.adapters[0].items():
        adapters[0][i] = found = copy.deepcopy(own)
        for lora in found.lora_modules():
            lora.scale.data.mul_(8.0)
            lora.shift.data.mul_(8.0)
    return replace(trainer, adapters=adapters)


def test_fused_adapter_is_taken_or_left(opened: Run, trained: tuple[FusionTrainer, dict[Choice, Score]]) -> None:
    """Law: rows of a domain of strength 0 are the backbone's, the others' the candidate's."""
    _, candidates = trained
    earned = searched(opened, trained, "avg")
    rows = opened.positions.test
    domain = opened.rows.domains[rows, 0].numpy()
    for i, name in enumerate(opened.rows.divisions[0].domains):
        value = earned.strengths[name].value
        assert value in (0.0, 1.0)
        assert earned.choice(name) == ("backbone" if value == 0.0 else "avg")
        expected = candidates[earned.choice(name)](rows)[domain == i]
        np.testing.assert_array_equal(earned.score(rows)[domain == i], expected)
    assert not earned.strong


@pytest.mark.parametrize("chosen", ["backbone", "attention"])
def test_without_a_search_all_is_as_trained(
    opened: Run, trained: tuple[FusionTrainer, dict[Choice, Score]], chosen: Choice
) -> None:
    """Law: by default, and where the backbone serves, nothing is searched and no note is changed."""
    trainer, candidates = trained
    config = SEARCH if chosen == "backbone" else StrengthConfig()
    earned = earn(trainer, candidates, chosen, opened.positions.stop, config)
    rows = opened.positions.gate[:50]
    np.testing.assert_array_equal(earned.score(rows), candidates[chosen](rows))
    assert (earned.choice("theme-01"), earned.notes("theme-01", Notes())) == (chosen, Notes())


def again(data: Path, finished: Path, out: Path, **changes: Any) -> Path:
    """Finish the finished run once more under other rules."""
    shutil.copytree(finished, out)
    return train_all(small_config(data, export_ablations=False, **changes), out, resume=True)


def test_run_publishes_what_it_searched(small_world: Path, finished: Path, tmp_path: Path) -> None:
    """Law: manifest, report and predictions tell of one and the same strength; at 0 the adapter is empty."""
    rules = {"strength": {"policy": "search", "steps": 4}, "artifact_dtype": "float32"}
    run = again(small_world, finished, tmp_path / "run", **rules)
    record = json.loads((run / "report.json").read_text())["training"]
    predictions = read_predictions(run)
    for i, name in enumerate(predictions.domains):
        adapter = decode_adapter((run / "adapters" / f"{name}.safetensors").read_bytes())
        value = record["strength"][name]["strength"]
        assert adapter.manifest.strength == value
        assert adapter.manifest.training["strength"] == record["strength"][name]
        if value == 0.0:
            assert (adapter.manifest.kind, np.abs(adapter.tensors["tower.0.up"]).max()) == ("lora", 0.0)
            mine = predictions.domain == i
            logits = predictions.logits
            np.testing.assert_array_equal(logits["multi_lora"][mine], logits["backbone"][mine])
    other = again(small_world, finished, tmp_path / "other", artifact_dtype="float32")
    assert json.loads((other / "report.json").read_text())["training"]["strength"] == {}
    assert contents(other).keys() == contents(run).keys()


def test_single_run_publishes_weakened_adapters(small_world: Path, tmp_path: Path) -> None:
    """Law: an adapter that stands alone is published with its strength folded in, and scores as the predictions say."""
    wild = {"lr": 0.1, "batch_rows": 128, "epochs": 2, "dropout": 0.0}
    changes: dict[str, Any] = {"fusion": {"mode": "single"}, "select": "last_epoch", "artifact_dtype": "float32"}
    config = small_config(small_world, strength=SEARCH.model_dump(), adapters=wild, export_ablations=False, **changes)
    run = train_all(config, tmp_path / "run")
    opened = Run(config, run, _silent())
    pretrained = opened.pretrained()
    predictions = read_predictions(run)
    strengths = []
    for i, name in enumerate(predictions.domains):
        found = decode_adapter((run / "adapters" / f"{name}.safetensors").read_bytes())
        strengths.append(found.manifest.strength)
        own = opened.adapters(pretrained)[i].adapter
        own.load_tensors({key: torch.tensor(value) for key, value in found.tensors.items() if "golden" not in key})
        rows = opened.rows.of_domain(opened.positions.test, 0, i)
        logits = logits_of(rows, lambda part, own=own: pretrained.backbone(opened.rows.batch(part), own))
        np.testing.assert_allclose(logits, predictions.logits["multi_lora"][predictions.domain == i], rtol=0, atol=1e-4)
    assert any(value < 1.0 for value in strengths)


def _silent() -> Any:
    from training.progress import SilentMeter

    return SilentMeter()
