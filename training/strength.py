"""How strongly a natural domain's adapter acts: a line search from the backbone (0) to the adapter as trained (1).

At strength t the LoRA's output is t * h_LoRA, and the norm's map is (1 - t) the backbone's + t the adapter's
(methods.md 2). Strength 0 is the backbone, so the identity is a candidate of every domain. Where an adapter stands
alone the strength is folded into its tensors. A fused one cannot carry it: the LoRAs of its auxiliaries are pinned, and
their outputs would have to be scaled too. So a fused adapter has strength 0 or 1.
departs from the paper: it has no strength.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.backbone import Backbone
from network.lora import DomainAdapter
from network.norm import DomNorm
from training.artifacts_of import Choice, Notes
from training.config import StrengthConfig
from training.fusion import FusionTrainer

Floats = NDArray[np.float64]
Score = Callable[[Tensor], Floats]
"""From positions (n,) int64 to logits (n,)."""


@dataclass(frozen=True)
class Strength:
    """What was found for one domain.

    Args:
        value: t.
        rows: of the domain that it was searched on.
        losses: each t that was tried, and the domain's mean LogLoss there; empty where it has no row.
    """

    value: float
    rows: int
    losses: Mapping[float, float]

    def record(self) -> dict[str, Any]:
        """How it came about, as JSON values."""
        return {"strength": self.value, "rows": self.rows, "losses": [list(each) for each in self.losses.items()]}


def levels(choice: Choice, steps: int) -> tuple[float, ...]:
    """The strengths that a candidate can be published at, rising from 0.

    Args:
        choice: how natural domains are served.
        steps: between 0 and 1, where any strength can be folded in.
    """
    if choice == "backbone":
        return (0.0,)
    return tuple(i / steps for i in range(steps + 1)) if choice == "single" else (0.0, 1.0)


@torch.no_grad()
def at_strength(adapter: DomainAdapter, backbone: Backbone, strength: float) -> DomainAdapter:
    """Return a copy of a domain's own adapter at a strength, folded into `up`, `shift` and the norms.

    up' = t up;  shift' = t shift;  on the adapter's own moments: gain' = (1 - t) gain_backbone + t gain, offset' alike
    (methods.md 2, "Strength"). At 1 it is the adapter and at 0 the backbone, bit for bit in eval mode.

    Args:
        adapter: in eval mode; not changed.
        backbone: its backbone.
        strength: t in [0, 1].

    Raises:
        ValueError: the strength lies outside.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength {strength} lies outside 0 to 1")
    found = copy.deepcopy(adapter)
    if strength == 1.0:
        return found
    for lora in found.lora_modules():
        lora.up.mul_(strength)
        lora.shift.mul_(strength)
    for level in range(len(found.norms)):
        own, plain = found.norm(level), backbone.plain.norms[level]
        assert isinstance(plain, DomNorm)
        if strength == 0.0:
            own.load_state_dict(plain.state_dict())
        elif found.ranks[level]:
            _mix(own, plain, strength)
    return found


def search(
    label: NDArray[Any], domain: NDArray[Any], names: Sequence[str], logits: Mapping[float, Floats], prior_rows: float
) -> dict[str, Strength]:
    """Choose each domain's strength by its LogLoss, that of all domains standing in for rows it does not have.

    With n rows of the domain, L its mean loss and P the mean loss of the rows of all domains, it minimises
    (n L(t) + prior_rows P(t)) / (n + prior_rows). Of equal strengths the weaker is taken.

    Args:
        label: (n,) of the `stop` rows.
        domain: (n,) positions in `names`; -1 is none.
        names: of the natural domains.
        logits: strength to logits (n,), before calibration.
        prior_rows: how many rows of its own outweigh what is best for all; more than 0.

    Returns:
        Domain to its strength.
    """
    tried = sorted(logits)
    table = np.stack([np.logaddexp(0.0, logits[t]) - label * logits[t] for t in tried])
    inside = domain >= 0
    pooled = table[:, inside].mean(1) if inside.any() else np.zeros(len(tried))
    rows = np.bincount(domain[inside], minlength=len(names))
    sums = np.stack([np.bincount(domain[inside], weights=line[inside], minlength=len(names)) for line in table])
    best = (sums + prior_rows * pooled[:, None]).argmin(0)
    return {
        name: Strength(
            tried[best[i]],
            int(rows[i]),
            dict(zip(tried, (sums[:, i] / rows[i]).tolist(), strict=True)) if rows[i] else {},
        )
        for i, name in enumerate(names)
    }


