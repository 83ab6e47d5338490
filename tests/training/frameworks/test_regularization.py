"""Domain Regularization is the loop that the paper prints; packed or not, with dense deltas and with rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from network.backbone import Backbone
from tests.training.frameworks.oracle import loss_at, module_with
from tests.training.frameworks.settings import SmallData, differing
from training.baselines.table import build_baseline
from training.batches import RowTensors
from training.dataset import encode, split_of
from training.frameworks.config import LoraConfig
from training.frameworks.lora import LoraStructure
from training.frameworks.mamdr import mamdr
from training.frameworks.negotiation import Negotiation
from training.frameworks.packed import packable
from training.frameworks.regularization import Regularizer
from training.frameworks.setting import Setting
from training.frameworks.state import Specific, State
from training.frameworks.structure import TABLE
from training.seeds import Stream
from training.sources.conflict import ConflictWorld, conflicting

Tensors = dict[str, torch.Tensor]
CLOSE = 2e-6
LEARNING = {"inner": {"optimizer": "sgd", "lr": 0.5}}


def regularized(setting: Setting, epochs: int = 2) -> State:
    """Two epochs of Domain Regularization on a theta_S that stays."""
    state, regularizer = setting.start(), Regularizer(setting)
    for number in range(1, epochs + 1):
        regularizer.targets(state, number, setting.domains.trained)
    return state


def plain_regularization(setting: Setting, number: int, theta: Tensors, own: dict[int, Tensors]) -> None:
    """The paper's algorithm 2, with theta_i as leaves of their own and SGD on them; `own` is changed."""
    regularizer, config = Regularizer(setting), setting.config
    for domain, delta in own.items():
        for place, other in enumerate(regularizer.others(domain, number)):
            leaves = {name: value.clone() for name, value in delta.items()}
            for positions in regularizer.visits(number, domain, place, other):
                module = module_with(setting.structure, {n: v + leaves.get(n, 0) for n, v in theta.items()})
                module.train()
                loss_at(module, setting, positions).backward()
                for name, parameter in module.named_parameters():
                    if name in leaves and parameter.grad is not None:
                        leaves[name] = leaves[name] - config.inner.lr * parameter.grad
            for name, value in leaves.items():
                delta[name] = delta[name] + config.regularization.gamma * (value - delta[name])


def as_full(own: Specific, like: torch.Tensor) -> Tensors:
    """theta_i with its rows as a whole table."""
    table = torch.zeros_like(like)
    table[own.ids] = own.rows
    return {**own.dense, TABLE: table}


@pytest.mark.parametrize("embeddings", ["shared", "deltas", "copies"])
def test_one_after_another_is_the_papers_algorithm(small_data: SmallData, embeddings: str) -> None:
    """Law: theta_i ends where a plain loop over j and then i ends, row-sparse embeddings included."""
    setting = small_data.setting(
        **LEARNING, embeddings=embeddings, regularization={"packed": 1, "gamma": 0.3, "others": 2}, rows=100
    )
    state = regularized(setting)
    theta = setting.structure.theta()
    own = {
        domain: {n: torch.zeros_like(v) for n, v in theta.items() if n != TABLE or embeddings != "shared"}
        for domain in setting.domains.trained
    }
    for number in (1, 2):
        plain_regularization(setting, number, theta, own)
    for domain, expected in own.items():
        found = as_full(state.specifics[domain], theta[TABLE])
        if embeddings == "shared":
            assert not found.pop(TABLE).any()
        assert not differing(found, expected, CLOSE)
        assert differing(found, {n: torch.zeros_like(v) for n, v in found.items()}, 1e-3)
    assert not differing(state.shared, theta)


@pytest.mark.parametrize("inner", [{"optimizer": "sgd", "lr": 0.5}, {"optimizer": "adagrad"}, {"optimizer": "adam"}])
@pytest.mark.parametrize("packed", [2, 16])
def test_side_by_side_is_one_after_another(small_data: SmallData, inner: dict[str, Any], packed: int) -> None:
    """Law: packed Domain Regularization ends where the sequential form ends, but for the order of sums."""
    ends = []
    for group in (1, packed):
        setting = small_data.setting(inner=inner, regularization={"packed": group, "gamma": 0.5, "others": 2})
        assert group == 1 or packable(setting)
        ends.append(regularized(setting))
    for domain, own in ends[0].specifics.items():
        scale = max(float(value.abs().max()) for value in own.dense.values())
        assert scale > 1e-4
        assert not differing(own.dense, ends[1].specifics[domain].dense, 2e-3 * scale)


