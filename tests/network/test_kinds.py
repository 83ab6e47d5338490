"""Every kind of backbone: its formula, its tensors, its adapters."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from network.backbone import Backbone
from network.counts import adapter_counts, backbone_counts, fusion_counts
from network.errors import ShapeError
from network.folded import FoldedLayer, FoldedModule
from network.fused import FusedTower
from network.fusion import Fusion, Mode
from network.grouping import Domains
from network.inputs import FieldShape, Kind
from network.kinds.field_vectors import bi_interaction
from network.lora import DomainAdapter, domain_generator
from tests.network.kinds import ALL, CASES, adapter_of, domains_of, drawn, ranks_of, rows_of, shape_of, tower_of

MODES: list[Mode] = ["attention", "add", "avg", "single"]


def written_out(backbone: Backbone, adapter: DomainAdapter | None, row: int) -> float:
    """One row's logit from the formulas of docs/backbones.md, field by field."""
    shape, w = backbone.shape, backbone.weights()
    t = {} if adapter is None else adapter.tensors()
    batch = rows_of(row + 1).take(torch.tensor([row]))
    vectors, first = fields_of(backbone, row)
    x0 = torch.cat(vectors)

    def mapped(module: str, x: Tensor) -> Tensor:
        h = w[f"{module}.weight"] @ x + w.get(f"{module}.bias", torch.zeros(()))
        if f"{module}.down" in t:
            low = t[f"{module}.up"] @ (t[f"{module}.down"] @ x)
            h = h + t[f"{module}.scale"] * low + t[f"{module}.shift"]
        own = t if f"{module}.norm.mean" in t else w
        if f"{module}.norm.mean" in own:
            h = (h - own[f"{module}.norm.mean"]) / (own[f"{module}.norm.var"] + shape.norm_eps).sqrt()
            h = h * own[f"{module}.norm.weight"] + own[f"{module}.norm.bias"]
        return h

    named = zip(shape.fields, vectors, strict=True)
    e = [v @ w[f"factor.{f.name}"] if f"factor.{f.name}" in w else v for f, v in named]
    pairs = torch.zeros(())
    if shape.kind in ("deepfm", "neurfm"):
        pairs = torch.stack([a * b for a, b in itertools.combinations(e, 2)]).sum(0)
    x, beside, added = x0, torch.empty(0, dtype=x0.dtype), torch.zeros(())
    if shape.first_order:
        added = added + first
    if shape.kind == "deepfm":
        added = added + pairs.sum()
    elif shape.kind == "neurfm":
        x = pairs
    elif shape.kind == "dcn":
        beside = x0
        for level in range(2):
            beside = x0 * (beside @ w[f"cross.{level}.weight"]) + w[f"cross.{level}.bias"] + beside
    elif shape.kind == "dcn_v2":
        beside = x0
        for level in range(2):
            beside = x0 * mapped(f"cross.{level}", beside) + beside
    elif shape.kind == "autoint":
        for level in range(2):
            q, k, v, r = (
                [mapped(f"attention.{level}.{p}", one) for one in e] for p in ("query", "key", "value", "residual")
            )
            out = []
            for m in range(len(e)):
                heads = []
                for at in (slice(0, 3), slice(3, 6)):
                    weight = torch.softmax(torch.stack([q[m][at] @ one[at] for one in k]), dim=0)
                    heads.append(sum(a * one[at] for a, one in zip(weight, v, strict=True)))
                out.append((torch.cat(heads) + r[m]).clamp(min=0))
            e = out
        beside = torch.cat(e)
    for level in range(2):
        x = mapped(f"tower.{level}", x).clamp(min=0)
    assert len(batch) == 1
    return float(w["output.weight"][0] @ torch.cat([beside, x]) + w["output.bias"][0] + added)


