"""What an evaluation found, as plain values that become RUN/report.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:  # it brings torch, which evaluating a finished run does not need
    from network.fusion import Mode

BASELINE = "backbone"

SERVED = "multi_lora"
"""What selection chose to serve: the same scores as one of the other methods."""

METHOD_OF: dict[Mode, str] = {
    "single": "single_lora",
    "attention": "multi_lora_attention",
    "avg": "multi_lora_avg",
    "add": "multi_lora_add",
}
"""The method that a mode is evaluated as."""

DISPLAY = {
    "backbone": "backbone",
    "single_lora": "SingleLoRA",
    "multi_lora": "MultiLoRA",
    "multi_lora_attention": "MultiLoRA-attention",
    "multi_lora_avg": "MultiLoRA-avg",
    "multi_lora_add": "MultiLoRA-add",
}
"""How reports print a method; one that is not here prints as it is."""


class _Values(BaseModel):
    model_config = ConfigDict(frozen=True)


class Difference(_Values):
    """AUC of a method minus that of the backbone, with its paired bootstrap interval."""

    value: float
    low: float
    high: float


class Ranked(_Values):
    """How well scores order rows.

    Args:
        auc: None where it is not defined: one class only.
        low, high: its bootstrap interval.
        rela_impr: (AUC - 0.5) / (AUC_backbone - 0.5) - 1; None for the backbone.
        difference: to the backbone; None for the backbone.
        recovered: (AUC - AUC_backbone) / (AUC_bayes - AUC_backbone), where the Bayes-optimal AUC is known and higher.
        log_loss: in nats.
    """

    auc: float | None
    low: float | None
    high: float | None
    rela_impr: float | None = None
    difference: Difference | None = None
    recovered: float | None = None
    log_loss: float | None


class Figures(Ranked):
    """One method on one set of rows.

    Args:
        rows: test rows.
        positives: those with a click.
        gauc: by user.
        normalized_entropy: log loss over that of the rows' own click rate.
        calibration: predicted over observed clicks.
        ece: expected calibration error.
    """

    rows: int
    positives: int
    gauc: float | None
    normalized_entropy: float | None
    calibration: float | None
    ece: float | None

    @property
    def one_class(self) -> bool:
        """Whether the rows have clicks only, or none, so that no AUC exists."""
        return self.positives in (0, self.rows)


class Average(Ranked):
    """One method's mean over the domains that have an AUC.

    Args:
        domains: how many they are.
    """

    domains: int


class MethodFigures(_Values):
    """One method.

    Args:
        pooled: all test rows as one set.
        domains: by name, in the division's order.
        macro: unweighted mean over domains.
        row_weighted: mean over domains, weighted by test rows.
        rank: RANK, the mean over domains of this method's place among those compared; 1 is best, ties share. What is
            served takes the place of the method that it is, and no place of its own.
    """

    pooled: Figures
    domains: dict[str, Figures]
    macro: Average
    row_weighted: Average
    rank: float | None = None


class Evaluation(_Values):
    """All methods on the same test rows.

    Args:
        confidence: of every interval.
        draws: bootstrap resamples of rows, the same for every method.
        seed: of the resamples.
        methods: by name; `backbone` is what the others are compared with.
        bayes: the true probabilities as a method, where the data is synthetic: no method can do better.
    """

    confidence: float
    draws: int
    seed: int
    methods: dict[str, MethodFigures]
    bayes: MethodFigures | None = None

    def domains_by_rows(self) -> list[str]:
        """Return the domains, the largest first."""
        domains = next(iter(self.methods.values())).domains
        return sorted(domains, key=lambda name: -domains[name].rows)
