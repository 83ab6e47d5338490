"""Joint steps, uncertainty weighting, PCGrad, MAML and MLDG, each held to an oracle of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from network.inputs import Batch
from tests.training.frameworks.oracle import gradient_at, loss_at, module_with
from tests.training.frameworks.settings import SmallData, differing
from training.batches import RowTensors
from training.dataset import encode, split_of
from training.frameworks.config import FrameworkName
from training.frameworks.inner import LabelledBatch
from training.frameworks.joint import LOG_VARIANCE, PCGrad, Weighted, joint_steps, projection
from training.frameworks.local_rows import localizable
from training.frameworks.meta import Maml, Mldg, halved, summed
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import TABLE, Structure
from training.frameworks.table import FRAMEWORKS
from training.seeds import Stream
from training.sources.conflict import ConflictWorld, conflicting

Tensors = dict[str, Tensor]


def step_of(setting: Setting, number: int = 1) -> tuple[dict[int, Tensor], dict[int, LabelledBatch]]:
    """The first joint step of an epoch: positions and batches by domain."""
    parts = next(iter(joint_steps(setting, setting.stream.of("joint", number).of("order"))))
    return parts, {domain: setting.labelled(positions) for domain, positions in parts.items()}


def dense(gradients: Tensors) -> Tensors:
    return {name: value.to_dense() if value.is_sparse else value for name, value in gradients.items()}


@pytest.mark.parametrize(("keys", "count"), [({}, 3), ({"joint_steps": "all"}, 5)])
def test_joint_steps_pass_every_row_once(small_data: SmallData, keys: dict[str, str], count: int) -> None:
    """Law: the parts of all steps are the training rows of each domain, in as many steps as one or all need."""
    setting = small_data.setting(**keys)
    steps = list(joint_steps(setting, Stream(0)))
    assert len(steps) == count  # 150 rows, or 150 + 75 + 50, in batches of 64
    for domain, rows in enumerate(setting.domains.train):
        parts = [step[domain] for step in steps if domain in step]
        assert sorted(torch.cat(parts).tolist()) == rows.tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("least", [2, 7])
def test_a_step_has_enough_rows_of_a_domain_or_none(small_data: SmallData, least: int) -> None:
    """Law: a domain with few rows has them in fewer steps, so that each of its parts is large enough to be halved."""
    setting = small_data.setting(joint_steps="all", batch_rows=4)
    steps = list(joint_steps(setting, Stream(0), least))
    for domain, rows in enumerate(setting.domains.train):
        parts = [step[domain] for step in steps if domain in step]
        assert sorted(torch.cat(parts).tolist()) == rows.tolist()
        assert min(map(len, parts)) >= least


@pytest.mark.parametrize(("framework", "keys"), [(Maml, {}), (Mldg, {"preset": "legacy"})])
def test_what_halves_rows_learns_from_all_of_them(
    small_data: SmallData, framework: type[Maml | Mldg], keys: dict[str, str]
) -> None:
    """Law: where a step would have one row of a sparse domain, MAML still passes each of its rows in an epoch."""
    setting = small_data.setting(joint_steps="all", batch_rows=4, **keys)
    sizes = [len(rows) for rows in setting.domains.train]
    assert min(sizes) < sum(sizes) / 4  # fewer than there are steps
    learned: list[int] = []

    class Counting(framework):  # type: ignore[misc,valid-type]  # either of the two
        def gradients(
            self, values: Tensors, batches: dict[int, LabelledBatch], stream: Stream
        ) -> tuple[float, Tensors]:
            learned.extend(len(batch) for batch in batches.values() if len(batch) > 1)
            return 0.0, {}

    counting = Counting(setting)
    counting.epoch(counting.start(), 1)
    assert sum(learned) == sum(sizes)


def test_a_step_without_rows_is_no_step(small_data: SmallData) -> None:
    """Law: where all domains' rows fall into the same few of many steps, the others are left out, and none is lost."""
    setting = small_data.setting(rows=40, batch_rows=2, joint_steps="all")
    steps = list(joint_steps(setting, Stream(0)))
    assert [len(rows) for rows in setting.domains.train] == [40, 40, 40]
    assert len(steps) == 40  # of 60
    assert all(len(rows) for step in steps for rows in step.values())
    passed = [rows for step in steps for rows in step.values()]
    assert sorted(torch.cat(passed).tolist()) == sorted(torch.cat(setting.domains.train).tolist())