def fields_of(backbone: Backbone, row: int) -> tuple[list[Tensor], Tensor]:
    """Each field's vector of one row, and the row's first-order sum."""
    shape, w, batch = backbone.shape, backbone.weights(), rows_of(row + 1)
    sparse, dense = iter(batch.sparse[row].tolist()), iter(batch.dense[row].double())
    vectors, first = [], torch.zeros((), dtype=torch.float64)
    for field in shape.fields:
        weights = w.get(f"first_order.{field.name}", torch.zeros(99, dtype=torch.float64))
        if field.kind == "dense":
            value = next(dense)
            vectors.append(value.reshape(1))
            first = first + weights[0] * value
            continue
        table = w[f"embedding.{field.name}"]
        at = (
            [v for v in batch.multi_hot["tags"][row].tolist() if v >= 0]
            if field.kind == "multi_hot"
            else [next(sparse)]
        )
        vectors.append(table[at].mean(0) if at else torch.zeros(3, dtype=torch.float64))
        if not field.trained:
            first = first + (vectors[-1] @ weights[:5])
        elif at:
            first = first + weights[at].mean()
    return vectors, first


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_logits_follow_the_formula(kind: Kind, norm: bool) -> None:
    """Law: each kind's logit is the formula of docs/backbones.md, with and without an adapter of every module."""
    backbone = drawn(kind, norm).double()
    adapter = adapter_of(backbone, "age", "18").double()
    for row in range(6):
        one = rows_of(row + 1).take(torch.tensor([row]))
        assert float(backbone(one)) == pytest.approx(written_out(backbone, None, row), abs=1e-10)
        assert float(backbone(one, adapter)) == pytest.approx(written_out(backbone, adapter, row), abs=1e-10)
        assert abs(float(backbone(one, adapter) - backbone(one))) > 1e-4


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_untouched_adapter_is_the_backbone_bit_for_bit(kind: Kind, norm: bool) -> None:
    """Law: before training an adapter's logits in eval mode are the backbone's, every bit of them."""
    backbone = drawn(kind, norm)
    for seed in range(5):
        ranks = ranks_of(backbone.shape, 1 + seed)
        adapter = DomainAdapter.untrained(backbone, ranks, domain_generator(seed, "age", "18")).eval()
        batch = rows_of(1 + 37 * seed, seed)
        assert torch.equal(backbone(batch, adapter), backbone(batch))


@pytest.mark.parametrize("kind", ALL)
def test_training_moves_every_parameter(kind: Kind) -> None:
    """Law: pre-training reaches all parameters of every kind; given vectors are none."""
    shape = shape_of(kind)
    backbone = Backbone(shape, {"picture": torch.randn(11, 5)}).train()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    backbone(rows_of(400)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in backbone.parameters())
    tables = [p for name, p in backbone.named_parameters() if name.startswith("embeddings.") and p.ndim == 2]
    assert tables == [backbone.embeddings.table]


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_weights_make_the_round_trip(kind: Kind, norm: bool) -> None:
    """Law: a backbone loaded from another's tensors gives its logits; without norms no tensor names one."""
    backbone, batch = drawn(kind, norm), rows_of(50)
    weights = backbone.weights()
    assert any(".norm." in name for name in weights) == norm
    other = Backbone(shape_of(kind, norm)).eval()
    other.load_weights(weights)
    assert torch.equal(other(batch), backbone(batch))
    for name in weights:
        with pytest.raises(ShapeError, match=name.replace(".", r"\.")):
            other.load_weights({key: value for key, value in weights.items() if key != name})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_folded_is_literal(kind: Kind, norm: bool, mode: Mode) -> None:
    """Law: the folded form of every kind, module, mode and pair computes what the literal fused network computes."""
    backbone = drawn(kind, norm).double()
    tower = tower_of(backbone, mode).double()
    batch, domains = rows_of(40), domains_of(40)
    literal = tower.logits(backbone, batch, domains)
    for pair in {tuple(row) for row in domains.tolist()}:
        rows = (domains == torch.tensor(pair)).all(1).nonzero().flatten()
        looked = backbone.embeddings.look_up(batch.take(rows))
        found = backbone.score_looked_up(looked, FoldedLayer(fold(backbone, tower, pair)))
        torch.testing.assert_close(found, literal[rows], rtol=1e-10, atol=1e-10)
    assert float((literal.detach() - backbone(batch)).abs().max()) > 1e-3


def fold(backbone: Backbone, tower: FusedTower, domains: Domains) -> list[FoldedModule]:
    """Fold one pair, module by module, as docs/architecture.md says."""
    members = [tower.adapter(i, d).tensors() for i, d in enumerate(tower.present(domains)) if d >= 0]
    norms, factor = tower.norms_of(tower.norm_name(domains)), len(members) if tower.mode == "add" else 1
    modules = []
    for number, module in enumerate(backbone.shape.modules):
        at, w, d = f"{module.name}.", backbone.weights(), module.outputs
        up = torch.cat([t[at + "up"] * t[at + "scale"][:, None] * factor for t in members], dim=1)
        shift = torch.stack([t[at + "shift"] * factor for t in members])
        query, key = torch.zeros((1, d)).double(), torch.zeros((1, d)).double()
        if tower.fusion is not None:
            query = tower.fusion.query[number].detach()
            key = tower.fusion.key[number].detach() / len(query)
        gain, offset = norms[number].folded() if module.norm else (torch.ones(d), torch.zeros(d))
        ranks = torch.tensor([len(t[at + "down"]) for t in members])
        modules.append(
            FoldedModule(
                down=torch.cat([t[at + "down"] for t in members]),
                up=up,
                shift=shift,
                query=query @ w[at + "weight"],
                query_shift=query @ w.get(at + "bias", torch.zeros(d)).double(),
                key=key @ up,
                key_shift=shift @ key.T,
                group=torch.eye(len(members)).double().repeat_interleave(ranks, dim=1),
                norm_scale=gain.double(),
                norm_shift=offset.double(),
            )
        )
    return modules


