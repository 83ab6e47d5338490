"""The strength of a domain's own adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from network.backbone import Backbone
from network.inputs import Batch, FieldShape, NetworkShape
from network.lora import DomainAdapter, LoraStart, domain_generator
from training.artifacts_of import Choice
from training.strength import Strength, at_strength, levels, line, search

Floats = NDArray[np.float64]

SHAPE = NetworkShape(
    fields=(FieldShape("a", "sparse", 20, 0), FieldShape("b", "sparse", 9, 0)),
    width=4,
    tower=(10, 6),
    dropout=0.0,
    embedding_std=1.0,
)


def scene(seed: int) -> tuple[Backbone, DomainAdapter, Batch]:
    """A backbone and an adapter, every tensor of both drawn at random, in float64; and 50 rows."""
    torch.manual_seed(seed)
    backbone = Backbone(SHAPE).double()
    adapter = DomainAdapter.untrained(backbone, (3, 2), domain_generator(seed, "d", "x"), start=LoraStart()).double()
    with torch.no_grad():
        for name, value in [*backbone.state_dict().items(), *adapter.state_dict().items()]:
            value.copy_(torch.rand_like(value) + 0.5 if name.endswith("var") else torch.randn_like(value))
    sparse = torch.stack([torch.randint(0, 20, (50,)), torch.randint(0, 9, (50,))], dim=1)
    return backbone.freeze(), adapter.requires_grad_(False).eval(), Batch(sparse, torch.empty(50, 0), {})


def numpy_of(tensors: dict[str, torch.Tensor]) -> dict[str, Floats]:
    return {name: value.double().numpy() for name, value in tensors.items()}


def oracle(backbone: Backbone, adapter: DomainAdapter, batch: Batch, t: float) -> Floats:
    """Logits at strength t, layer by layer as methods.md 2 says it."""
    base, own = numpy_of(backbone.weights()), numpy_of(adapter.tensors())
    columns = batch.sparse.numpy()
    x = np.concatenate([base["embedding.a"][columns[:, 0]], base["embedding.b"][columns[:, 1]]], axis=1)
    for level in range(2):
        name = f"tower.{level}"
        lora = own[f"{name}.scale"] * (x @ own[f"{name}.down"].T @ own[f"{name}.up"].T) + own[f"{name}.shift"]
        h = x @ base[f"{name}.weight"].T + base[f"{name}.bias"] + t * lora
        maps: list[Any] = []
        for part in (base, own):
            gain = part[f"{name}.norm.weight"] / np.sqrt(part[f"{name}.norm.var"] + SHAPE.norm_eps)
            maps.append(gain * h + part[f"{name}.norm.bias"] - gain * part[f"{name}.norm.mean"])
        x = np.maximum((1 - t) * maps[0] + t * maps[1], 0.0)
    return np.asarray((x @ base["output.weight"].T + base["output.bias"])[:, 0])


@pytest.mark.parametrize("t", [0.0, 0.25, 0.7, 1.0])
def test_folded_strength_is_the_formula(t: float) -> None:
    """Law: an adapter with its strength folded in gives the logits of t * h_LoRA under the mixed map of the norms."""
    backbone, adapter, batch = scene(3)
    found = backbone(batch, at_strength(adapter, backbone, t)).numpy()
    np.testing.assert_allclose(found, oracle(backbone, adapter, batch, t), rtol=1e-10, atol=1e-10)


def test_ends_are_the_backbone_and_the_adapter() -> None:
    """Law: strength 0 gives the backbone's logits and 1 the adapter's, bit for bit, in float32 too."""
    backbone, adapter, batch = scene(4)
    backbone, adapter = backbone.float(), adapter.float()
    own = backbone(batch, adapter)
    assert torch.equal(backbone(batch, at_strength(adapter, backbone, 0.0)), backbone(batch))
    assert torch.equal(backbone(batch, at_strength(adapter, backbone, 1.0)), own)
    assert not torch.equal(own, backbone(batch))


def test_adapter_itself_is_not_changed() -> None:
    """Law: the copy shares no memory with the adapter."""
    backbone, adapter, _ = scene(5)
    before = {name: value.clone() for name, value in adapter.tensors().items()}
    at_strength(adapter, backbone, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in adapter.tensors().items())


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_strength_outside_is_refused(t: float) -> None:
    """Law: a strength below 0, above 1 or not a number is refused."""
    backbone, adapter, _ = scene(6)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        at_strength(adapter, backbone, t)


def drawn(signals: tuple[float, ...], rows: tuple[int, ...]) -> tuple[Floats, NDArray[np.int64], dict[float, Floats]]:
    """Rows of domains for which a share of the adapter's logit is right: strength `signal` is the best."""
    draw = np.random.default_rng(0)
    domain = np.repeat(np.arange(len(rows)), rows)
    logit = draw.normal(size=len(domain)) * 2.0
    chance = 1 / (1 + np.exp(-np.array(signals)[domain] * logit))
    label = (draw.random(len(domain)) < chance).astype(np.float64)
    return label, domain, {t: t * logit for t in (0.0, 0.25, 0.5, 0.75, 1.0)}