def numpy_pcgrad(gradients: np.ndarray, orders: list[list[int]], inverted: bool) -> np.ndarray:
    """Algorithm 1 of the paper, on the vectors themselves."""
    projected = gradients.copy()
    for i, order in enumerate(orders):
        for j in order:
            along = projected[i] @ gradients[j]
            if j != i and ((along > 0) if inverted else (along < 0)):
                projected[i] -= along / (gradients[j] @ gradients[j]) * gradients[j]
    return projected


@pytest.mark.parametrize("inverted", [False, True])
def test_projection_is_the_papers_on_the_vectors(inverted: bool) -> None:
    """Law: weights on inner products give the projected gradients that the vectors themselves give."""
    gradients = np.random.default_rng(0).normal(size=(5, 12))
    generator = torch.Generator().manual_seed(4)
    orders = [torch.randperm(5, generator=generator).tolist() for _ in range(5)]
    products = torch.from_numpy(gradients @ gradients.T)
    weights = projection(products, torch.Generator().manual_seed(4), inverted).numpy()
    expected = numpy_pcgrad(gradients, orders, inverted)
    np.testing.assert_allclose(weights @ gradients, expected, rtol=0, atol=1e-12)
    assert not np.allclose(expected, gradients)


def test_projected_gradients_do_not_conflict_in_pairs() -> None:
    """Law: of two conflicting gradients neither keeps a part against the other; agreeing ones stay as they are."""
    conflicting = torch.tensor([[1.0, 0.2], [-1.0, 0.3]])
    mixed = projection(conflicting @ conflicting.T, torch.Generator().manual_seed(0)).float() @ conflicting
    assert float(mixed[0] @ conflicting[1]) == pytest.approx(0.0, abs=1e-6)
    assert float(mixed[1] @ conflicting[0]) == pytest.approx(0.0, abs=1e-6)
    agreeing = torch.tensor([[1.0, 0.2], [1.0, 0.3]])
    assert torch.equal(projection(agreeing @ agreeing.T, torch.Generator()), torch.eye(2, dtype=torch.float64))


def test_pcgrad_sums_the_projected_gradients_of_whole_networks(small_data: SmallData) -> None:
    """Law: the step's gradient is the sum over domains of numpy's projections of the flat gradients, table included."""
    setting = small_data.setting()
    values = setting.structure.theta()
    parts, batches = step_of(setting)
    stream = Stream(9)
    _, found = PCGrad(setting).gradients(values, batches, stream)
    module = module_with(setting.structure, values).train()
    alone = [gradient_at(module, setting, positions) for positions in parts.values()]
    flat = np.stack([np.concatenate([g.double().numpy().ravel() for g in one.values()]) for one in alone])
    generator = stream.generator()
    orders = [torch.randperm(len(flat), generator=generator).tolist() for _ in flat]
    expected = numpy_pcgrad(flat, orders, inverted=False).sum(0)
    found = dense(found)
    mine = np.concatenate([found[name].double().numpy().ravel() for name in alone[0]])
    np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-6)


def test_uncertainty_weighs_the_domains_losses(small_data: SmallData) -> None:
    """Law: gradients are those of sum exp(-s_i) L_i + s_i / 2, for the network and for s (Kendall et al., Eq. 10)."""
    setting = small_data.setting()
    values = {**setting.structure.theta(), LOG_VARIANCE: torch.tensor([0.3, -0.5, 1.0])}
    parts, batches = step_of(setting)
    _, found = Weighted(setting).gradients(values, batches, Stream(0))
    module = module_with(setting.structure, values).train()
    uncertainty = values[LOG_VARIANCE].clone().requires_grad_()
    losses = torch.stack([loss_at(module, setting, positions) for positions in parts.values()])
    total = (losses / uncertainty.exp() + 0.5 * uncertainty).sum()
    names = [name for name, _ in module.named_parameters()]
    expected = dict(
        zip([*names, LOG_VARIANCE], torch.autograd.grad(total, [*module.parameters(), uncertainty]), strict=True)
    )
    assert not differing(dense(found), expected, 1e-6)


def test_uncertainty_grows_where_the_loss_is_large(small_data: SmallData) -> None:
    """Law: over epochs s_i moves towards log(2 L_i), so domains with different losses get different weights."""
    setting = small_data.setting(inner={"lr": 0.05})
    framework = Weighted(setting)
    state = framework.start()
    for number in range(1, 4):
        framework.epoch(state, number)
    assert float(state.extra[LOG_VARIANCE].abs().min()) > 0.02
    assert LOG_VARIANCE not in state.shared


