"""`espalier train divisions`, top to bottom: candidates, probes, ranking, and the data and configuration chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters_store.canonical import digest
from training.checkpoint import Memory, Record
from training.chooser.candidates import Candidate, Of, domains_of, sides_of
from training.chooser.clusters import cluster, signatures
from training.chooser.estimate import Floats, clustered, pooled_variance
from training.chooser.findings import Finding, Ranking
from training.chooser.placebo import shuffled
from training.chooser.probe import Probe, Probed
from training.chooser.proposing import Proposal, propose
from training.chooser.writing import write_choice
from training.config import TrainingConfig
from training.encoding import Side
from training.errors import PreparedError
from training.packed.config import PackedConfig
from training.packed.packer import MemoryOf
from training.prepared import PreparedDataset
from training.pretrain import Pretrained
from training.progress import Meter, SilentMeter
from training.seeds import Stream
from training.stages import Run, folder_digest, refuse_existing
from training.threads import threads

_STAGE = "divisions"
_CLUSTERED: tuple[Of, ...] = ("user", "item")
_IDENTITY = ("seed", "threads", "backbone", "pretrain", "adapter", "adapters", "packed")
_PROBE_KEYS = ("rows", "epochs")
_FIGURES = ("gain", "divergence")


def choose_divisions(config: TrainingConfig, out: Path, *, resume: bool = False, meter: Meter | None = None) -> Ranking:
    """Probe every candidate and write down what is chosen.

    The backbone of the run folder serves; where it has none, it is trained.

    Args:
        config: with `data` set; `divisions` says what to look for.
        out: the run folder, made if it is not there.
        resume: take the probes that are finished in it.
        meter: where progress goes; nowhere by default.

    Returns:
        All candidates, the best first. OUT/divisions holds them as table.json and table.md, the data with the chosen
        divisions as `prepared`, and a configuration that reads it.

    Raises:
        ConfigError: the configuration names no data, or a column that is not there.
        PreparedError: the data cannot be used, or the folder cannot be written.
        RunExists: the folder holds probes, and `resume` is not set.
        StateMismatch: what is in the folder was trained with other settings.
    """
    refuse_existing(out, _STAGE, resume)
    with threads(config.threads):
        run = Run(config, out, meter or SilentMeter())
        with run.state.locked():
            return _choose(run)


def _choose(run: Run) -> Ranking:
    if not len(run.positions.stop):
        raise PreparedError(f"{run.config.data} has no validation rows to judge divisions by: split some off")
    pretrained, settings = run.pretrained(), run.config.divisions
    assert run.config.data is not None
    prepared = PreparedDataset.load(run.config.data)
    sides = sides_of(prepared, run.split.train)
    proposal = propose(prepared, sides, settings)
    if settings.clusters:
        for of in _CLUSTERED:
            proposal = _clustered(run, pretrained, proposal, of, sides)
    probing = _Probing(run, _probe(run, pretrained), sides_of(proposal.prepared, run.split.train))
    run.meter.say(
        f"divisions: {len(proposal.candidates)} candidates, each with {settings.placebos} placebos, "
        f"{settings.epochs} epochs of {len(probing.probe.train):,} rows for each of them"
    )
    measured = [probing.measured(candidate) for candidate in proposal.candidates]
    findings = _findings(measured, settings.confidence)
    ranking = Ranking.of(findings, proposal.skipped, settings.most, settings.confidence)
    write_choice(ranking, proposal.prepared, prepared, run.config, run.out / _STAGE)
    run.meter.say(ranking.line())
    return ranking


def _clustered(run: Run, pretrained: Pretrained, proposal: Proposal, of: Of, sides: Mapping[Of, Side]) -> Proposal:
    """Add a clustering of the users, or of the items."""
    side, settings = sides[of], run.config.divisions
    train = _sampled(run.positions.train, settings.rows, Stream(run.config.seed, (_STAGE, "train")))
    points, weight = signatures(pretrained.backbone, run.rows, train, side.entity, len(side.frame))
    number = cluster(points, weight, settings.clusters, _draw(run, "clusters", of))
    return proposal.with_clusters(of, number, side, settings.min_rows)


def _probe(run: Run, pretrained: Pretrained) -> Probe:
    config = run.config
    settings, seed = config.divisions, config.seed
    return Probe(
        pretrained.backbone,
        run.dataset,
        _sampled(run.positions.train, settings.rows, Stream(seed, (_STAGE, "train"))),
        _sampled(run.positions.stop, settings.judged_rows, Stream(seed, (_STAGE, "judged"))),
        config.adapter,
        config.adapters.model_copy(update={"epochs": settings.epochs}),
        config.packed or PackedConfig(),
        run.meter,
    )


def _sampled(positions: Tensor, most: int, stream: Stream) -> Tensor:
    """At most so many of the positions, in order."""
    if len(positions) <= most:
        return positions
    chosen = torch.randperm(len(positions), generator=stream.generator())[:most]
    return positions[chosen.sort().values]


def _draw(run: Run, *name: str | int) -> np.random.Generator:
    return np.random.default_rng(Stream(run.config.seed, (_STAGE, *name)).number())


@dataclass(frozen=True)
class _Measured:
    """The probes of a candidate and of its placebos.

    Args:
        candidate: the division.
        owner: (n,) whose rows go together in an interval.
        over_backbone: (n,) what each judged row gains by its own domain's adapter over the backbone.
        beyond: figure to what it is (n,) beyond the mean of the placebos.
        placebos: figure to its mean in each placebo.
        covered: share of the rows that lie in a domain.
    """

    candidate: Candidate
    owner: NDArray[Any]
    over_backbone: Floats
    beyond: Mapping[str, Floats]
    placebos: Mapping[str, Sequence[float]]
    covered: float


def _findings(measured: Sequence[_Measured], confidence: float) -> list[Finding]:
    """Turn probes into figures with intervals that hold together (Bonferroni).

    Which rows are judged is one source of error; which domains chance would have made is another, and the placebos
    tell it: they differ in nothing else. With P of them, the difference to their mean has (1 + 1 / P) times their
    variance, which is pooled over the candidates.
    """
    level = 1.0 - (1.0 - confidence) / max(1, len(measured))
    chance = {name: pooled_variance([each.placebos[name] for each in measured]) for name in _FIGURES}
    return [
        Finding(
            each.candidate,
            over_backbone=clustered(each.over_backbone, each.owner, level),
            covered=each.covered,
            **{
                name: clustered(values, each.owner, level, chance[name] * (1.0 + 1.0 / len(each.placebos[name])))
                for name, values in each.beyond.items()
            },
        )
        for each in measured
    ]


@dataclass(frozen=True)
class _Probing:
    """Probes candidates of one run.

    Args:
        run: its folder and settings.
        probe: on its backbone.
        sides: its users, items and rows, with the columns of all candidates.
    """

    run: Run
    probe: Probe
    sides: Mapping[Of, Side]

    def measured(self, candidate: Candidate) -> _Measured:
        """Probe a candidate and its placebos."""
        side, name = self.sides[candidate.of], candidate.division.name
        domain = domains_of(candidate, side)
        real = self._probed(candidate, "own", domain[side.entity])
        placebos = []
        for number in range(1, self.run.config.divisions.placebos + 1):
            other = shuffled(domain, side.train_rows, _draw(self.run, "placebo", name, number))
            placebos.append(_figures(self._probed(candidate, f"placebo-{number}", other[side.entity])))
        return _Measured(
            candidate,
            self._owner(candidate),
            self.probe.backbone_loss - real.own,
            {key: own - np.mean([each[key] for each in placebos], axis=0) for key, own in _figures(real).items()},
            {key: [float(each[key].mean()) for each in placebos] for key in _FIGURES},
            float(real.inside.mean()),
        )

    def _owner(self, candidate: Candidate) -> NDArray[Any]:
        """An item's rows where items are divided, else a user's."""
        of: Of = "item" if candidate.of == "item" else "user"
        owner: NDArray[Any] = self.sides[of].entity[self.probe.judged.numpy()]
        return owner

    def _probed(self, candidate: Candidate, kind: str, domain: NDArray[np.int32]) -> Probed:
        # one stream for all kinds: they differ in who is where, and in nothing else
        stream = Stream(self.run.config.seed, (_STAGE, "probe"))
        return self.probe.run(candidate.division, domain, stream, self._memory_of(candidate, kind, domain))

    def _memory_of(self, candidate: Candidate, kind: str, domain: NDArray[np.int32]) -> MemoryOf:
        # bands and clusters of the same names may hold other users: who is where decides a probe, not what it is called
        assignment = digest(np.ascontiguousarray(domain, "<i4").tobytes())
        division = candidate.division.model_dump(mode="json")
        identity = {**self._identity, "division": division, "assignment": assignment}
        folder = f"{_STAGE}/{candidate.division.name}/{kind}"
        return lambda name, content: Memory(self.run.state, f"{folder}/{name}", {**identity, **content})

    @cached_property
    def _identity(self) -> Record:
        """Every setting that decides what a probe finds."""
        config = self.run.config
        assert config.data is not None
        settings = config.model_dump(mode="json")
        probes = {key: settings["divisions"][key] for key in _PROBE_KEYS}
        return {"data": folder_digest(config.data), "divisions": probes, **{key: settings[key] for key in _IDENTITY}}


def _figures(probed: Probed) -> dict[str, Floats]:
    return {"gain": probed.advantage, "divergence": probed.divergence}
