"""The three stages over one run folder: what each needs, where its state lies, and when it is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters_store.canonical import canonical_json, digest
from network.fusion import Mode
from network.lora import DomainAdapter
from training.adapters import AdapterTrainer, Place, TrainedAdapter
from training.arrays import arrays_in
from training.batches import RowTensors, network_shape
from training.checkpoint import Memory, Record, StateFolder
from training.config import TrainingConfig
from training.dataset import EncodedDataset, Split, encode, split_of
from training.errors import ConfigError, RunExists, StageMissing
from training.fusion import TRAINED_MODES, FusionTrainer, TrainedFusion
from training.packed.adapters import PackedAdapters
from training.packed.fusion import PackedFusionTrainer
from training.prepared import prepared_in
from training.pretrain import Pretrained, pretrain
from training.progress import Meter
from training.ranks import adapter_ranks, fusion_ranks
from training.seeds import Stream

STAGES = ("pretrain", "adapters", "fuse")
_LATER_KEYS = {
    "backbone": ("kind", "norm", "cross_layers", "attention_layers", "heads", "head_width"),
    "adapter": ("interaction_rank", "target_modules"),
    "fusion": ("interaction_rank",),
}


@dataclass(frozen=True)
class Rows:
    """Positions of the rows of each split, as tensors (n,) int64."""

    train: Tensor
    stop: Tensor
    gate: Tensor
    test: Tensor

    @classmethod
    def of(cls, split: Split) -> Rows:
        """Take a split."""
        return cls(*(torch.from_numpy(part) for part in (split.train, split.stop, split.gate, split.test)))


class Run:
    """One run: its configuration, its data, and its folder.

    Args:
        config: with `data` set.
        out: the run folder.
        meter: where progress goes.

    Raises:
        ConfigError: the configuration names no data.
    """

    def __init__(self, config: TrainingConfig, out: Path, meter: Meter) -> None:
        if config.data is None:
            raise ConfigError(
                "no data: set `data` in the configuration, or give --data DIR (`espalier data prepare` makes it)"
            )
        self.config = config
        self.out = out
        self.meter = meter
        self.state = StateFolder(out / "state")
        prepared = prepared_in(config.rows, config.data)
        self.split = split_of(prepared, config.seed)
        arrays = arrays_in(config.rows, self.state.folder)
        self.dataset: EncodedDataset = encode(prepared, self.split.train, config.backbone.width, arrays)
        self.shape = network_shape(self.dataset, config)
        adapter_ranks(self.shape, config.adapter)  # a target that names no module is refused before anything is trained
        self.rows = RowTensors(self.dataset, arrays)
        self.positions = Rows.of(self.split)
        self._data_digest = folder_digest(config.data)

    def pretrained(self) -> Pretrained:
        """Stage 1: train the backbone, or take the finished one."""
        return pretrain(
            self.rows,
            self.positions.train,
            self.positions.stop,
            self.shape,
            self.config.pretrain,
            Stream(self.config.seed, ("pretrain",)),
            self.memory("pretrain", "pretrain"),
            self.meter,
        )

    def adapters(self, pretrained: Pretrained, share: tuple[int, int] = (1, 1)) -> list[TrainedAdapter]:
        """Stage 2: train every domain's adapter, or take the finished ones; of packs, the i-th of n shares."""
        packed = self._packed(pretrained)
        if packed is not None:
            return packed.every(self.pack_memory, share)
        return self.adapter_trainer(pretrained).every(self._adapter_memory)

    def adapter_trainer(self, pretrained: Pretrained) -> AdapterTrainer:
        """What trains one domain's adapter, as the configuration says."""
        return AdapterTrainer(
            pretrained.backbone,
            self.rows,
            self.positions.train,
            self.positions.stop,
            self.config.adapter,
            self.config.adapters,
            self.config.select,
            Stream(self.config.seed, ("adapters",)),
            self.meter,
        )

    def fusions(
        self, pretrained: Pretrained, adapters: Sequence[TrainedAdapter]
    ) -> tuple[FusionTrainer, list[TrainedFusion]]:
        """Stage 3: train every mode, or take the finished ones."""
        kind = FusionTrainer
        if self.config.packed is not None and self.shape.kind != "autoint":  # whose maps of every field are not stacked
            kind = PackedFusionTrainer
        trainer = kind(
            pretrained.backbone,
            self.rows,
            self.positions.train,
            self.positions.stop,
            by_division(adapters, len(self.rows.divisions)),
            self.config.fusion,
            fusion_ranks(self.shape, self.config.fusion, self.config.adapter),
            self.config.adapter.moments,
            self.config.fuse,
            self.config.select,
            Stream(self.config.seed, ("fuse",)),
            self.meter,
        )
        return trainer, [trainer.one(mode, self._fusion_memory(mode)) for mode in TRAINED_MODES]

    def memory(self, stage: str, name: str) -> Memory:
        """The place in the state of one piece of a stage."""
        return Memory(self.state, name, self._identity(stage))

    def pack_memory(self, name: str, content: Record) -> Memory:
        """The place in the state of a pack of stage 2, or of a domain too large for one."""
        return Memory(self.state, f"adapters/{name}", {**self._identity("adapters"), **content})

    def require(self, stage: str) -> None:
        """Check that a stage is finished here.

        Raises:
            StageMissing: it is not.
            StateMismatch: it was trained with other settings.
        """
        packed = None if stage == "pretrain" else self._packed(self.pretrained())
        if packed is not None:
            self._require_packs(packed)
            return
        names = {"pretrain": ["pretrain"], "adapters": [f"adapters/{name}" for name in self._domains()]}[stage]
        for name in names:
            saved = self.memory(stage, name).load()
            if saved is None or not saved.record["finished"]:
                raise StageMissing(
                    f"{self.out} holds no finished {name}: run `espalier train {stage}` into it first, "
                    "or `espalier train all`"
                )

    def _require_packs(self, packed: PackedAdapters) -> None:
        missing = next(packed.unfinished(self.pack_memory), None)
        if missing is not None:
            raise StageMissing(
                f"{self.out} holds no finished adapters/{missing.name}: run `espalier train adapters` into it first, "
                "or bring the share that has it"
            )

    def _packed(self, pretrained: Pretrained) -> PackedAdapters | None:
        """What trains adapters side by side, where the configuration asks for it."""
        config = self.config.packed
        return None if config is None else PackedAdapters(self.adapter_trainer(pretrained), config)

    def _domains(self) -> list[str]:
        return [name for division in self.rows.divisions for name in division.domains]

    def _adapter_memory(self, place: Place) -> Memory:
        return self.memory("adapters", f"adapters/{place.name}")

    def _fusion_memory(self, mode: Mode) -> Memory:
        return self.memory("fuse", f"fuse/{mode}")

    def _identity(self, stage: str) -> dict[str, Any]:
        """Every setting that decides a stage's result, those of the stages before it included."""
        settings = _as_ever(self.config)
        keys = ["seed", "threads", "backbone", "pretrain"]
        if stage != "pretrain":
            keys += ["adapter", "adapters", "select"]
            keys += ["packed"] if self.config.packed is not None else []  # a run of an older build is resumed
        if stage == "fuse":
            keys += ["fusion", "fuse"]
            settings["fusion"] = {k: v for k, v in settings["fusion"].items() if k != "mode"}  # all modes are trained
        return {"data": self._data_digest, **{key: settings[key] for key in keys}}


