"""Laws of `espalier data build`: a folder that training can load, or one clear line on what is wrong."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cli.data import app
from tests.training.sources import test_ali_ccp
from training.dataset import split_of
from training.prepared import PreparedDataset
from training.sources.clicklog import ClickWorld, write_click_log

WORLD = ClickWorld(seed=3, themes=11, users=60, items=80, clicks=900, items_per_theme=40)


def test_a_set_is_built_with_its_split(tmp_path: Path) -> None:
    """Law: --any-size lets a small log pass; the screen tells every domain and the parts; training takes the split."""
    write_click_log(tmp_path / "source", WORLD)
    command = ["build", "taobao-10", "--source", str(tmp_path / "source"), "--out", str(tmp_path / "data")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "instead of 23,778" in refused.stderr
    assert "--any-size" in refused.stderr
    assert not (tmp_path / "data").exists()
    result = CliRunner().invoke(app, [*command, "--any-size", "--seed", "3"])
    assert result.exit_code == 0, result.output
    prepared = PreparedDataset.load(tmp_path / "data")
    assert len(prepared.spec.natural.domains) == 10
    assert all(f"{domain}: " in result.output for domain in prepared.spec.natural.domains)
    split = split_of(prepared, 0)
    assert f"{len(split.train):,} train" in result.output
    assert len(split.test) == prepared.spec.facts["parts"]["test"] > 0
    assert not any(field.vectors for field in prepared.spec.fields)
    other = [*command[:-1], str(tmp_path / "given"), "--any-size", "--vectors"]
    assert CliRunner().invoke(app, other).exit_code == 0
    assert [field.vectors for field in PreparedDataset.load(tmp_path / "given").spec.fields if field.vectors] != []


def test_an_unknown_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """Law: a wrong name is a usage error that lists the right ones."""
    command = ["build", "taobao-40", "--source", str(tmp_path), "--out", str(tmp_path / "data")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "taobao-30" in result.stderr


def test_a_missing_source_ends_with_one_line_and_no_folder(tmp_path: Path) -> None:
    """Law: no stack trace: file, fault and remedy on stderr, exit status 1."""
    for name, file in (("amazon-13", "Arts_Crafts_and_Sewing_5.json.gz"), ("taobao-30", "theme_click_log.csv")):
        command = ["build", name, "--source", str(tmp_path / "nowhere"), "--out", str(tmp_path / "data")]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert f"{file}: is missing" in result.stderr
        assert "Traceback" not in result.output
    assert not (tmp_path / "data").exists()


def test_a_set_that_streams_is_prepared(tmp_path: Path) -> None:
    """Law: Ali-CCP ends like the other sets: a folder that loads, its domains on the screen."""
    test_ali_ccp.write(tmp_path)
    command = ["prepare", "ali-ccp", "--source", str(tmp_path), "--out", str(tmp_path / "data")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "--any-size" in refused.stderr
    result = CliRunner().invoke(app, [*command, "--any-size"])
    assert result.exit_code == 0, result.output
    assert "scenario-5" in result.output
    assert PreparedDataset.load(tmp_path / "data").spec.natural.domains == ("scenario-5", "scenario-6")


def test_a_set_that_must_be_got_by_hand_says_where(tmp_path: Path) -> None:
    """Law: one line with the page and the reason, exit status 1, nothing fetched."""
    result = CliRunner().invoke(app, ["fetch", "taobao-10", "--out", str(tmp_path / "files")])
    assert result.exit_code == 1
    assert "get it from https://tianchi.aliyun.com/dataset/9716" in result.stderr
    assert not (tmp_path / "files").exists()
