"""Structures: what they touch, what is theirs, and a LoRA as theta_i."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from network.backbone import Backbone
from network.lora import DomainAdapter
from tests.training.frameworks.settings import SmallData, differing
from training.baselines.table import build_baseline
from training.errors import ConfigError
from training.frameworks.config import LoraConfig
from training.frameworks.inner import LabelledBatch
from training.frameworks.lora import LoraStructure
from training.frameworks.mamdr import mamdr
from training.frameworks.moments import remeasure
from training.frameworks.scoring import auc_by_thresholds
from training.frameworks.structure import TABLE
from training.seeds import Stream


def lora_structure(data: SmallData, norm: bool = False) -> LoraStructure:
    with Stream(0, ("structure",)).ambient():
        return LoraStructure(Backbone(data.shape(norm)), LoraConfig(ranks=(2, 2)))


def test_touched_rows_are_those_that_occur(small_data: SmallData) -> None:
    """Law: a batch touches exactly the rows of the table that occur in it, padding left out, sorted and once each."""
    structure = small_data.structure()
    batch = small_data.rows.batch(torch.arange(0, 300, 7))
    expected = structure.embeddings.occurrences(batch).nonzero().squeeze(1)
    assert structure.touched(batch).tolist() == expected.tolist()


def test_domains_have_the_rows_of_the_split(small_data: SmallData) -> None:
    """Law: each part of the split falls apart into its domains' rows, in ascending order, nothing twice."""
    domains = small_data.domains(10**6)
    for parts, whole in ((domains.train, small_data.split.train), (domains.test, small_data.split.test)):
        assert sorted(torch.cat(parts).tolist()) == whole.tolist()
        for domain, part in enumerate(parts):
            assert (small_data.rows.domains[part, 0] == domain).all()
            assert (part[1:] > part[:-1]).all()
    left = domains.without(domains.names[:1])
    assert left.trained == (1, 2)
    assert len(left.test[0]) == len(domains.test[0])
    with pytest.raises(ConfigError, match="theme-77"):
        domains.without(["theme-77"])


def test_dense_parameters_are_all_but_the_table(small_data: SmallData) -> None:
    """Law: theta is the dense parameters and the one table, each once."""
    structure = small_data.structure(norm=True)
    names = {name for name, _ in structure.named_parameters()}
    assert names == {TABLE, *structure.shared_names()}
    assert sum(p.numel() for p in structure.dense_parameters()) == sum(
        value.numel() for name, value in structure.theta().items() if name != TABLE
    )
    assert {name.rsplit(".", 1)[1] for name in structure.moments()} == {"mean", "var"}
    assert not small_data.structure().moments()


def test_moments_are_the_rows_own(small_data: SmallData) -> None:
    """Law: measured anew, a norm's moments are the mean over batches of the batches' own, without dropout."""
    structure = small_data.structure(norm=True, dropout=0.9)
    values = structure.theta()
    setting = small_data.setting(structure)
    batches = [setting.labelled(rows) for rows in torch.split(torch.arange(0, 400), 100)]
    tiny = LabelledBatch(batches[0].inputs.take(torch.arange(5)), batches[0].domain[:5], batches[0].label[:5])
    found = remeasure(structure, values, structure.moments(), [*batches, tiny])
    first = structure.backbone.linears[0]
    means, variances = [], []
    for batch in batches:
        h = first(structure.embeddings(batch.inputs)).detach().double().numpy()
        means.append(h.mean(0))
        variances.append(h.var(0, ddof=1))
    np.testing.assert_allclose(found["backbone.plain.norms.0.mean"], np.mean(means, 0), atol=1e-5)
    np.testing.assert_allclose(found["backbone.plain.norms.0.var"], np.mean(variances, 0), rtol=1e-4, atol=1e-6)
    assert all(norm.momentum == 0.1 for norm in structure.norms())


def test_a_norm_of_one_domain_counts_its_own_batches(small_data: SmallData) -> None:
    """Law: a norm's moments are the mean over the batches that it saw enough rows of, however many there were."""
    structure = build_baseline("star", small_data.shape(norm=True), 3, {"norm_at": "input"})
    setting = small_data.setting(structure)
    first, second, _ = setting.domains.train
    parts = [{0: first[:64]}, {0: first[64:74], 1: second[:40]}, {0: first[74:114], 1: second[40:55]}]
    batches = [setting.labelled(torch.cat(list(part.values()))) for part in parts]
    before = structure.moments()
    found = remeasure(structure, structure.theta(), before, batches)
    for domain in (0, 1):
        seen = [part[domain] for part in parts if len(part.get(domain, ())) >= 32]
        x = [structure.embeddings(setting.rows.batch(rows)).detach().double().numpy() for rows in seen]
        own = f"input_norm.own.{domain}"
        np.testing.assert_allclose(found[f"{own}.mean"], np.mean([one.mean(0) for one in x], 0), atol=1e-5)
        variances = [one.var(0, ddof=1) for one in x]
        np.testing.assert_allclose(found[f"{own}.var"], np.mean(variances, 0), rtol=1e-4, atol=1e-6)
    assert torch.equal(found["input_norm.own.2.mean"], before["input_norm.own.2.mean"])
    assert all(norm.momentum == 0.1 for norm in structure.norms())