def test_each_domain_gets_the_strength_that_its_rows_ask_for() -> None:
    """Law: with many rows, a domain whose adapter misleads gets 0, one that it half helps 0.5, one it helps 1."""
    label, domain, logits = drawn((-0.5, 0.5, 1.0), (8_000, 8_000, 8_000))
    found = search(label, domain, ("bad", "half", "good"), logits, prior_rows=200)
    assert {name: each.value for name, each in found.items()} == {"bad": 0.0, "half": 0.5, "good": 1.0}
    assert found["half"].rows == 8_000
    mine = domain == 1
    expected = np.mean(np.log1p(np.exp(-(2 * label[mine] - 1) * logits[0.25][mine])))
    assert found["half"].losses[0.25] == pytest.approx(expected)


def test_few_rows_follow_the_others() -> None:
    """Law: a domain with no row or few takes what is best for all, whatever its few rows say."""
    label, domain, logits = drawn((1.0, -5.0, 1.0), (5_000, 3, 0))
    found = search(label, domain, ("large", "tiny", "none"), logits, prior_rows=200)
    assert [found[name].value for name in ("large", "tiny", "none")] == [1.0, 1.0, 1.0]
    assert found["none"].losses == {}
    assert search(label, domain, ("large", "tiny", "none"), logits, prior_rows=1e-6)["tiny"].value == 0.0


def test_rows_of_no_domain_do_not_count() -> None:
    """Law: rows outside every domain move no strength; of equal strengths the weaker is taken."""
    label, domain, logits = drawn((1.0, -1.0), (500, 5_000))
    outside = np.where(domain == 1, -1, domain)
    assert search(label, outside, ("a",), logits, prior_rows=200)["a"].value == 1.0
    equal = dict.fromkeys((0.0, 0.5, 1.0), logits[0.5])
    assert search(label, outside, ("a",), equal, prior_rows=200)["a"].value == 0.0


def test_only_an_adapter_that_stands_alone_has_strengths_between() -> None:
    """Law: `single` is searched in steps, a fused one is taken or left, and the backbone is the backbone."""
    assert levels("single", 4) == (0.0, 0.25, 0.5, 0.75, 1.0)
    fused: tuple[Choice, ...] = ("attention", "avg", "add")
    assert {levels(mode, 4) for mode in fused} == {(0.0, 1.0)}
    assert levels("backbone", 4) == (0.0,)


def test_line_counts_domains() -> None:
    """Law: the outcome says how many are as trained, weakened, and left to the backbone."""
    found = {str(i): Strength(t, 1, {}) for i, t in enumerate((0.0, 0.5, 0.25, 1.0, 1.0, 1.0))}
    assert line(found) == "strength: 3 domains as trained, 2 weakened, 1 left to the backbone"
    assert found["1"].record() == {"strength": 0.5, "rows": 1, "losses": []}
