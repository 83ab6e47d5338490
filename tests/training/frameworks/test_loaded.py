"""Laws of rows that several runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from training.errors import ConfigError
from training.frameworks.config import MamdrConfig
from training.frameworks.loaded import Loaded
from training.frameworks.run import MamdrRun
from training.progress import SilentMeter


def config_of(data: Path | None, **changes: Any) -> MamdrConfig:
    """A small network over a prepared folder."""
    return MamdrConfig.model_validate({"data": data, "network": {"width": 4, "tower": [8]}, **changes})


def test_runs_share_rows_that_are_the_same(small_world: Path, tmp_path: Path) -> None:
    """Law: what is loaded for one run is what another of the same data, seed, width and domains reads itself."""
    loaded = Loaded.of(config_of(small_world), tmp_path)
    config = config_of(small_world, framework="dn", epochs=3)
    given = MamdrRun(config, tmp_path, SilentMeter(), loaded)
    own = MamdrRun(config, tmp_path, SilentMeter())
    assert given.rows is loaded.rows
    assert torch.equal(given.rows.label, own.rows.label)
    assert all(map(torch.equal, given.setting.domains.train, own.setting.domains.train))
    assert given.memory("any").identity == own.memory("any").identity


@pytest.mark.parametrize("changes", [{"seed": 1}, {"network": {"width": 8, "tower": [8]}}, {"left_out": ["theme-02"]}])
def test_rows_of_another_configuration_are_refused(small_world: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Law: another seed, width or list of left out domains asks for other rows, and is not given these."""
    with pytest.raises(ConfigError, match="the data was loaded for"):
        MamdrRun(
            config_of(small_world, **changes), tmp_path, SilentMeter(), Loaded.of(config_of(small_world), tmp_path)
        )


def test_without_data_nothing_is_loaded(tmp_path: Path) -> None:
    """Law: a configuration that names no data is refused, with the option that names it."""
    with pytest.raises(ConfigError, match="--data"):
        Loaded.of(config_of(None), tmp_path)
