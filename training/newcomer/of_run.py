"""Id overlays for the domains of a finished run: each adapter trained on, with embeddings of its domain's own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from adapters_store.artifact import Adapter, decode_adapter, decode_fusion
from adapters_store.backbone import Backbone as Bundle
from adapters_store.backbone import read_bundle
from adapters_store.durable import write_durably
from adapters_store.feature_tables import SIDES, bundled_table
from adapters_store.validation import explain
from adapters_store.verification import LogitsOf
from features.vocabulary import Vocabulary
from training.checkpoint import differences
from training.config import TrainingConfig
from training.dataset import Split, split_of
from training.divisions import row_domains
from training.errors import ConfigError, RunExists, StageMissing, StateMismatch
from training.newcomer.addition import Addition, make_addition
from training.newcomer.config import NewcomerConfig
from training.newcomer.errors import NothingToTrain
from training.newcomer.fused import Pins
from training.newcomer.ground import Ground, natural_division
from training.newcomer.publishing import verify_newcomer
from training.newcomer.rows import NewRows
from training.prepared import PreparedDataset
from training.progress import Meter, SilentMeter
from training.report import read_training_record

OVERLAYS_FILE = "overlays.json"
_PARTS = ("train", "stop", "gate", "test")


@dataclass(frozen=True)
class Outcome:
    """What became of one domain.

    Args:
        replaced: the adapter with an overlay takes the place of the run's.
        why: the gate's reason, or why nothing was trained.
        overlay: side to the number of ids with an embedding of the domain's own.
        figures: of the rows that were not trained on, as `training.newcomer.judging.figures_of` gives them.
    """

    replaced: bool
    why: str
    overlay: Mapping[str, int]
    figures: Mapping[str, Mapping[str, Any]]


def overlay_run(
    run: Path,
    out: Path,
    config: NewcomerConfig,
    engine_of: Callable[[Bundle], LogitsOf],
    *,
    data: Path | None = None,
    resume: bool = False,
    meter: Meter | None = None,
) -> dict[str, Outcome]:
    """Train the natural domains' adapters of a run on, each with an id overlay; what passes goes into a new folder.

    The rows serve what they served in the run, so the gate's are new to each domain. The rival is what the run
    publishes: its adapter, calibrated, or the backbone where it withheld that. Domains are judged one by one, each to
    q / n of n domains (Bonferroni), which is never less strict than the run's gate over all of them.

    Args:
        run: a finished run folder; nothing in it changes.
        out: a new folder, which `espalier publish` takes as it takes a run; the artifacts that stay are links.
        config: how; its overlay is of all ids or the rare ones, for the backbone saw every one. Under the policy
            `withhold` an adapter that does not pass leaves the run's in its place.
        engine_of: what artifacts are verified by.
        data: the prepared data, where it lies elsewhere now.
        resume: go on in `out`; domains that are done stay as they are.
        meter: where progress goes; nowhere by default.

    Returns:
        Domain to what became of it; OUT/overlays.json says the same.

    Raises:
        StageMissing: the folder holds no finished run.
        RunExists: `out` is not empty and `resume` is not set.
        StateMismatch: `out` was begun with other settings.
        ConfigError: the configuration overlays neither all ids nor rare ones, or does not fit the backbone.
        TrainingError: the data cannot be used.
        ArtifactError: an artifact is refused.
    """
    if config.overlay.ids not in ("all", "rare"):
        raise ConfigError(
            f"overlay.ids is {config.overlay.ids!r}: set all or rare, for the backbone saw every id of its own run"
        )
    settings, meter = _settings_of(run, data), meter or SilentMeter()
    work = _Work(run, out, settings, config)
    done = work.begun(resume)
    logits_of = engine_of(work.bundle)
    for domain in work.domains:
        if domain not in done:
            done[domain] = work.one(domain, logits_of, meter)
            work.keep(done)
        meter.say(f"{domain}: {'replaced' if done[domain].replaced else 'kept as it was'}: {done[domain].why}")
    return done


class _Work:
    """One run's domains, one after another."""

    def __init__(self, run: Path, out: Path, settings: TrainingConfig, config: NewcomerConfig) -> None:
        assert settings.data is not None
        self._run = run
        self._out = out
        self.bundle = read_bundle(run / "bundle")
        self.domains = natural_division(self.bundle).domains
        self._prepared = PreparedDataset.load(settings.data)
        self._split = split_of(self._prepared, settings.seed)
        gate = config.gate.model_copy(update={"q": config.gate.q / len(self.domains)})
        kept = settings.calibration.negatives_kept  # of the run's rows, which are the rows here
        if config.calibration.negatives_kept not in (1.0, kept):
            raise ConfigError(
                f"calibration.negatives_kept is {config.calibration.negatives_kept:g}; the rows are the run's, which "
                f"kept {kept:g}: leave the key out"
            )
        calibration = config.calibration.model_copy(update={"negatives_kept": kept})
        self._config = config.model_copy(update={"gate": gate, "calibration": calibration})
        self._identity = {"bundle": self.bundle.revision, "config": self._config.model_dump(mode="json")}

    def begun(self, resume: bool) -> dict[str, Outcome]:
        """Lay the folder out, or find what is done in it."""
        if self._out.exists() and any(self._out.iterdir()) and not resume:
            raise RunExists(f"{self._out} is not empty: --resume goes on with it; or choose another --out")
        path = self._out / OVERLAYS_FILE
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            begun = content["identity"]
            with suppress(ValidationError):  # of an older build's keys, which the differences then name
                begun["config"] = NewcomerConfig.model_validate(begun["config"]).model_dump(mode="json")
            changes = differences(begun, self._identity)
            if changes:
                raise StateMismatch(f"{self._out} was begun with other settings: {'; '.join(changes)}")
            return {name: Outcome(**found) for name, found in content["domains"].items()}
        for source in _artifacts(self._run):
            _link(source, self._out / source.relative_to(self._run))
        self.keep({})
        return {}

    def keep(self, done: Mapping[str, Outcome]) -> None:
        """Write down what is done."""
        content = {"identity": self._identity, "domains": {name: asdict(found) for name, found in done.items()}}
        write_durably(self._out / OVERLAYS_FILE, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def one(self, domain: str, logits_of: LogitsOf, meter: Meter) -> Outcome:
        """Train one domain, and put its adapter in place if it passes."""
        rows, split = self._rows_of(domain)
        live = self._live(domain)
        if len(np.unique(rows.label[split.train])) < 2:
            return _as_it_was("its training rows have fewer than two labels")
        pins = Pins() if live is None else self._pins(live)
        ground = replace(
            self._ground, domain=domain, begun=live, live=None if live is None else live.revision, pins=pins
        )
        try:
            made = make_addition(rows, ground, self._config, meter, split)
        except NothingToTrain:
            return _as_it_was("it fuses others and stays as it is, and no id of it is to have an embedding of its own")
        verify_newcomer(made.content, ground, logits_of)
        if not made.withheld:
            folder = self._out / "adapters"
            folder.mkdir(exist_ok=True)
            write_durably(folder / f"{domain}.safetensors", made.content)
        return Outcome(not made.withheld, _reason(made), made.overlaid, made.figures)

    @cached_property
    def _ground(self) -> Ground:
        """What all domains stand on, without a domain."""
        vocabulary = Vocabulary.from_tensors(self.bundle.tensors("vocabulary"), self.bundle.manifest.fields)
        return Ground("", self.bundle, vocabulary, {side: bundled_table(self.bundle, side) for side in SIDES})

    def _live(self, domain: str) -> Adapter | None:
        path = self._run / "adapters" / f"{domain}.safetensors"
        return decode_adapter(path.read_bytes()) if path.exists() else None

    def _pins(self, live: Adapter) -> Pins:
        """What an adapter of the run pins: files of the run, whose revisions verification holds to it."""
        folder = self._run / "adapters"
        found = {name: decode_adapter((folder / f"{name}.safetensors").read_bytes()) for name in live.manifest.fuses}
        fusion = None if live.manifest.fusion is None else (self._run / "fusion.safetensors").read_bytes()
        return Pins(found, None if fusion is None else decode_fusion(fusion))

    def _rows_of(self, domain: str) -> tuple[NewRows, Split]:
        """A domain's rows, and what each serves."""
        mine = self._positions.get(domain, np.empty(0, np.int64))
        taken = self._prepared.interactions[mine]
        context = [field for field in self._prepared.spec.fields if field.of == "context"]
        frame = taken.select(
            pl.col("user_id", "item_id").cast(pl.String), *(pl.col(one.column).alias(one.name) for one in context)
        )
        part = self._part[mine]
        split = Split(*(np.flatnonzero(part == number).astype(np.int64) for number in range(len(_PARTS))))
        divisions = [one for one in self.bundle.manifest.divisions if one.of == "context"]
        domains = {one.name: row_domains(one, taken) for one in divisions}
        return NewRows(frame, taken["label"].to_numpy().astype(np.float32), domains), split

    @cached_property
    def _positions(self) -> dict[str, NDArray[np.int64]]:
        """Domain to the positions of its rows, ascending."""
        column = self._prepared.interactions["domain_id"].cast(pl.String)
        grouped = pl.DataFrame({"domain": column}).with_row_index().group_by("domain", maintain_order=True)
        return {str(name): rows["index"].to_numpy().astype(np.int64) for (name,), rows in grouped}

    @cached_property
    def _part(self) -> NDArray[np.int8]:
        """What each row serves, by its number in `_PARTS`."""
        part = np.zeros(len(self._prepared.interactions), np.int8)
        for number, name in enumerate(_PARTS):
            part[getattr(self._split, name)] = number
        return part


def _settings_of(run: Path, data: Path | None) -> TrainingConfig:
    record = read_training_record(run).get("config")
    if record is None:
        raise StageMissing(f"{run} holds no finished run: `espalier train all` makes one")
    try:
        settings = TrainingConfig.model_validate({**record, **({} if data is None else {"data": data})})
    except ValidationError as error:
        raise ConfigError(f"{run} is no run of the three stages: {explain(error, TrainingConfig)}") from None
    if settings.data is None:
        raise ConfigError(f"the report of {run} names no data: give --data DIR")
    return settings


def _artifacts(run: Path) -> Iterator[Path]:
    """Every file of a run that publishing reads."""
    yield from sorted(path for path in (run / "bundle").iterdir() if path.is_file())
    yield from (path for path in (run / "fusion.safetensors",) if path.exists())
    yield from sorted((run / "adapters").glob("*.safetensors"))


def _link(source: Path, target: Path) -> None:
    """Let a file stand in two folders; it is only ever replaced, never written into."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _as_it_was(why: str) -> Outcome:
    return Outcome(False, why, {}, {})


def _reason(made: Addition) -> str:
    return "judged by nothing" if made.verdict is None else made.verdict.reason
