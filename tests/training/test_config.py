"""The training configuration: checked before anything runs, every fault named."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import TrainingConfig, load_config
from training.errors import ConfigError

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "training" / "configs").glob("*.yaml"))
PACKAGED = [path for path in SHIPPED if not path.stem.startswith("mamdr-")]
"""Of the three stages; those of MAMDR are held by tests/training/frameworks."""


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_packaged_configuration_is_valid(path: Path) -> None:
    """Law: every configuration that we ship loads."""
    assert isinstance(load_config(path), TrainingConfig)


def test_packaged_configurations_are_found() -> None:
    """Law: the test above looks at real files."""
    assert {"synthetic", "movielens-1m"} <= {path.stem for path in PACKAGED}


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("sed: 1", "sed", "seed"),
        ("pretrain: {batch_row: 5}", "pretrain.batch_row", "batch_rows"),
        ("adapter: {rank: [8, 8]}", "adapter.rank", "ranks"),
        ("fusion: {devisor: r}", "fusion.devisor", "divisor"),
        ("gate: {polici: none}", "gate.polici", "policy"),
        ("calibration: {methods: none}", "calibration.methods", "method"),
    ],
)
def test_unknown_key_is_refused_with_the_near_one(tmp_path: Path, text: str, key: str, meant: str) -> None:
    """Law: an unknown key is an error that names it in full and suggests the known key nearest to it."""
    with pytest.raises(ConfigError, match=f"{key} is no known key; did you mean '{meant}'"):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("pretrain: {lr: -1}", "pretrain.lr"),
        ("pretrain: {lr: .nan}", "pretrain.lr"),
        ("pretrain: {dropout: 1.0}", "pretrain.dropout"),
        ("backbone: {tower: []}", "backbone.tower"),
        ("fusion: {mode: sum}", "fusion.mode"),
        ("select: first", "select"),
        ("gate: {policy: enforce}", "gate.policy"),
        ("gate: {q: 0}", "gate.q"),
        ("calibration: {negatives_kept: 0}", "calibration.negatives_kept"),
        ("seed: -1", "seed"),
    ],
)
def test_wrong_value_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    """Law: a value out of range is an error that names its key."""
    with pytest.raises(ConfigError, match=named):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize("section", ["adapter", "fusion"])
def test_ranks_must_fit_the_tower(tmp_path: Path, section: str) -> None:
    """Law: there is one rank for each hidden layer."""
    with pytest.raises(ConfigError, match=rf"{section}.ranks has 3 numbers for 2 hidden layers"):
        load_config(written(tmp_path, f"{section}: {{ranks: [8, 8, 8]}}"))


@pytest.mark.parametrize("text", ["a: [", "- 1", "just words"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """Law: a file that is no YAML, or no mapping, is a ConfigError that names the file."""
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(written(tmp_path, text))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """Law: a file that is not there is a ConfigError that names it."""
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_override_replaces_the_file(tmp_path: Path) -> None:
    """Law: an override that is not None wins over the file; None leaves the file's value."""
    config = load_config(written(tmp_path, "seed: 3\ndata: here"), seed=7, data=None)
    assert (config.seed, config.data) == (7, Path("here"))
