"""The chooser from data to configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from tests.training.chooser.world import INFORMATIVE, NOISE, planted, planted_config
from training.chooser.choosing import choose_divisions
from training.chooser.findings import Ranking
from training.chooser.writing import write_choice
from training.config import load_config
from training.dataset import encode, split_of
from training.errors import PreparedError, RunExists, StateMismatch
from training.prepared import PreparedDataset

SEED = 0
CONFIDENCE = 0.8  # the world is small


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of 20,000 rows, its segments a mere column."""
    folder = tmp_path_factory.mktemp("planted")
    planted(SEED, 20_000).write(folder)
    return folder


@pytest.fixture(scope="module")
def chosen(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ranking]:
    """A run folder after the chooser, and its ranking; nobody may change them."""
    out = tmp_path_factory.mktemp("chosen") / "run"
    return out, choose_divisions(planted_config(world, SEED, confidence=CONFIDENCE), out)


def written(config: Any, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def test_informative_division_is_ranked_first_and_chosen(chosen: tuple[Path, Ranking]) -> None:
    """Law: of one division that means something and three that say nothing, the first is chosen, alone."""
    _, ranking = chosen
    names = [found.candidate.division.name for found in ranking.findings]
    assert names[0] == INFORMATIVE
    assert set(names[1:]) == set(NOISE)
    assert [candidate.division.name for candidate in ranking.chosen] == [INFORMATIVE]
    assert [found.fault() is None for found in ranking.findings] == [True, False, False, False]
    assert ranking.findings[0].divergence.positive()


def test_choice_is_written_into_data_and_configuration(world: Path, chosen: tuple[Path, Ranking]) -> None:
    """Law: the configuration that is written differs in its data alone, and these have the chosen division."""
    out, _ = chosen
    config = load_config(out / "divisions" / "config.yaml")
    before = planted_config(world, SEED, confidence=CONFIDENCE)
    assert config.data is not None
    assert config == before.model_copy(update={"data": out / "divisions" / "prepared"})
    prepared = PreparedDataset.load(config.data)
    assert [division.name for division in prepared.spec.divisions] == ["theme", INFORMATIVE]
    split = split_of(prepared, SEED)
    domain = encode(prepared, split.train, 4).division[INFORMATIVE]
    assert set(np.unique(domain)) == {0, 1, 2, 3}
    assert prepared.users.columns == PreparedDataset.load(world).users.columns
    assert INFORMATIVE in (out / "divisions" / "config.yaml").read_text().splitlines()[0]


def test_table_holds_every_candidate_with_its_interval(chosen: tuple[Path, Ranking]) -> None:
    """Law: table.json and table.md hold all candidates, the best first, each with value, low and high."""
    out, ranking = chosen
    record = json.loads((out / "divisions" / "table.json").read_text())
    assert record["chosen"] == [INFORMATIVE]
    assert list(record["candidates"]) == [found.candidate.division.name for found in ranking.findings]
    for found in record["candidates"].values():
        for figure in ("gain", "over_backbone", "divergence"):
            assert found[figure]["low"] < found[figure]["value"] < found[figure]["high"]
    page = (out / "divisions" / "table.md").read_text()
    assert page.index(f"| {INFORMATIVE} |") < page.index(f"| {NOISE[0]} |")


def test_finished_probes_are_taken_again(world: Path, chosen: tuple[Path, Ranking]) -> None:
    """Law: a second run is refused without `--resume`, gives the same with it, and other settings are refused."""
    out, ranking = chosen
    with pytest.raises(RunExists, match="already holds stage divisions"):
        choose_divisions(planted_config(world, SEED, confidence=CONFIDENCE), out)
    probes = {path: path.stat().st_mtime_ns for path in (out / "state" / "divisions").rglob("*.safetensors")}
    assert len(probes) == 4 * 3
    assert choose_divisions(planted_config(world, SEED, confidence=CONFIDENCE), out, resume=True) == ranking
    assert probes == {path: path.stat().st_mtime_ns for path in probes}
    with pytest.raises(StateMismatch, match=r"divisions.epochs was 2, is now 3"):
        choose_divisions(planted_config(world, SEED, confidence=CONFIDENCE, epochs=3), out, resume=True)


def test_probes_of_other_bands_are_not_taken(tmp_path: Path) -> None:
    """Law: probes of domains of the same names with other users in them are refused: two cuts of one column."""
    prepared = planted(SEED, 9_000)
    count = prepared.interactions["user_id"].value_counts().sort("user_id")
    share = np.cumsum(count["count"].to_numpy()) / len(prepared.interactions)
    level = pl.DataFrame({"user_id": count["user_id"], "level": np.digitize(share, [0.42, 0.58]).astype(float)})
    users = prepared.users.join(level, on="user_id", how="left", maintain_order="left")
    replace(prepared, users=users).write(tmp_path / "data")
    settings = {"columns": ["level"], "epochs": 1, "min_rows": 1, "confidence": 0.5}
    two, three = (planted_config(tmp_path / "data", SEED, bands=bands, **settings) for bands in (2, 3))
    found = choose_divisions(two, tmp_path / "run")
    assert [each.candidate.division.domains for each in found.findings] == [("level-band-1", "level-band-2")]
    with pytest.raises(StateMismatch, match="assignment was"):
        choose_divisions(three, tmp_path / "run", resume=True)
    assert choose_divisions(two, tmp_path / "run", resume=True) == found


def test_made_columns_reach_the_data(world: Path, tmp_path: Path) -> None:
    """Law: a column that was made for a chosen division stands in the data that is written, and no other one does."""
    settings = {"columns": ["price"], "clusters": 3, "confidence": 0.5, "most": 5, "rows": 2_000, "epochs": 1}
    config = planted_config(world, SEED, **settings)
    ranking = choose_divisions(config, tmp_path / "run")
    prepared = PreparedDataset.load(tmp_path / "run" / "divisions" / "prepared")
    names = {found.candidate.division.name for found in ranking.findings}
    assert {"price-band", "user-cluster", "item-cluster"} <= names
    made = {each.column for each in ranking.chosen} & set(prepared.items.columns + prepared.users.columns)
    assert made == {each.column for each in ranking.chosen if each.column}
    before = PreparedDataset.load(world)
    more = {*prepared.items.columns, *prepared.users.columns} - {*before.items.columns, *before.users.columns}
    assert more == made
    assert prepared.interactions.equals(before.interactions)


def test_folder_that_cannot_be_written_is_named(world: Path, chosen: tuple[Path, Ranking], tmp_path: Path) -> None:
    """Law: where a file stands in the way, the error names the folder, and no configuration is left."""
    (tmp_path / "divisions").write_text("")
    prepared = PreparedDataset.load(world)
    with pytest.raises(PreparedError, match=r"cannot write .*divisions"):
        write_choice(chosen[1], prepared, prepared, planted_config(world, SEED), tmp_path / "divisions")


def test_data_without_validation_rows_are_refused(world: Path, tmp_path: Path) -> None:
    """Law: where nothing is held out there is nothing to judge by, and that is said before anything is trained."""
    prepared = PreparedDataset.load(world)
    held = replace(prepared, interactions=prepared.interactions.with_columns(split=pl.lit("train")))
    held.write(tmp_path / "data")
    with pytest.raises(PreparedError, match="no validation rows"):
        choose_divisions(planted_config(tmp_path / "data", SEED), tmp_path / "run")
    assert not (tmp_path / "run" / "state" / "pretrain.safetensors").exists()


def test_command_shows_the_choice(world: Path, chosen: tuple[Path, Ranking]) -> None:
    """Law: `espalier train divisions` prints each candidate and where the configuration is."""
    out, _ = chosen
    options = [
        "--config",
        str(written(planted_config(world, SEED, confidence=CONFIDENCE), world)),
        "--out",
        str(out),
        "--resume",
    ]
    result = CliRunner().invoke(app, ["train", "divisions", *options])
    assert result.exit_code == 0, result.output
    shown = result.output.replace("\n", "")
    for text in (f"auxiliary divisions: {INFORMATIVE}, of 4 candidates", *NOISE, "configuration: "):
        assert text in shown


def test_command_without_data_ends_in_one_line(tmp_path: Path) -> None:
    """Law: a mistake ends with code 1 and a line that says what to do."""
    (tmp_path / "config.yaml").write_text("divisions: {most: 2}\n")
    result = CliRunner().invoke(
        app, ["train", "divisions", "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 1
    assert "--data" in result.stderr
    assert "Traceback" not in result.output