def _as_ever(config: TrainingConfig) -> dict[str, Any]:
    """The settings as JSON values; keys that came later are left out where they change nothing.

    So a run that an older build began is resumed.
    """
    settings: dict[str, Any] = config.model_dump(mode="json")
    for section, keys in _LATER_KEYS.items():
        changed = getattr(config, section).model_dump(mode="json", exclude_defaults=True)
        for key in keys:
            if key not in changed:
                del settings[section][key]
    return settings


def by_division(adapters: Sequence[TrainedAdapter], divisions: int) -> list[dict[int, DomainAdapter]]:
    """Sort adapters by division, then by domain position."""
    return [{a.place.domain: a.adapter for a in adapters if a.place.division == i} for i in range(divisions)]


def refuse_existing(out: Path, stage: str, resume: bool) -> None:
    """Refuse to start what is already there.

    Args:
        out: the run folder.
        stage: one of `STAGES`, or `all`.
        resume: whether to go on where a run stopped.

    Raises:
        RunExists: the stage has state here and `resume` is not set, or `out` is something else than a run.
    """
    if resume:
        return
    hint = "--resume goes on with it; or choose another --out"
    if stage in ("pretrain", "all"):
        if out.exists() and (not out.is_dir() or not _unused(out)):
            raise RunExists(f"{out} exists and is not empty: {hint}")
    elif StateFolder(out / "state").holds(stage):
        raise RunExists(f"{out} already holds stage {stage}: {hint}")


def _unused(out: Path) -> bool:
    """Whether a folder holds at most the lock of a training that was refused or stopped before it saved anything."""
    return all(path.name == "state" and path.is_dir() and StateFolder(path).empty() for path in out.iterdir())


def folder_digest(folder: Path) -> str:
    """Name a prepared data set by its content."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".parquet"))
    return digest(canonical_json({path.name: _digest_of(path) for path in files}))


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