def test_loras_side_by_side_are_loras_one_after_another(small_data: SmallData) -> None:
    """Law: also where theta_i is a LoRA, packed training ends where the sequential form ends."""
    ends = []
    for packed in (1, 3):
        with Stream(0, ("structure",)).ambient():
            structure = LoraStructure(Backbone(small_data.shape()), LoraConfig(ranks=(2, 2)))
        keys: dict[str, Any] = {"specific": "lora", "lora": {"ranks": [2, 2]}, **LEARNING}
        setting = small_data.setting(structure, **keys, regularization={"packed": packed, "gamma": 0.5, "others": 2})
        assert packed == 1 or packable(setting)
        ends.append(regularized(setting))
    for domain, own in ends[0].specifics.items():
        ups = [value for name, value in own.dense.items() if name.endswith(".up")]
        scale = max(float(value.abs().max()) for value in ups)
        assert scale > 1e-5, "it has learned"
        assert not differing(own.dense, ends[1].specifics[domain].dense, 2e-3 * scale)


@pytest.fixture(scope="session")
def without_lists() -> SmallData:
    """Domains that contradict each other, without a multi-hot field."""
    prepared = conflicting(ConflictWorld(rows=8_400, users=60, items=40, domains=4))
    split = split_of(prepared, 0)
    dataset = encode(prepared, split.train, 3)
    return SmallData(dataset, RowTensors(dataset), split)


@pytest.mark.parametrize("embeddings", ["deltas", "copies"])
@pytest.mark.parametrize("inner", [{"optimizer": "sgd", "lr": 0.5}, {"optimizer": "adagrad", "lr": 0.05}])
def test_rows_side_by_side_are_rows_one_after_another(
    without_lists: SmallData, inner: dict[str, Any], embeddings: str
) -> None:
    """Law: row-sparse deltas packed end where they end sequentially: the same rows, the same values."""
    ends = []
    for packed in (1, 3):
        setting = without_lists.setting(
            inner=inner, embeddings=embeddings, regularization={"packed": packed, "gamma": 0.5, "others": 2}
        )
        assert packed == 1 or packable(setting)
        ends.append(regularized(setting))
    for domain, own in ends[0].specifics.items():
        other = ends[1].specifics[domain]
        assert own.ids.tolist() == other.ids.tolist()
        scale = float(own.rows.abs().max())
        assert scale > 1e-3
        torch.testing.assert_close(own.rows, other.rows, atol=1e-3 * scale, rtol=0)
        assert not differing(own.dense, other.dense, 2e-3 * max(float(v.abs().max()) for v in own.dense.values()))


def test_side_by_side_takes_dropout(small_data: SmallData) -> None:
    """Law: packed training with dropout gives the same whenever it is run, and about what the sequential form gives."""
    ends = []
    for packed in (16, 16, 1):
        setting = small_data.setting(
            structure=small_data.structure(dropout=0.3),
            inner={"lr": 0.02},
            regularization={"gamma": 1.0, "others": 1, "packed": packed},
        )
        ends.append(regularized(setting, epochs=3))
    losses = []
    for state in ends:
        for domain in state.specifics:
            module = module_with(setting.structure, state.weights_of(domain)).eval()
            losses.append(float(loss_at(module, setting, setting.domains.train[domain]).detach()))
    assert losses[:3] == losses[3:6]
    assert losses[:3] == pytest.approx(losses[6:], abs=0.02)
    for domain, own in ends[0].specifics.items():
        assert differing(own.dense, ends[2].specifics[domain].dense, 1e-4), "the masks are others"


def test_what_cannot_stand_side_by_side_is_trained_one_after_another(small_data: SmallData) -> None:
    """Law: batch moments, one optimizer for everything, and rows of tables keep targets apart."""
    assert not packable(small_data.setting(structure=small_data.structure(norm=True)))
    assert not packable(small_data.setting(inner={"reset": "never"}))
    assert not packable(small_data.setting(embeddings="deltas"))
    assert packable(small_data.setting())


