"""Stage 2 in packs: the adapters of hundreds of domains in one batched job, each as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from network.lora import DomainAdapter
from training.adapters import AdapterTrainer, Place, TrainedAdapter, places
from training.checkpoint import Memory, Saved
from training.early_stopping import EarlyStopping
from training.loops import Fitted
from training.packed.compensation import compensate
from training.packed.config import PackedConfig
from training.packed.course import Course, Terms
from training.packed.layer import Rules
from training.packed.loop import PackLoop
from training.packed.network import LoraNetwork
from training.packed.packer import MemoryOf, Packer, fitted_of, record_of
from training.packed.plan import Footprint, Pack, Plan, Size, plan
from training.packed.rows import DomainRows, PackInputs
from training.packed.stack import Stack, lora_layout
from training.progress import SilentMeter
from training.ranks import adapter_ranks


@dataclass(frozen=True)
class PackedAdapters(Packer[TrainedAdapter]):
    """Trains the adapters of one backbone in packs.

    Args:
        trainer: what trains one of them alone: the same rows, settings and streams serve here.
        config: how large a pack may be.
    """

    trainer: AdapterTrainer
    config: PackedConfig

    @cached_property
    def plan(self) -> Plan:
        """All packs, and the domains that are too large for one."""
        network, trainer = self._network, self.trainer
        footprint = Footprint(
            network.rules.shape,
            network.layout,
            trainer.schedule,
            trainer.backbone.output.weight.element_size(),
        )
        sizes = (
            Size(place, *(part.count(place.division, place.domain) for part in (self._train, self._stop)))
            for place in places(trainer.rows)
        )
        return plan(sizes, footprint, self.config)

    def every(self, memory_of: MemoryOf, share: tuple[int, int] = (1, 1)) -> list[TrainedAdapter]:
        """As `each`, all at once and in the order of `training.adapters.places`."""
        found = {trained.place: trained for trained in self.each(memory_of, share)}
        return [found[place] for place in places(self.trainer.rows) if place in found]

    @property
    def title(self) -> str:
        """Stage 2, by its name."""
        return "adapters"

    def say(self, text: str) -> None:
        """Show progress."""
        self.trainer.meter.say(text)

    def bare(self) -> PackedAdapters:
        """Return the same without a terminal and without what can be looked up again."""
        return PackedAdapters(replace(self.trainer, meter=SilentMeter()), self.config)

    def one(self, place: Place, memory: Memory) -> TrainedAdapter:
        """Train one domain by itself, or take the finished one."""
        return self.trainer.one(place, memory)

    def pack(self, pack: Pack, memory: Memory) -> list[TrainedAdapter]:
        """Train one pack, or take the finished one.

        Raises:
            StateMismatch: the checkpoint is of other settings, or of another pack.
        """
        saved = memory.load()
        adapters = [self.trainer.untrained(place) for place in pack.places]
        if saved is None:
            stack, fitted = self._train_pack(pack, adapters, memory.name)
            memory.save({"learned": stack.learned, "moments": stack.moments}, record_of(fitted))
        else:
            stack, fitted = _stack_of(saved), fitted_of(saved.record)
        for adapter, tensors in zip(adapters, self._network.layout.unstacked(stack), strict=True):
            adapter.load_tensors(tensors)
        return [
            TrainedAdapter(
                place, adapter.requires_grad_(False).eval(), how, self._train.count(place.division, place.domain)
            )
            for place, adapter, how in zip(pack.places, adapters, fitted, strict=True)
        ]

    def _train_pack(self, pack: Pack, adapters: Sequence[DomainAdapter], name: str) -> tuple[Stack, list[Fitted]]:
        trainer, network = self.trainer, self._network
        train, stop = (self._inputs(rows, pack) for rows in (self._train, self._stop))
        stack = network.layout.stacked([adapter.tensors() for adapter in adapters])
        if trainer.config.moments == "compensated":
            compensate(trainer.backbone, network.rules, network.layout, stack, train)
        courses = [
            Course(
                place,
                trainer.stream.of(place.division_name, place.name),
                rows,
                judged,
                EarlyStopping(trainer.schedule.patience),
            )
            for place, rows, judged in zip(pack.places, train.domains(), stop.domains(), strict=True)
        ]
        terms = Terms(trainer.schedule, trainer.select)
        loop = PackLoop(network, stack, courses, train, stop, terms, name, trainer.meter)
        return loop.run(), [course.fitted(terms) for course in courses]

    def _inputs(self, rows: DomainRows, pack: Pack) -> PackInputs:
        parts: list[Tensor] = [rows.of(place.division, place.domain) for place in pack.places]
        return PackInputs(self.trainer.backbone, self.trainer.rows, parts)

    @cached_property
    def _network(self) -> LoraNetwork:
        backbone, config = self.trainer.backbone, self.trainer.config
        ranks = adapter_ranks(backbone.shape, config)
        rules = Rules(backbone.shape, ranks, backbone.plain, config.moments == "frozen")
        return LoraNetwork(backbone, rules, lora_layout(backbone.shape, ranks))

    @cached_property
    def _train(self) -> DomainRows:
        return DomainRows(self.trainer.rows, self.trainer.train)

    @cached_property
    def _stop(self) -> DomainRows:
        return DomainRows(self.trainer.rows, self.trainer.stop)


def _stack_of(saved: Saved) -> Stack:
    return Stack(saved.tensors["learned"], saved.tensors["moments"])