def test_every_theta_has_moments_of_its_own(small_data: SmallData) -> None:
    """Law: with norms, theta_S and each theta_S + theta_i are scored by moments measured on their own weights."""
    setting = small_data.setting(small_data.structure(norm=True), regularization={"gamma": 1.0}, inner={"lr": 0.02})
    framework = mamdr(setting)
    state = framework.start()
    framework.epoch(state, 1)
    start = setting.structure.moments()
    assert set(state.moments) == set(start)
    for domain, own in state.specifics.items():
        assert set(own.moments) == set(state.moments)
        assert differing(own.moments, state.moments, 1e-3)
        assert state.moments_of(domain) is own.moments


@pytest.mark.parametrize("norm", [False, True])
def test_an_untouched_lora_is_the_backbone(small_data: SmallData, norm: bool) -> None:
    """Law: theta_S alone, and with a theta_i that nothing has trained, scores as the backbone, bit for bit."""
    structure = lora_structure(small_data, norm).eval()
    setting = small_data.setting(structure, specific="lora", lora={"ranks": [2, 2]})
    state = mamdr(setting).start()
    batch = small_data.rows.batch(torch.arange(64))
    domain = small_data.rows.domains[:64, 0]
    with torch.no_grad():
        expected = structure.backbone(batch)
        assert torch.equal(structure.under(state.shared, batch, domain), expected)
        assert torch.equal(structure.under(state.weights_of(1), batch, domain), expected)
    drawn = [own.dense["layer.loras.0.down"] for own in state.specifics.values()]
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("norm", [False, True])
def test_negotiation_has_the_backbone_and_regularization_the_lora(small_data: SmallData, norm: bool) -> None:
    """Law: theta_S holds zeros for the LoRA; theta_i is U, D, s, b, and gamma, beta where there are norms."""
    structure = lora_structure(small_data, norm)
    setting = small_data.setting(
        structure, specific="lora", lora={"ranks": [2, 2]}, inner={"lr": 0.02}, regularization={"gamma": 1.0}
    )
    framework = mamdr(setting)
    state = framework.start()
    framework.epoch(state, 1)
    loras = [name for name in state.shared if ".loras." in name]
    assert len(loras) == 8
    assert not any(state.shared[name].any() for name in loras)
    assert differing(state.shared, structure.theta())
    norms = [name for name in state.shared if ".norms." in name]
    assert bool(norms) == norm
    for own in state.specifics.values():
        assert set(own.dense) == {*loras, *norms}
        assert own.dense["layer.loras.0.up"].any()
        assert not norm or own.dense["backbone.plain.norms.0.weight"].abs().max() < 0.5, "relative to theta_S"


@pytest.mark.parametrize("norm", [False, True])
def test_an_exported_lora_scores_as_theta_s_plus_theta_i(small_data: SmallData, norm: bool) -> None:
    """Law: the ordinary adapter, its norms absolute, on the backbone of theta_S gives the domain's logits."""
    structure = lora_structure(small_data, norm)
    setting = small_data.setting(
        structure, specific="lora", lora={"ranks": [2, 2]}, inner={"lr": 0.02}, regularization={"gamma": 1.0}
    )
    framework = mamdr(setting)
    state = framework.start()
    framework.epoch(state, 1)
    with torch.no_grad():
        for name, parameter in structure.named_parameters():
            parameter.copy_(state.shared[name])
    structure.load_moments(state.moments)
    rows = torch.arange(64)
    batch, domain = small_data.rows.batch(rows), small_data.rows.domains[rows, 0]
    adapter = structure.adapter(structure.backbone, state, 1)
    assert isinstance(adapter, DomainAdapter)
    with torch.no_grad():
        served = structure.backbone.eval()(batch, adapter)
        structure.load_moments(state.moments_of(1))
        own = structure.eval().under(state.weights_of(1), batch, domain)
    torch.testing.assert_close(served, own, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(own, structure.under(state.shared, batch, domain), atol=1e-4)


def test_thresholds_come_near_the_exact_auc() -> None:
    """Law: 500 thresholds give sklearn's AUC to their resolution; scores between two thresholds count as equal."""
    generator = np.random.default_rng(0)
    logit = generator.normal(size=4000)
    label = (generator.random(4000) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    assert auc_by_thresholds(label, logit) == pytest.approx(roc_auc_score(label, logit), abs=2e-3)
    close = np.array([0.0001, 0.0002, 0.0003, 0.0004])
    assert auc_by_thresholds(np.array([0, 1, 0, 1], np.float32), close) == pytest.approx(0.5)
    assert auc_by_thresholds(np.array([0, 1], np.float32), np.array([-3.0, 3.0])) == pytest.approx(1.0)
    assert auc_by_thresholds(np.array([1, 0], np.float32), np.array([-3.0, 3.0])) == pytest.approx(0.0)
    assert auc_by_thresholds(np.ones(3, np.float32), np.zeros(3)) is None