class Quadratic(Structure):
    """A network with two weights whose loss is smooth and far from linear, so that second derivatives are large."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.embeddings = structure.embeddings
        self.weight = torch.nn.Parameter(torch.tensor([0.4, -0.7]))

    def forward(self, batch: Batch, domain: Tensor) -> Tensor:
        x = self.embeddings(batch)
        return 30 * (x[:, 0] * self.weight[0] ** 3 + x[:, 1] * torch.sin(3 * self.weight[1])) + self.weight[0]


def meta_loss(setting: Setting, weight: Tensor, halves: list[tuple[Tensor, Tensor]], lr: float) -> float:
    """MAML's objective in float64, by plain loops: sum over tasks of the query loss after one step on the support."""
    theta = {name: value.double() for name, value in setting.structure.theta().items()} | {"weight": weight}
    total = 0.0
    for support, query in halves:
        module = module_with(setting.structure.double(), theta)
        gradients = gradient_at(module, setting, support)
        moved = {name: theta[name] - lr * gradients[name] for name in theta}
        total += float(loss_at(module_with(setting.structure, moved), setting, query).detach())
    setting.structure.float()
    return total


def mldg_loss(setting: Setting, weight: Tensor, halves: list[tuple[Tensor, Tensor]], lr: float) -> float:
    """MLDG's objective within domains, in float64: sum over domains of F + G after a step on F."""
    theta = {name: value.double() for name, value in setting.structure.theta().items()} | {"weight": weight}
    module = module_with(setting.structure.double(), theta)
    first = sum(float(loss_at(module, setting, support).detach()) for support, _ in halves)
    setting.structure.float()
    return first + meta_loss(setting, weight, halves, lr)


def in_double(batch: LabelledBatch) -> LabelledBatch:
    inputs = Batch(batch.inputs.sparse, batch.inputs.dense.double(), batch.inputs.multi_hot)
    return LabelledBatch(inputs, batch.domain, batch.label.double())


