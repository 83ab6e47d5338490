"""`espalier train adapters --packs i/n`."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cli.main import app
from cli.train import share_of


def test_share_is_read() -> None:
    """Law: i/n is two numbers; anything else is refused and shown."""
    assert share_of("2/4") == (2, 4)
    for wrong in ("2", "2/", "/4", "a/4", "-1/4", "1/2/3", "½/1"):
        with pytest.raises(typer.BadParameter, match="is no share"):
            share_of(wrong)


def test_shares_need_packs(tmp_path: Path) -> None:
    """Law: without `packed` in the configuration the command ends in an error that says what to set."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": str(tmp_path)}))
    options = ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"), "--packs", "1/2"]
    result = CliRunner().invoke(app, ["train", "adapters", *options])
    assert result.exit_code != 0
    assert "set `packed`" in result.output


@pytest.mark.parametrize("stage", ["adapters", "all"])
def test_a_ray_cluster_needs_packs(tmp_path: Path, stage: str) -> None:
    """Law: without `packed` in the configuration --ray, with or without an address, says what to set; no Ray starts."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": str(tmp_path)}))
    options = ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"), "--ray"]
    result = CliRunner().invoke(app, ["train", stage, *options, "--workers", "3"])
    assert result.exit_code == 1
    assert "`packed`" in result.output


def test_a_share_is_not_for_a_cluster(tmp_path: Path) -> None:
    """Law: --ray with --packs is a wrong use."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": str(tmp_path)}))
    options = ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"), "--ray", "--packs", "1/2"]
    result = CliRunner().invoke(app, ["train", "adapters", *options])
    assert result.exit_code == 2
    assert "leave --packs out" in result.output
