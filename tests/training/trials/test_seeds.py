"""What a table over seeds is made of: configurations of either kind, seeds, data, and the files that tell it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.reporting.reader import PageReader
from tests.training.trials.planned import Training, trial
from training.config import TrainingConfig
from training.errors import ConfigError
from training.frameworks.config import MamdrConfig
from training.progress import SilentMeter
from training.trials.seeds import read_any, trials_of, write_seeds
from training.trials.sitting import Sitting
from training.trials.table import SeedsTable


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("seed: 1", TrainingConfig),
        ("pretrain: {epochs: 1}", TrainingConfig),
        ("framework: mix", MamdrConfig),
        ("structure: mmoe", MamdrConfig),
        ("regularization: {others: 1}", MamdrConfig),
        ("embeddings: deltas", MamdrConfig),
    ],
)
def test_either_kind_of_configuration_is_read(tmp_path: Path, text: str, form: type) -> None:
    """Law: the keys tell what a file configures; what replaces a key does so in both."""
    (tmp_path / "a.yaml").write_text(text)
    found = read_any(tmp_path / "a.yaml", data=tmp_path)
    assert type(found) is form
    assert found.data == tmp_path


@pytest.mark.parametrize("text", [None, "sed: 1", "framework: [", "framework: none"])
def test_a_wrong_configuration_is_refused(tmp_path: Path, text: str | None) -> None:
    """Law: the error is that of the training commands, and names the file."""
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        read_any(tmp_path / "a.yaml")


def test_a_key_too_many_is_named(tmp_path: Path) -> None:
    """Law: a file of one kind with one key of the other is read as the kind that it has more keys of."""
    (tmp_path / "a.yaml").write_text("pretrain: {epochs: 1}\nfuse: {epochs: 1}\nepochs: 3\n")
    with pytest.raises(ConfigError, match="epochs is no known key"):
        read_any(tmp_path / "a.yaml")


def test_trials_come_seed_by_seed(tmp_path: Path) -> None:
    """Law: all configurations with one seed before the next, so that what is finished early can be paired."""
    (tmp_path / "spec.json").write_text("{}")
    configs = {name: TrainingConfig(data=tmp_path, seed=7) for name in ("a", "b")}
    trials = trials_of(configs, 2, "c1")
    assert [(t.method, t.seed) for t in trials] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert trials[0].key.config == trials[1].key.config


def test_the_data_s_content_decides_and_not_its_place(tmp_path: Path) -> None:
    """Law: the same data elsewhere has the same key, other data another."""
    keys = []
    for name, text in (("a", "{}"), ("b", "{}"), ("c", "{ }")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(text)
        keys.append(trials_of({"m": TrainingConfig(data=tmp_path / name)}, 1, "c1")[0].key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("data", [None, Path("not/there")])
def test_data_that_is_not_there_is_refused(data: Path | None) -> None:
    """Law: before anything is trained, with the configuration's name and what to do."""
    with pytest.raises(ConfigError, match="wide"):
        trials_of({"wide": TrainingConfig(data=data)}, 2, "c1")


def test_an_unfinished_table_says_so(tmp_path: Path) -> None:
    """Law: page, Markdown and JSON tell how much is done, what is missing, and by which code; nothing is fetched."""
    trials = [trial(seed=seed) for seed in range(3)]
    sat = Sitting(tmp_path, Training(), SilentMeter()).run(trials, most=2)
    page = write_seeds(tmp_path, SeedsTable(sat.found), sat, trials)
    reader = PageReader(page.read_text(encoding="utf-8"))
    for text in (reader.all("body")[0].words, (tmp_path / "seeds.md").read_text(encoding="utf-8")):
        assert "2 of 3 trainings are done" in text
        assert "base seed 2" in text
        assert "c1" in text
    content = json.loads((tmp_path / "seeds.json").read_text())
    assert content["missing"] == [{"method": "base", "seed": 2}]
    assert list(content["methods"]["backbone"]["seeds"]) == ["0", "1"]
    assert not reader.all("script") + reader.all("link") + reader.all("img")