def test_rows_that_no_step_touched_are_not_in_the_delta(small_data: SmallData) -> None:
    """Law: a row-sparse delta holds exactly the rows of the batches that its domain's rounds have seen."""
    setting = small_data.setting(embeddings="deltas", regularization={"others": 1}, rows=60)
    regularizer = Regularizer(setting)
    state = regularized(setting, epochs=1)
    for domain, own in state.specifics.items():
        seen = [
            setting.structure.touched(setting.rows.batch(rows))
            for place, other in enumerate(regularizer.others(domain, 1))
            for rows in regularizer.visits(1, domain, place, other)
        ]
        assert own.ids.tolist() == torch.unique(torch.cat(seen)).tolist()
        assert len(own.ids) < len(state.shared[TABLE])


def test_a_target_meets_k_others_and_itself_only_where_asked(small_data: SmallData) -> None:
    """Law: k different other domains, drawn anew each epoch; the released code's rounds end with the target itself."""
    setting = small_data.setting(regularization={"others": 1})
    regularizer = Regularizer(setting)
    met = [tuple(regularizer.others(0, number)) for number in range(1, 20)]
    assert set(met) == {(1,), (2,)}
    parity = Regularizer(small_data.setting(regularization={"others": 5, "include_target": True}))
    assert sorted(parity.others(0, 1)[:-1]) == [1, 2]
    assert parity.others(0, 1)[-1] == 0


def test_a_targets_training_does_not_depend_on_the_others_targets(small_data: SmallData) -> None:
    """Law: theta_i is the same whether its domain is trained alone or with all; so a new domain needs no other's."""
    changes: dict[str, Any] = {"regularization": {"packed": 1}}
    setting = small_data.setting(**changes)
    together = regularized(setting, epochs=1)
    alone = setting.start()
    Regularizer(setting).targets(alone, 1, [2])
    assert list(alone.specifics) == [2]
    assert not differing(alone.specifics[2].dense, together.specifics[2].dense)


def test_mamdr_without_rounds_is_negotiation(small_data: SmallData) -> None:
    """Law: with k = 0 MAMDR leaves every theta_i at zero and theta_S where Domain Negotiation leaves it."""
    setting = small_data.setting(regularization={"others": 0})
    whole, half = mamdr(setting), Negotiation(setting)
    states = whole.start(), half.start()
    for number in (1, 2):
        whole.epoch(states[0], number)
        half.epoch(states[1], number)
    assert not differing(states[0].shared, states[1].shared)
    assert not any(value.any() for own in states[0].specifics.values() for value in own.dense.values())


def test_copies_of_a_table_that_does_not_learn_are_not_made(small_data: SmallData) -> None:
    """Law: where a phase keeps the table, no theta_i has rows of it, and theta_S keeps its bits."""
    structure = build_baseline("plate", small_data.shape(), 3, {"user_fields": ["user_id"]})
    structure.enter("tune")
    setting = small_data.setting(structure, embeddings="copies", regularization={"start": "random", "others": 1})
    state = regularized(setting, epochs=1)
    assert torch.equal(state.shared[TABLE], structure.theta()[TABLE])
    assert [len(own.ids) for own in state.specifics.values()] == [0, 0, 0]


def test_a_random_start_is_independent_for_each_domain(small_data: SmallData) -> None:
    """Law: with `start: random` each theta_i is a draw of its own, as wide as the network's start; zeros otherwise."""
    zeros = mamdr(small_data.setting()).start()
    assert not any(value.any() for own in zeros.specifics.values() for value in own.dense.values())
    drawn = mamdr(small_data.setting(regularization={"start": "random"}, embeddings="copies")).start()
    first, second = drawn.specifics[0], drawn.specifics[1]
    assert not torch.allclose(first.rows, second.rows)
    assert 0.08 < float(first.rows.std()) < 0.12
    name = "backbone.linears.0.weight"
    assert not torch.allclose(first.dense[name], second.dense[name])
    assert float(first.dense[name].std()) == pytest.approx(float(drawn.shared[name].std()), rel=0.3)
