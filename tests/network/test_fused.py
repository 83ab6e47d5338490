"""Fusion of divisions: the papers' equations, whatever else is in the batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from network.backbone import Backbone
from network.errors import ShapeError
from network.fused import FusedTower
from network.fusion import Mode
from network.grouping import Domains, frequent, group
from network.inputs import Batch
from tests.network.samples import SHAPE, backbone_of, batch_of, domains_of, tower_of

MODES: list[Mode] = ["attention", "add", "avg", "single"]


def written_out(backbone: Backbone, tower: FusedTower, batch: Batch, domains: Domains) -> Tensor:
    """Eq. 10 and 11 for rows of one tuple; the norm is looked up as docs/architecture.md says."""
    w, x = backbone.weights(), backbone.embeddings(batch)
    kept = domains[:1] if tower.mode == "single" else domains
    members = [tower.adapter(i, d).tensors() for i, d in enumerate(kept) if d >= 0]
    norms = tower.norms_of(tower.norm_name(domains))
    for level in range(2):
        at = f"tower.{level}."
        h0 = x @ w[at + "weight"].T + w[at + "bias"]
        hs = [t[at + "scale"] * (x @ t[at + "down"].T @ t[at + "up"].T) + t[at + "shift"] for t in members]
        if tower.mode == "attention":
            assert tower.fusion is not None
            query, key = tower.fusion.query[level], tower.fusion.key[level]
            divisor = len(query) if tower.fusion.divisor == "r" else len(query) ** 0.5
            energy = torch.stack([((h0 @ query.T) * (h @ key.T)).sum(1) for h in hs], dim=1) / divisor
            weights = torch.softmax(energy, dim=1)
        else:
            weights = torch.full((len(x), len(hs)), 1.0 if tower.mode == "add" else 1 / len(hs), dtype=x.dtype)
        h = h0 + sum(weights[:, i : i + 1] * h for i, h in enumerate(hs))
        norm = norms[level]
        scaled = (h - norm.mean) / (norm.var + SHAPE.norm_eps).sqrt()
        x = (scaled * norm.weight + norm.bias).clamp(min=0)
    return x @ w["output.weight"][0] + w["output.bias"]


@pytest.mark.parametrize("divisor", ["r", "sqrt_r"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(3, 2), (2, 2, 3)], ids=["two", "three"])
def test_fused_rows_follow_equations_10_and_11(mode: Mode, sizes: tuple[int, ...], divisor: str) -> None:
    """Law: in a mixed batch each row's logit is the written-out one of its tuple, missing divisions masked."""
    backbone = backbone_of().double()
    tower = tower_of(backbone, mode, sizes, divisor=divisor).double()
    batch, domains = batch_of(150), domains_of(150, sizes)
    found = tower.logits(backbone, batch, domains)
    for tuple_ in {tuple(row) for row in domains.tolist()}:
        rows = (domains == torch.tensor(tuple_)).all(1).nonzero().flatten()
        torch.testing.assert_close(found[rows], written_out(backbone, tower, batch.take(rows), tuple_))


def test_rows_without_any_adapter_are_the_backbones() -> None:
    """Law: a row outside every division scores as the backbone does, bit for bit."""
    backbone = backbone_of()
    batch = batch_of(50)
    nowhere = torch.full((50, 2), -1)
    assert torch.equal(tower_of(backbone).logits(backbone, batch, nowhere), backbone(batch))


def test_no_rows_give_no_logits() -> None:
    """Law: an empty batch has an empty answer."""
    backbone = backbone_of()
    assert tower_of(backbone).logits(backbone, batch_of(0), domains_of(0)).shape == (0,)


def test_one_division_alone_is_its_adapter() -> None:
    """Law: with the other divisions missing, every mode is the domain's own adapter."""
    backbone, batch = backbone_of(), batch_of(80)
    alone = torch.tensor([[1, -1]]).expand(80, 2)
    for mode in MODES:
        tower = tower_of(backbone, mode)
        torch.testing.assert_close(tower.logits(backbone, batch, alone), backbone(batch, tower.adapter(0, 1)))


