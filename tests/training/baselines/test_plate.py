"""Laws of PLATE: what is frozen when, and that prompts start from the pre-trained network."""

from __future__ import annotations

import pytest
import torch

from network.inputs import Batch
from tests.training.baselines.samples import DOMAINS, drawn, randomise, rows, shape
from tests.training.baselines.test_hamur import backbone_of
from training.baselines.plate import Plate
from training.baselines.table import build_baseline
from training.errors import ConfigError
from training.frameworks.structure import TABLE

PROMPTING = ("prompts.", "generator.", "user_prompt.", "reader.")


def plate(**settings: object) -> Plate:
    """A fresh PLATE in float64."""
    built = build_baseline("plate", shape(), DOMAINS, {"generator": [6], **settings}).double()
    assert isinstance(built, Plate)
    return built


def steps(network: Plate, batch: Batch, domain: torch.Tensor, count: int = 5) -> set[str]:
    """Train a few steps on all of its parameters and buffers; the names of those that changed."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    label = (batch.dense[:, 0] > 0).double()
    network.train()
    for _ in range(count):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network(batch, domain), label).backward()
        optimizer.step()
    return {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}


def test_a_fresh_network_is_the_backbone_in_both_phases() -> None:
    """Law: prompts start at zero, so that tuning starts from what pre-training left."""
    network, (batch, domain) = plate(), rows(50)
    randomise(network.hidden)
    randomise(network.output)
    backbone = backbone_of(network.hidden, network.output, network.embeddings.table)
    for phase in network.phases:
        network.enter(phase)
        torch.testing.assert_close(network.eval()(batch, domain), backbone(batch), rtol=1e-10, atol=1e-10)


def test_pre_training_moves_everything_but_the_prompts() -> None:
    """Law: in phase `pretrain` embeddings, hidden layers, norms and output learn; of the prompts nothing does."""
    network, (batch, domain) = plate(), rows(100)
    changed = steps(network, batch, domain)
    learned = {name for name, _ in network.named_parameters() if not name.startswith(PROMPTING)}
    # a norm takes the bias before it away again: its gradient is zero up to rounding
    assert learned - {name for name in learned if name.endswith("linear.bias")} <= changed
    assert not {name for name, _ in network.named_parameters() if name.startswith(PROMPTING)} & changed


@pytest.mark.parametrize("output", [True, False])
def test_tuning_leaves_the_backbone_as_it_is(output: bool) -> None:
    """Law: in phase `tune` prompts and, where asked for, the output layer learn; the rest keeps its bits."""
    network, (batch, domain) = plate(tune_output=output), rows(100)
    steps(network, batch, domain)
    network.enter("tune")
    changed = steps(network, batch, domain)
    expected = {name for name, _ in network.named_parameters() if name.startswith(PROMPTING)}
    expected |= {"output.weight", "output.bias"} if output else set()
    assert changed == expected
    assert set(network.shared_names()) == expected


def test_tuning_keeps_the_table_from_a_runner_that_trains_by_name() -> None:
    """Law: even where the table is asked for its gradient, it gets none in phase `tune`."""
    network, (batch, domain) = drawn("plate"), rows(30)
    network.enter("tune")
    network.requires_grad_(True)
    network(batch, domain).sum().backward()
    assert dict(network.named_parameters())[TABLE].grad is None
    network.enter("pretrain")
    network.requires_grad_(True)
    network(batch, domain).sum().backward()
    assert dict(network.named_parameters())[TABLE].grad is not None


def test_a_user_s_prompt_depends_on_the_user_s_fields_alone() -> None:
    """Law: the columns that generate it are those of the fields named, in any order; all of x where none is named."""
    assert plate(user_fields=["age", "user"]).columns.tolist() == [0, 1, 2, 3, 4]
    assert plate(user_fields=["tags"]).columns.tolist() == [9, 10, 11, 12]
    assert plate().columns.tolist() == list(range(13))
    with pytest.raises(ConfigError, match="zip is no field of the data; it has user, age, item, tags"):
        plate(user_fields=["user", "zip"])


def test_an_unknown_phase_is_refused() -> None:
    """Law: the error names the phases there are."""
    with pytest.raises(ConfigError, match="it has pretrain, tune"):
        plate().enter("finetune")
