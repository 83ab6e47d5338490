"""The training configuration: one YAML file, checked before anything runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapters_store.validation import explain
from training.arrays import RowsIn
from training.errors import ConfigError
from training.packed.config import PackedConfig
from training.reporting.config import SinksConfig

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Select = Literal["best", "last_epoch"]
Form = TypeVar("Form", bound=BaseModel)


class Section(BaseModel):
    """A part of a configuration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneConfig(Section):
    """The network of stage 1 (methods.md 1; docs/backbones.md has each kind's formula).

    Args:
        width: embedding width E.
        tower: widths of the hidden layers.
        embedding_std: standard deviation of the tables' start.
        norm_eps: added to a variance before its root.
        norm_momentum: share of a batch's moments that enters the running ones.
        kind: the network family.
        norm: whether a norm follows each hidden layer.
        cross_layers: of kinds dcn and dcn_v2.
        attention_layers, heads, head_width: of kind autoint.
    """

    width: Positive = 16
    tower: tuple[Positive, ...] = Field(default=(256, 128), min_length=1)
    embedding_std: Rate = 1e-4
    norm_eps: Rate = 1e-5
    norm_momentum: Share = 0.1
    kind: Literal["mlp", "wide_deep", "deepfm", "dcn", "dcn_v2", "neurfm", "autoint"] = "mlp"
    norm: bool = True
    cross_layers: Positive = 3
    attention_layers: Positive = 3
    heads: Positive = 2
    head_width: Positive = 8


class AdapterConfig(Section):
    """What a domain's adapter is (methods.md 2, stage 2).

    Args:
        ranks: LoRA rank of each hidden layer.
        moments: how its norms treat moments.
        down_std: standard deviation of the start of `down`; null is 1 / sqrt(k).
        scale_mean: mean of the start of `scale`.
        scale_std: standard deviation of the start of `scale`.
        interaction_rank: LoRA rank of each linear map of the interaction (dcn_v2's matrices, autoint's projections).
        target_modules: which modules are adapted, as in PEFT: a whole name (`cross.1`), its beginning (`tower`,
            `attention.0`) or its end (`query`); null is every adaptable one.
    """

    ranks: tuple[Positive, ...] = (8, 8)
    moments: Literal["compensated", "frozen", "paper"] = "compensated"
    down_std: Rate | None = None
    scale_mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    scale_std: NonNegative = 1.0
    interaction_rank: Positive = 8
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


class FusionConfig(Section):
    """How the divisions' LoRAs combine (methods.md 2, stage 3).

    Args:
        mode: of the adapters that are exported; every mode is trained and evaluated.
        ranks: fusion rank of each hidden layer; null takes the adapters' ranks.
        divisor: what divides q.k: the rank, or its root.
        zero_key: start with WK = 0, which is the average of the divisions.
        min_tuple_rows: training rows that a tuple of domains needs for norms of its own.
        interaction_rank: fusion rank of each linear map of the interaction; null takes the adapters'.
    """

    mode: Literal["attention", "add", "avg", "single"] = "attention"
    ranks: tuple[Positive, ...] | None = None
    divisor: Literal["r", "sqrt_r"] = "r"
    zero_key: bool = False
    min_tuple_rows: Positive = 200
    interaction_rank: Positive | None = None


class Schedule(Section):
    """How one stage trains.

    Args:
        lr: Adam's step size.
        weight_decay: coupled L2.
        batch_rows: rows of a batch, at most.
        min_batches: a domain with few rows gets smaller batches, until it has this many an epoch.
        epochs: passes over the rows, at most.
        patience: epochs without a better validation AUC before it stops.
        dropout: probability after each hidden layer.
        average: `tail` also judges the average of the last steps' weights after each epoch (docs/search.md), and what
            validation likes best of all is kept; null knows the epochs' own weights alone. Nothing is averaged where
            nothing is selected.
    """

    lr: Rate = 1e-3
    weight_decay: NonNegative = 1e-5
    batch_rows: Positive = 4096
    min_batches: Positive = 1
    epochs: Positive = 20
    patience: Positive = 3
    dropout: Share = 0.2
    average: Literal["tail"] | None = None  # null, so that a run of an older build is resumed


class CalibrationConfig(Section):
    """How a natural domain's logits are calibrated (docs/gate.md).

    Args:
        method: `platt` fits a line on the logit where a domain has the rows for it; `none` fits nothing.
        min_rows: rows of the domain in the `stop` half that a fit needs.
        min_of_class: positives, and negatives, that a fit needs.
        negatives_kept: share of the negatives that the data kept, where they were down-sampled; what is served is
            shifted back to all of them.
    """

    method: Literal["platt", "none"] = "platt"
    min_rows: Positive = 200
    min_of_class: Positive = 20
    negatives_kept: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def shift(self) -> float:
        """What is added to a logit of the rows at hand, to be one among all rows."""
        return math.log(self.negatives_kept)


class GateConfig(Section):
    """When a natural domain's adapter is good enough to be published (docs/gate.md).

    Args:
        policy: of a domain that does not pass: `withhold` exports no adapter of it, `record` exports it all the same,
            with the verdict in its manifest; `none` judges nothing.
        q: share of false passes among all passes that Benjamini-Hochberg keeps to.
        auc_margin: how much AUC may fall, at the lower bound of its difference to the backbone's.
        confidence: of that bound, one-sided, and of what ECE may rise by chance.
        min_positives: positives of the domain in the `gate` half.
    """

    policy: Literal["withhold", "record", "none"] = "withhold"
    q: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    auc_margin: NonNegative = 0.001
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    min_positives: Positive = 20


