"""The configuration of `espalier train mamdr`: one YAML file, of the same form as that of the three stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from training.arrays import RowsIn
from training.config import BackboneConfig, NonNegative, Positive, Rate, Section, Share
from training.frameworks.optimizers import Name, Rule
from training.reporting.config import SinksConfig

FrameworkName = Literal[
    "mix", "alternate", "finetune", "weighted", "pcgrad", "maml", "reptile", "mldg", "dn", "dr", "mamdr"
]
Preset = Literal["paper", "parity", "legacy"]


class NetworkConfig(BackboneConfig):
    """The network that is trained; without norms by default, as in the paper.

    Args:
        tower: widths of the hidden layers.
        dropout: probability after each hidden layer.
        norm: whether a norm stands in each hidden layer.
    """

    tower: tuple[Positive, ...] = Field(default=(256, 128, 64), min_length=1)
    dropout: Share = 0.5
    norm: bool = False


class OptimizerConfig(Section):
    """A rule of optimization.

    Args:
        optimizer: sgd, adam or adagrad.
        lr: step size.
    """

    optimizer: Name
    lr: Rate

    @property
    def rule(self) -> Rule:
        """The rule itself."""
        return Rule(self.optimizer, self.lr)


class InnerConfig(OptimizerConfig):
    """The steps on data, with step size alpha in the paper.

    Args:
        weight_decay: coupled L2 on dense parameters; embeddings have none.
        reset: `loop` forgets the optimizer's state at the start of each inner loop; `never` keeps one for everything.
        steps: of one visit to a domain: `epoch` is a full pass over its rows, a number is that many batches.
    """

    optimizer: Name = "adam"
    lr: Rate = 1e-3
    weight_decay: NonNegative = 0.0
    reset: Literal["loop", "never"] = "loop"
    steps: Literal["epoch"] | Positive = "epoch"

    @property
    def rule(self) -> Rule:
        """The rule itself."""
        return Rule(self.optimizer, self.lr, weight_decay=self.weight_decay)


class OuterConfig(OptimizerConfig):
    """What the pseudo-gradient theta - end is given to; sgd with step size beta in the paper."""

    optimizer: Name = "sgd"
    lr: Rate = 0.1


class RegularizationConfig(Section):
    """Domain Regularization (methods.md 3).

    Args:
        others: k, how many other domains each target meets an epoch.
        gamma: theta_i += gamma * (end - theta_i).
        include_target: the target itself is met as one more other domain.
        start: theta_i starts at zero, or as an independent draw of the network's start.
        packed: targets that are trained side by side, at most; 1 trains one after another.
    """

    others: Annotated[int, Field(ge=0)] = 3
    gamma: Rate = 0.1
    include_target: bool = False
    start: Literal["zeros", "random"] = "zeros"
    packed: Positive = 16


class LookAheadConfig(Section):
    """The step that MAML and MLDG look ahead by, and learn through.

    Args:
        lr: its step size; plain SGD.
        steps: how many (MAML).
        order: 2 differentiates through the step, 1 leaves that term out.
        test_share: share of the domains that each step of MLDG tests on.
        weight: of MLDG's loss after the step.
    """

    lr: Rate = 0.01
    steps: Positive = 1
    order: Literal[1, 2] = 2
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    weight: NonNegative = 1.0


class FinetuneConfig(OptimizerConfig):
    """What each domain learns alone after everything else; reported beside the rest.

    Args:
        epochs: passes over the domain's rows, at most; 0 is off.
        patience: epochs without a better validation AUC of the domain before it stops.
    """

    optimizer: Name = "sgd"
    lr: Rate = 1e-3
    epochs: Annotated[int, Field(ge=0)] = 0
    patience: Positive = 3


class LoraConfig(Section):
    """theta_i as a LoRA (`specific: lora`).

    Args:
        ranks: of each adapted module, in order.
        down_std: standard deviation of the start of `down`; null is 1 / sqrt(k).
        scale_mean, scale_std: of the start of `scale`.
    """

    ranks: tuple[Positive, ...] = (8, 8, 8)
    down_std: Rate | None = None
    scale_mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    scale_std: NonNegative = 1.0


class MamdrConfig(Section):
    """Everything that decides what a framework learns.

    Args:
        data: folder that `espalier data prepare` or `data build` wrote.
        rows: `memory` reads all rows into memory; `disk` leaves them in their file and lays the encoded ones out in
            files that memory maps (docs/packed.md). No part of what a run learns.
        seed: of the split (where the data has none) and of all training.
        threads: cores that torch uses; part of the result.
        framework: how it learns.
        preset: `parity` takes the released code's answers where it departs from the paper, `legacy` also its PCGrad and
            MLDG (methods.md 3); keys that are given stand above it.
        structure: `plain` is the network below as it is; or a multi-domain network, by its name.
        settings: of that network.
        network: widths and constants.
        batch_rows: rows of a batch, at most.
        min_batches: a domain with few rows gets smaller batches, until it has this many a pass.
        joint_steps: steps of an epoch of the joint frameworks: as many as the `largest` domain has batches, or as the
            rows of `all` domains have.
        epochs: at most.
        patience: epochs without a better mean of the domains' validation AUC before it stops.
        auc: `exact`, or by 500 thresholds as the released code does; for selection alone.
        inner, outer, regularization, look_ahead, finetune: the parts of the methods.
        embeddings: of a theta_i: `shared` has none, `deltas` only rows that its training touched, `copies` all rows;
            `frozen` keeps them out of theta_S's training too.
        specific: theta_i is a delta of every dense parameter, or a LoRA.
        lora: of `specific: lora`.
        left_out: domains that nothing is learned from but which values there are, to be added later by Domain
            Regularization alone.
        legacy_rules: PCGrad and MLDG as the released code has them.
        artifact: of `specific: delta`: the delta itself, or `compressed` to a LoRA where that costs at most 0.0005 of
            validation AUC.
        artifact_dtype: of what is large in the artifacts.
        bootstrap_draws: draws of the confidence intervals.
        sinks: where a finished run is told besides its folder (docs/reports.md).
    """

    data: Path | None = None
    rows: RowsIn = "memory"
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Positive = 1
    framework: FrameworkName = "mamdr"
    preset: Preset = "paper"
    structure: str = "plain"
    settings: dict[str, Any] = Field(default_factory=dict)
    network: NetworkConfig = NetworkConfig()
    batch_rows: Positive = 1024
    min_batches: Positive = 1
    joint_steps: Literal["largest", "all"] = "largest"
    epochs: Positive = 30
    patience: Positive = 3
    auc: Literal["exact", "thresholds"] = "exact"
    inner: InnerConfig = InnerConfig()
    outer: OuterConfig = OuterConfig()
    regularization: RegularizationConfig = RegularizationConfig()
    look_ahead: LookAheadConfig = LookAheadConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    embeddings: Literal["shared", "deltas", "copies", "frozen"] = "shared"
    specific: Literal["delta", "lora"] = "delta"
    lora: LoraConfig = LoraConfig()
    left_out: tuple[str, ...] = ()
    legacy_rules: bool = False
    artifact: Literal["delta", "compressed"] = "delta"
    artifact_dtype: Literal["float16", "float32"] = "float16"
    bootstrap_draws: Annotated[int, Field(ge=100)] = 1000
    sinks: SinksConfig = SinksConfig()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        """Fill in the preset's answers below the keys that are given."""
        if not isinstance(given, dict) or given.get("preset", "paper") not in ("parity", "legacy"):
            return given
        outer = given.get("outer", {})
        gamma = outer.get("lr", OuterConfig().lr) if isinstance(outer, dict) else OuterConfig().lr
        return _filled(given, _released(gamma, legacy=given["preset"] == "legacy"))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.specific == "lora" and self.structure != "plain":
            raise ValueError("specific: lora adapts the plain network; set structure: plain")
        if self.framework == "finetune" and self.finetune.epochs == 0:
            raise ValueError("framework finetune needs finetune.epochs of 1 or more")
        if self.specific == "lora" and self.embeddings in ("deltas", "copies"):
            raise ValueError("a LoRA is published without rows of embeddings: set embeddings to shared or frozen")
        if self.specific == "lora" and self.regularization.start == "random":
            raise ValueError("a LoRA has its own start: set regularization.start to zeros with specific: lora")
        return self


def _released(gamma: float, legacy: bool) -> dict[str, Any]:
    """What the released code answers (methods.md 3, the table)."""
    return {
        "inner": {"reset": "never"},
        "regularization": {"gamma": gamma, "include_target": True, "start": "random"},
        "finetune": {"optimizer": "sgd", "lr": 1e-3, "epochs": 30, "patience": 3},
        "embeddings": "copies",
        "auc": "thresholds",
        "legacy_rules": legacy,
    }


def _filled(given: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    filled = dict(preset)
    for key, value in given.items():
        below = preset.get(key)
        filled[key] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    return filled