@dataclass(frozen=True)
class Earned:
    """How natural domains are served in the end.

    Args:
        chosen: the candidate that serves the domains whose strength is not 0.
        score: what is served, before calibration.
        strengths: of every natural domain; empty where none was searched, and all adapters are as trained.
        strong: natural domain position to the adapter that stands alone, where it is not as it was trained.
    """

    chosen: Choice
    score: Score
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    strong: Mapping[int, DomainAdapter] = field(default_factory=dict)

    def choice(self, domain: str) -> Choice:
        """How one natural domain is served."""
        found = self.strengths.get(domain)
        return "backbone" if found is not None and found.value == 0.0 else self.chosen

    def notes(self, domain: str, notes: Notes) -> Notes:
        """Add a domain's strength to what its manifest records."""
        found = self.strengths.get(domain)
        if found is None:
            return notes
        return replace(notes, strength=found.value, training={**notes.training, "strength": found.record()})


def earn(
    trainer: FusionTrainer, candidates: Mapping[Choice, Score], chosen: Choice, stop: Tensor, config: StrengthConfig
) -> Earned:
    """Search the strength of every natural domain.

    Args:
        trainer: of the fusion; its rows and adapters serve here.
        candidates: how each candidate scores rows.
        chosen: the one that serves.
        stop: (n,) positions of the rows to search on.
        config: whether, and how finely.
    """
    if config.policy == "full" or chosen == "backbone":
        return Earned(chosen, candidates[chosen])
    domain, names = trainer.rows.domains[:, 0].numpy(), trainer.rows.divisions[0].domains
    logits = {t: _at(trainer, candidates, chosen, t)(stop) for t in levels(chosen, config.steps)}
    label = trainer.rows.label[stop].double().numpy()
    found = search(label, domain[stop.numpy()], names, logits, config.prior_rows)
    if chosen == "single":
        strong = {
            i: at_strength(own, trainer.backbone, found[names[i]].value)
            for i, own in trainer.adapters[0].items()
            if found[names[i]].value != 1.0
        }
        return Earned(chosen, _alone(trainer, strong), found, strong)
    off = np.array([*(found[name].value == 0.0 for name in names), False])  # -1 is the last

    def score(rows: Tensor) -> Floats:
        return np.where(off[domain[rows.numpy()]], candidates["backbone"](rows), candidates[chosen](rows))

    return Earned(chosen, score, found)


def _at(trainer: FusionTrainer, candidates: Mapping[Choice, Score], chosen: Choice, strength: float) -> Score:
    """How all natural domains score at one strength."""
    if strength in (0.0, 1.0):
        return candidates["backbone" if strength == 0.0 else chosen]
    natural = trainer.adapters[0]
    return _alone(trainer, {i: at_strength(own, trainer.backbone, strength) for i, own in natural.items()})


def _alone(trainer: FusionTrainer, strong: Mapping[int, DomainAdapter]) -> Score:
    """How natural adapters score alone, some of them replaced."""
    adapters = [{**trainer.adapters[0], **strong}, *trainer.adapters[1:]]
    tower = replace(trainer, adapters=adapters).untrained("single").eval()
    return lambda rows: trainer.logits(tower, rows)


def line(strengths: Mapping[str, Strength]) -> str:
    """The outcome in one line."""
    if not strengths:
        return "strength: all domains as trained"
    values = [found.value for found in strengths.values()]
    off, full = (sum(value == end for value in values) for end in (0.0, 1.0))
    return f"strength: {full} domains as trained, {len(values) - off - full} weakened, {off} left to the backbone"


def _mix(own: DomNorm, plain: DomNorm, strength: float) -> None:
    """Become (1 - t) of the backbone's map + t of one's own, on one's own moments."""
    gains, offsets = zip(own.folded(), plain.folded(), strict=True)
    gain, offset = (strength * mine + (1.0 - strength) * other for mine, other in (gains, offsets))
    own.weight.copy_(gain * torch.sqrt(own.var.double() + own.eps))
    own.bias.copy_(offset + gain * own.mean.double())
