"""PLATE: a backbone trained on all domains, then frozen while prompts of domains and users are tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from network.grouping import Grouping
from network.inputs import NetworkShape
from network.norm import DomNorm
from training.baselines.baseline import Baseline, by_domain
from training.baselines.layers import HiddenLayers
from training.baselines.settings import PlateSettings
from training.errors import ConfigError


class Plate(Baseline):
    """The backbone, whose first hidden layer also reads a domain's prompt p_i and a user's prompt u(x).

    h_1 = W x + b + V [p_i, u(x)]; u is a small network over the user's fields. Phase `pretrain`: everything but the
    prompts and V, on all domains' rows; prompts are zero. Phase `tune`: embeddings, hidden layers and norms (moments
    too) are frozen; p, u, V and, unless settings say otherwise, the output layer are trained.
    Source: Wang et al., PLATE: A Prompt-Enhanced Paradigm for Multi-Scenario Recommendations (SIGIR 2023), the two
    phases and the two prompt modules.
    departs from the paper: the concatenated prompt's columns of the first layer are V, apart from W, because the weight
    decay of pre-training would starve columns that see only zeros; both prompts start at zero, so that tuning starts
    from the pre-trained network.

    Args:
        shape: fields, widths and constants.
        domains: how many natural domains there are.
        settings: prompts, and which fields are the user's.

    Raises:
        ConfigError: a user field that the shape does not have.
    """

    phases: ClassVar[tuple[str, ...]] = ("pretrain", "tune")
    columns: Tensor

    def __init__(self, shape: NetworkShape, domains: int, settings: PlateSettings) -> None:
        super().__init__(shape, domains)
        self.settings = settings
        width = shape.width if settings.prompt is None else settings.prompt
        columns = _columns(shape, settings.user_fields)
        self.register_buffer("columns", columns, persistent=False)
        self.hidden = HiddenLayers(shape.input_width, shape.tower, self.recipe)
        self.output = nn.Linear(shape.tower[-1], 1)
        self.prompts = nn.ParameterList(torch.zeros(width) for _ in range(domains))
        self.generator = HiddenLayers(len(columns), settings.generator, replace(self.recipe, norm=False))
        self.user_prompt = nn.Linear(self.generator.width, width)
        nn.init.zeros_(self.user_prompt.weight)
        nn.init.zeros_(self.user_prompt.bias)
        self.reader = nn.Linear(2 * width, shape.tower[0], bias=False)
        self.enter(self.phases[0])

    def enter(self, phase: str) -> None:
        """Make trainable what this phase trains, and all else constant; errors as for every baseline."""
        super().enter(phase)
        self.phase = phase
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._trains(name))
        for norm in self.hidden.modules():
            if isinstance(norm, DomNorm):
                norm.frozen_moments = phase == "tune"

    def shared_names(self) -> tuple[str, ...]:
        """Names of the dense parameters that the phase trains."""
        return tuple(name for name in super().shared_names() if self._trains(name))

    def specific_names(self) -> tuple[str, ...]:
        """Names of the dense parameters that the phase trains."""
        return self.shared_names()

    def _trains(self, name: str) -> bool:
        prompting = name.startswith(_PROMPTING)
        if self.phase == "pretrain":
            return not prompting
        return prompting or (self.settings.tune_output and name.startswith("output."))

    def _logits(self, x: Tensor, grouping: Grouping) -> Tensor:
        if self.phase == "tune":
            x = x.detach()  # keeps the embeddings frozen under a runner that trains parameters by name, too
        own = by_domain(grouping, lambda domain, rows: self.prompts[domain].expand(rows.stop - rows.start, -1))
        users = self.user_prompt(self.generator(x.index_select(1, self.columns)))
        first, *rest = self.hidden.layers
        x = first(x, self.reader(torch.cat([own, users], dim=1)))
        for layer in rest:
            x = layer(x)
        logits: Tensor = self.output(x)
        return logits.squeeze(-1)


_PROMPTING = ("prompts.", "generator.", "user_prompt.", "reader.")


def _columns(shape: NetworkShape, names: Sequence[str]) -> Tensor:
    """The columns of x (k,) int64 that these fields fill; all of them where none is named."""
    unknown = sorted(set(names) - {field.name for field in shape.fields})
    if unknown:
        known = ", ".join(field.name for field in shape.fields)
        raise ConfigError(f"user_fields: {', '.join(unknown)} is no field of the data; it has {known}")
    columns: list[int] = []
    start = 0
    for field, width in zip(shape.fields, shape.widths, strict=True):
        if not names or field.name in names:
            columns += range(start, start + width)
        start += width
    return torch.tensor(columns, dtype=torch.int64)