@pytest.mark.parametrize("target", ["tower.1", "cross.0", "attention.1.key"])
def test_what_is_no_target_stays_the_backbones(target: str) -> None:
    """Law: a module of rank 0 has no tensors in artifacts, keeps the backbone's norm, training moves nothing there."""
    kind: Kind = "dcn_v2" if target.startswith("cross") else "autoint"
    backbone = drawn(kind)
    names = [module.name for module in backbone.shape.modules]
    ranks = tuple(2 * (name == target) for name in names)
    adapter = DomainAdapter.untrained(backbone, ranks, domain_generator(0, "age", "18"))
    assert {name.rsplit(".norm", 1)[0].removesuffix(".down") for name in adapter.tensors() if ".up" not in name} >= {
        target
    }
    assert all(name.startswith(target) for name in adapter.tensors())
    assert torch.equal(backbone(rows_of(30), adapter.eval()), backbone(rows_of(30)))
    with torch.no_grad():
        next(adapter.lora_modules()).up.normal_()
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in adapter.parameters() if p.requires_grad], 0.1)
    backbone(rows_of(300), adapter.train()).square().sum().backward()
    optimizer.step()
    level = names.index(target)
    moved = {name for name, value in adapter.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith((f"loras.{level}.", f"norms.{level}.")) for name in moved)
    tower = tower_of(backbone, "attention", ranks)
    assert set(tower.adapted_norms((0, 0))) == ({target} if target.startswith("tower") else set())
    assert tower.fusion is not None
    assert set(tower.fusion.tensors()) == {f"fusion.{target}.query", f"fusion.{target}.key"}
    tower.logits(backbone, rows_of(20), domains_of(20))


def test_ranks_that_adapt_nothing_are_refused() -> None:
    """Law: an adapter or a fusion of no module is refused."""
    shape = shape_of("mlp")
    for build in (DomainAdapter, Fusion):
        with pytest.raises(ShapeError, match="adapt nothing"):
            build(shape, (0, 0))


def test_pairs_are_summed_in_linear_time() -> None:
    """Law: bi_interaction is the sum over all pairs, and one field has none."""
    vectors = [torch.randn(7, 4, dtype=torch.float64) for _ in range(5)]
    torch.testing.assert_close(bi_interaction(vectors), sum(a * b for a, b in itertools.combinations(vectors, 2)))
    torch.testing.assert_close(bi_interaction(vectors[:1]), torch.zeros(7, 4, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_counts_are_what_the_modules_hold(kind: Kind, norm: bool) -> None:
    """Law: the printed counts are the sizes of the parameters."""
    shape = shape_of(kind, norm)
    counts, ranks = backbone_counts(shape), ranks_of(shape)
    backbone = Backbone(shape)
    assert sum(p.numel() for p in backbone.parameters()) == counts["backbone with out-of-vocabulary rows"]
    unknown = len(backbone.embeddings.starts) * backbone.embeddings.table.shape[1]
    assert counts["backbone"] == counts["backbone with out-of-vocabulary rows"] - unknown
    adapter = sum(p.numel() for p in DomainAdapter(shape, ranks).parameters())
    assert adapter == adapter_counts(shape, ranks)["down, up, scale, shift, norm weights and biases"]
    assert (
        sum(p.numel() for p in Fusion(shape, ranks).parameters()) == fusion_counts(shape, ranks)["fusion query and key"]
    )


def test_row_zero_takes_the_first_order_weights_too() -> None:
    """Law: an unknown value's first-order weight is the count-weighted mean of the trained ones, as its vector is."""
    backbone = Backbone(shape_of("deepfm"))
    embeddings, batch = backbone.embeddings, rows_of(200)
    embeddings.fill_unknown(embeddings.occurrences(batch))
    items = batch.sparse[:, 2].long()
    weights = backbone.weights()["first_order.item"]
    torch.testing.assert_close(weights[0], weights[items[items > 0]].mean())
    assert torch.equal(embeddings.touched(batch), embeddings.occurrences(batch).nonzero().flatten())


def test_given_vectors_are_held_to_their_field() -> None:
    """Law: given vectors of another shape, and of a field that is not sparse, are refused by name."""
    with pytest.raises(ShapeError, match="given vectors of 'picture'"):
        Backbone(shape_of("mlp"), {"picture": torch.zeros(3, 5)})
    with pytest.raises(ShapeError, match="no field 'user' brings its own"):
        Backbone(shape_of("mlp"), {"user": torch.zeros(9, 3)})
    bare = Backbone(shape_of("mlp"))
    with pytest.raises(ShapeError, match="vectors of picture were never given"):
        bare(rows_of(5))
    bare.embeddings.take_given({"picture": torch.ones(11, 5)})
    bare(rows_of(5))
    with pytest.raises(ShapeError, match="'tags' is multi_hot"):
        FieldShape("tags", "multi_hot", 6, given_width=5)