def test_zero_key_starts_as_the_average() -> None:
    """Law: attention with WK = 0 is mode avg."""
    backbone, batch, domains = backbone_of(), batch_of(80), domains_of(80)
    zero = tower_of(backbone, "attention", zero_key=True).logits(backbone, batch, domains)
    torch.testing.assert_close(zero, tower_of(backbone, "avg").logits(backbone, batch, domains))


def test_training_moves_the_fusion_and_the_tuples_norms_alone() -> None:
    """Law: in training mode gradients reach fusion and tuples' norms; adapters and the backbone keep every moment."""
    backbone = backbone_of()
    tower = tower_of(backbone).train()
    batch, domains = batch_of(600), domains_of(600)
    still = [tower.adapter(0, 1).tensors(), backbone.weights()]
    layer = tower.bound(domains)
    backbone(batch.take(layer.grouping.order), layer).square().sum().backward()
    learned = {name for name, p in tower.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert learned == {name for name, p in tower.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learned} == {"fusion", "norms"}
    for before, after in zip(still, [tower.adapter(0, 1).tensors(), backbone.weights()], strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_missing_norms_drop_the_last_division() -> None:
    """Law: a tuple without norms of its own takes those of the tuple without its last division, down to A's own."""
    tower = tower_of(backbone_of(), sizes=(2, 2, 3))
    tower.add_norms((1, 1, 2))
    assert tower.norm_name((0, 1, 2)) == (0, 1, -1)
    assert tower.norm_name((0, -1, 2)) == (0, -1, -1)
    assert tower.norm_name((1, 1, 2)) == (1, 1, 2)
    assert tower.norm_name((1, 1, 0)) == (1, -1, -1)
    assert tower.norm_name((7, 1, 0)) == (-1, 1, -1)  # domain 7 has no adapter


def test_mode_and_fusion_must_agree() -> None:
    """Law: attention without a fusion, and a fusion without attention, are refused."""
    backbone = backbone_of()
    with pytest.raises(ShapeError, match="mode attention needs a fusion"):
        FusedTower(backbone, [{}], "attention")
    fusion = tower_of(backbone).fusion
    with pytest.raises(ShapeError, match="mode avg takes no fusion"):
        FusedTower(backbone, [{}], "avg", fusion)


tuples = st.tuples(st.integers(-1, 2), st.integers(-1, 1), st.integers(-1, 1))


@settings(max_examples=100)
@given(st.lists(tuples, min_size=1, max_size=40))
def test_grouping_covers_every_row_once(rows: list[Domains]) -> None:
    """Law: the order is a permutation, runs and norm runs cover it in order, and restoring undoes it."""
    domains = torch.tensor(rows)
    found = group(domains, lambda t: (t[0], t[1], -1))
    assert sorted(found.order.tolist()) == list(range(len(rows)))
    for runs in (found.runs, found.norm_runs):
        assert [r.start for r in runs] == [0, *(r.stop for r in runs)][:-1]
        assert runs[-1].stop == len(rows)
    for run, position in ((r, p) for r in found.runs for p in range(r.start, r.stop)):
        assert rows[found.order[position]] == run.domains
    assert len({r.domains for r in found.norm_runs}) == len(found.norm_runs)
    assert torch.equal(found.restore(domains[found.order]), domains)


@settings(max_examples=100)
@given(st.dictionaries(tuples, st.integers(1, 60), max_size=20), st.integers(1, 100))
def test_frequent_tuples_have_enough_rows(rows: dict[Domains, int], min_rows: int) -> None:
    """Law: every tuple found has >= 2 divisions and enough rows; each row's chain stops at the first that has."""
    found = set(frequent(rows, min_rows))

    def inside(part: Domains) -> int:
        return sum(n for whole, n in rows.items() if all(p in (-1, w) for p, w in zip(part, whole, strict=True)))

    for part in found:
        assert sum(d >= 0 for d in part) >= 2
        assert inside(part) >= min_rows
    for whole in rows:
        present = [i for i, d in enumerate(whole) if d >= 0]
        chain = [tuple(d if i in present[:size] else -1 for i, d in enumerate(whole)) for size in (3, 2)]
        chain = [c for c in dict.fromkeys(chain) if sum(d >= 0 for d in c) >= 2]
        first = next(itertools.dropwhile(lambda c: inside(c) < min_rows, chain), None)
        assert first is None or first in found
