"""Networks whose norms are a domain's own are mixed batch by batch, and the norms have that domain's moments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from network.norm import DomNorm
from training.baselines.table import build_baseline
from training.batches import RowTensors, shape_of
from training.config import BackboneConfig
from training.dataset import encode, split_of
from training.frameworks.alternate import Mix
from training.frameworks.config import MamdrConfig
from training.frameworks.domains import DomainRows
from training.frameworks.setting import Setting
from training.prepared import PreparedDataset
from training.seeds import Stream


@pytest.fixture(scope="module")
def setting_of(small_world: Path) -> dict[str, Setting]:
    """STAR, and a network that mixes rows, on domains of 900, 90 and 40 training rows."""
    prepared = PreparedDataset.load(small_world)
    split = split_of(prepared, 0)
    dataset = encode(prepared, split.train, 3)
    rows = RowTensors(dataset)
    found = DomainRows.of(rows, split)
    train = tuple(part[:count] for part, count in zip(found.train, (900, 90, 40), strict=True))
    domains = DomainRows(found.names, train, found.stop, found.gate, found.test)
    config = MamdrConfig.model_validate({"framework": "mix", "batch_rows": 64, "inner": {"lr": 1e-2}})
    shape = shape_of(dataset.fields, BackboneConfig(width=3, tower=(6, 4), embedding_std=0.5), 0.0)
    settings = {}
    for name in ("star", "shared_bottom"):
        with Stream(0, (name,)).ambient():
            built = build_baseline(name, shape, len(domains), {})
        settings[name] = Setting(built, rows, domains, config, Stream(0))
    return settings


def test_star_is_mixed_batch_by_batch(setting_of: dict[str, Setting]) -> None:
    """Law: a batch has rows of one domain, batches of domains are mixed, and a pass has every row once."""
    setting = setting_of["star"]
    batches = setting.mixed(Stream(3))
    owners = [set(setting.rows.domains[batch, 0].tolist()) for batch in batches]
    assert all(len(owner) == 1 for owner in owners)
    assert owners != sorted(owners, key=min)
    assert sorted(torch.cat(list(batches)).tolist()) == sorted(torch.cat(setting.domains.train).tolist())
    other = setting_of["shared_bottom"].mixed(Stream(3))
    assert any(len(set(setting.rows.domains[batch, 0].tolist())) == 3 for batch in other)


def test_a_small_domains_norm_has_its_rows_moments(setting_of: dict[str, Setting]) -> None:
    """Law: after an epoch the norm at the input of a domain with 40 rows, a 25th of all, has moved to their moments."""
    setting = setting_of["star"]
    framework = Mix(setting)
    state = framework.start()
    framework.epoch(state, 1)
    setting.structure.load_moments(state.moments)
    with torch.no_grad():
        for name, value in setting.structure.named_parameters():
            value.copy_(state.shared[name])
    norms = setting.structure.input_norm.own  # type: ignore[union-attr]  # STAR has it
    for domain, norm in enumerate(norms):
        assert isinstance(norm, DomNorm)
        with torch.no_grad():
            x = setting.structure.embeddings(setting.labelled(setting.domains.train[domain]).inputs)
        assert torch.allclose(norm.mean, x.mean(0), atol=0.02)
        assert not torch.equal(norm.var, torch.ones_like(norm.var))