class StrengthConfig(Section):
    """How strongly natural domains' adapters act (docs/gate.md).

    Args:
        policy: `search` looks for each domain's strength on the `stop` half, the backbone among the candidates; `full`
            takes every adapter as it was trained.
        steps: between the backbone and the adapter as trained.
        prior_rows: how many rows of its own outweigh, for a domain, what is best for all.
    """

    policy: Literal["search", "full"] = "full"
    steps: Annotated[int, Field(ge=1, le=100)] = 8
    prior_rows: Rate = 200.0


class DivisionsConfig(Section):
    """Where `espalier train divisions` looks for auxiliary divisions, and how closely (docs/divisions.md).

    Args:
        columns: of users and items that are tried; null tries every one that can divide.
        counts: also try users by activity and items by popularity, both by training rows.
        clusters: clusters of users, and of items, that are learned from the backbone's errors; 0 learns none.
        most_domains: of a candidate: the values with most training rows; rows of other values lie in no domain.
        bands: that a column of more numbers than that is cut into.
        min_rows: training rows that a value needs to be a domain.
        rows: training rows of a probe, at most.
        judged_rows: rows of the `stop` half that judge it, at most.
        epochs: of a probe.
        placebos: that each candidate is compared with; one alone does not tell how far chance goes.
        confidence: of the intervals, over all candidates together.
        most: divisions that are chosen, at most.
    """

    columns: tuple[str, ...] | None = None
    counts: bool = True
    clusters: Annotated[int, Field(ge=0, le=64)] = 8
    most_domains: Annotated[int, Field(ge=2, le=1000)] = 32
    bands: Annotated[int, Field(ge=2, le=32)] = 4
    min_rows: Positive = 200
    rows: Positive = 200_000
    judged_rows: Positive = 50_000
    epochs: Positive = 2
    placebos: Annotated[int, Field(ge=2, le=20)] = 2
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    most: Positive = 1


class TrainingConfig(Section):
    """Everything that decides what a run learns.

    Args:
        data: folder that `espalier data prepare` wrote; a relative path is taken from the current folder.
        rows: `memory` reads all rows into memory; `disk` leaves them in their file and lays the encoded ones out in
            files that memory maps (docs/packed.md). No part of what a run learns.
        seed: of the split and of all training.
        threads: cores that torch uses; part of the result, for sums are taken in another order with another number.
        backbone, adapter, fusion: the three networks.
        pretrain, adapters, fuse: the three stages.
        whole: how the baselines Single and Fine-tune train a network for each domain; no part of what a run learns.
        select: `best` takes what validation prefers, the untrained adapter included; `last_epoch` never stops early.
            Pre-training keeps its best epoch either way.
        strength: of natural domains' adapters.
        calibration: of natural domains' adapters.
        gate: which of them are published.
        packed: trains domains side by side (docs/packed.md); null is one by one, but for the baselines of `whole`,
            which are always trained so.
        divisions: how auxiliary divisions are looked for; no part of what a run learns.
        export_ablations: also write adapters of every mode to RUN/ablations.
        artifact_dtype: of down, up, query and key in the artifacts.
        bootstrap_draws: draws of the confidence intervals.
        sinks: where a finished run is told besides its folder (docs/reports.md); no part of what a run learns.
    """

    data: Path | None = None
    rows: RowsIn = "memory"
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Positive = 2
    backbone: BackboneConfig = BackboneConfig()
    adapter: AdapterConfig = AdapterConfig()
    fusion: FusionConfig = FusionConfig()
    pretrain: Schedule = Schedule()
    adapters: Schedule = Schedule(lr=3e-4, weight_decay=1e-3, batch_rows=2048, epochs=8, dropout=0.5)
    fuse: Schedule = Schedule(lr=3e-4, weight_decay=1e-3, epochs=5, dropout=0.5)
    whole: Schedule = Schedule(batch_rows=2048, epochs=15, patience=2)
    select: Select = "best"
    strength: StrengthConfig = StrengthConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    gate: GateConfig = GateConfig()
    packed: PackedConfig | None = None
    divisions: DivisionsConfig = DivisionsConfig()
    export_ablations: bool = False
    artifact_dtype: Literal["float16", "float32"] = "float16"
    bootstrap_draws: Annotated[int, Field(ge=100)] = 1000
    sinks: SinksConfig = SinksConfig()

    @model_validator(mode="after")
    def _one_rank_a_layer(self) -> Self:
        layers = len(self.backbone.tower)
        for name, ranks in (("adapter.ranks", self.adapter.ranks), ("fusion.ranks", self.fusion.ranks)):
            if ranks is not None and len(ranks) != layers:
                raise ValueError(f"{name} has {len(ranks)} numbers for {layers} hidden layers: give one for each layer")
        return self

    @model_validator(mode="after")
    def _averages_are_selected(self) -> Self:
        if self.select == "last_epoch" and (self.adapters.average or self.fuse.average):
            raise ValueError("select: last_epoch takes no average: set select: best, or leave `average` out")
        return self


def load_config(path: Path, **overrides: Any) -> TrainingConfig:
    """Read the configuration of the three stages; see `read_config`."""
    return read_config(path, TrainingConfig, **overrides)


def read_config(path: Path, form: type[Form], **overrides: Any) -> Form:
    """Read a configuration.

    Args:
        path: the YAML file.
        form: what it must hold.
        overrides: top-level keys that replace the file's, where not None.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: the file cannot be read, or a key in it is unknown or has a wrong value; the message names it.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values, such as `seed: 0`")
    content |= {key: value for key, value in overrides.items() if value is not None}
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, form)}") from None