@pytest.mark.parametrize("method", ["maml", "mldg"])
def test_second_order_gradients_are_finite_differences(small_data: SmallData, method: str) -> None:
    """Law: the meta-gradient differentiates through the step: it is the slope of the objective itself."""
    structure = Quadratic(small_data.structure())
    lr = 0.2
    setting = small_data.setting(structure, look_ahead={"lr": lr, "order": 2}, legacy_rules=method == "mldg")
    rows = Setting(structure, setting.rows, setting.domains, setting.config, setting.stream)
    parts, batches = step_of(rows)
    halves = [(positions[: len(positions) // 2], positions[len(positions) // 2 :]) for positions in parts.values()]
    framework, objective = (Maml(rows), meta_loss) if method == "maml" else (Mldg(rows), mldg_loss)
    structure.double()
    values = {name: value.double() for name, value in structure.theta().items()}
    doubled = {domain: in_double(batch) for domain, batch in batches.items()}
    _, found = framework.gradients(values, doubled, Stream(0))
    structure.float()
    small_data_label = rows.rows.label
    rows.rows.label = small_data_label.double()
    try:
        h = 1e-5
        slopes = []
        for i in range(2):
            step = torch.zeros(2, dtype=torch.float64)
            step[i] = h
            ends = [objective(rows, values["weight"] + sign * step, halves, lr) for sign in (1, -1)]
            slopes.append((ends[0] - ends[1]) / (2 * h))
    finally:
        rows.rows.label = small_data_label
    np.testing.assert_allclose(found["weight"].numpy(), slopes, rtol=1e-5, atol=1e-7)
    first = small_data.setting(structure, look_ahead={"lr": lr, "order": 1}, legacy_rules=method == "mldg")
    _, plain = (Maml(first) if method == "maml" else Mldg(first)).gradients(
        {name: value.float() for name, value in values.items()}, batches, Stream(0)
    )
    assert not np.allclose(plain["weight"].numpy(), slopes, rtol=1e-2), "the second derivative must matter here"


@pytest.mark.parametrize("steps", [1, 2])
def test_first_order_maml_is_the_query_gradient_after_the_step(small_data: SmallData, steps: int) -> None:
    """Law: with order 1 the gradient is that of the query rows at the weights after the steps, summed over tasks."""
    setting = small_data.setting(look_ahead={"lr": 0.3, "order": 1, "steps": steps})
    values = setting.structure.theta()
    parts, batches = step_of(setting)
    _, found = Maml(setting).gradients(values, batches, Stream(0))
    total: Tensors = {}
    for positions in parts.values():
        support, query = positions[: len(positions) // 2], positions[len(positions) // 2 :]
        moved = dict(values)
        for _ in range(steps):
            gradients = gradient_at(module_with(setting.structure, moved).train(), setting, support)
            moved = {name: moved[name] - 0.3 * gradients[name] for name in moved}
        for name, value in gradient_at(module_with(setting.structure, moved).train(), setting, query).items():
            total[name] = total.get(name, torch.zeros_like(value)) + value
    assert not differing(dense(found), total, 1e-6)


def test_second_order_reaches_the_rows_of_the_table(small_data: SmallData) -> None:
    """Law: the table's meta-gradient is sparse, and lies in rows of the step's batches alone."""
    setting = small_data.setting(look_ahead={"order": 2})
    _, batches = step_of(setting)
    _, found = Maml(setting).gradients(setting.structure.theta(), batches, Stream(0))
    touched = torch.unique(torch.cat([setting.structure.touched(batch.inputs) for batch in batches.values()]))
    assert found[TABLE].is_sparse
    assert set(found[TABLE].indices()[0].tolist()) <= set(touched.tolist())


def test_mldg_parts_the_domains(small_data: SmallData) -> None:
    """Law: each step trains on some domains and tests on the others, at least one of each, drawn by the stream."""
    setting = small_data.setting(look_ahead={"test_share": 0.3})
    _, batches = step_of(setting)
    listed = list(batches.values())
    seen = set()
    for number in range(12):
        train, test = Mldg(setting)._parted(listed, Stream(number))
        assert len(train) == 2
        assert len(test) == 1
        assert {id(batch) for batch in train + test} == {id(batch) for batch in listed}
        seen.add(id(test[0]))
    assert len(seen) == 3


@pytest.mark.parametrize("name", list(FRAMEWORKS))
def test_training_lowers_the_loss(small_data: SmallData, name: FrameworkName) -> None:
    """Law: every framework learns: theta_S and the theta_i lower the loss of the training rows."""
    setting = small_data.setting(inner={"lr": 0.02}, outer={"lr": 0.5}, framework=name, finetune={"epochs": 1})
    trained = FRAMEWORKS[name](setting)
    state = trained.start()
    before = training_loss(setting, state)
    for number in range(1, 4):
        trained.epoch(state, number)
    assert training_loss(setting, state) < before
    assert (state.shared[TABLE] != setting.structure.theta()[TABLE]).any()


@pytest.mark.parametrize("name", list(FRAMEWORKS))
def test_the_networks_own_parameters_stay(small_data: SmallData, name: FrameworkName) -> None:
    """Law: what is learned lies in the state alone; the network keeps the weights that it was made with."""
    setting = small_data.setting(framework=name, finetune={"epochs": 1})
    before = setting.structure.theta()
    trained = FRAMEWORKS[name](setting)
    trained.epoch(trained.start(), 1)
    assert not differing(setting.structure.theta(), before)
    assert setting.structure.embeddings.table is dict(setting.structure.named_parameters())[TABLE]


def training_loss(setting: Setting, state: State) -> float:
    """Mean over domains of the loss of their training rows, by their own weights."""
    losses = [
        float(loss_at(module_with(setting.structure, state.weights_of(domain)).eval(), setting, rows).detach())
        for domain, rows in enumerate(setting.domains.train)
    ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("order", [1, 2])
def test_looking_ahead_on_the_rows_that_are_read_is_the_same(order: int) -> None:
    """Law: MAML and MLDG on a small table of a step's own rows have the gradients that they have on the whole one."""
    prepared = conflicting(ConflictWorld(rows=900, users=60, items=40, domains=3))
    split = split_of(prepared, 0)
    dataset = encode(prepared, split.train, 3)
    setting = SmallData(dataset, RowTensors(dataset), split).setting(look_ahead={"lr": 0.3, "order": order})
    assert localizable(setting.structure)
    values = setting.structure.theta()
    _, batches = step_of(setting)
    maml, mldg = Maml(setting), Mldg(setting)
    whole = [maml._task(values, halved(batch)) for batch in batches.values()]
    train, test = mldg._parted(list(batches.values()), Stream(1))
    for framework, stream, expected in (
        (maml, Stream(0), summed([gradients for _, gradients in whole], values)),
        (mldg, Stream(1), mldg._objective(values, train, test)[1]),
    ):
        _, found = framework.gradients(values, batches, stream)
        assert found[TABLE].is_sparse
        assert found[TABLE].coalesce().indices().shape[1] < len(values[TABLE])
        assert not differing(dense(found), dense(expected), 1e-6)
    assert all(
        torch.equal(batch.inputs.sparse, again.inputs.sparse)
        for batch, again in zip(batches.values(), step_of(setting)[1].values(), strict=True)
    )
