"""From an artifact's bytes to a slot: decode, fetch pins, verify with this replica's engine, fold, prepare.

Everything that costs runs on the loader thread; the event loop only waits for the store. With a disk cache, what was
verified and folded once is kept there, and whoever loads it next, in this process or another, only prepares it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from async_lru import alru_cache

from adapters_store.artifact import Adapter, Fusion, decode_adapter, decode_fusion
from adapters_store.bounds import Bound
from adapters_store.errors import (
    ArtifactError,
    BlobMissing,
    DigestMismatch,
    LimitExceeded,
    MissingPin,
    WrongFingerprint,
    WrongPin,
)
from adapters_store.folding import Combination, Folded, fold_auxiliary_only
from adapters_store.pausing import Pause
from adapters_store.records import seconds_of
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from adapters_store.verification import verify_adapter, verify_fusion
from service.backbones import Backbones
from service.engine import Adopts, Engine, Packed, Prepared
from service.errors import EngineFailed
from service.prepared.blobs import PreparedBlobs
from service.prepared.contents import Accepted
from service.prepared.turns import Turn
from service.serving import Serving
from service.slots import Slot
from service.threads import WorkerThread

T = TypeVar("T")

_CACHED_PINS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """An adapter that this replica's engine reproduces.

    Args:
        folds: what its combinations fold into.
        serving: its backbone.
        bundle: revision of the bundle that it was verified with; that of its backbone may be another by now.
    """

    adapter: Adapter
    folds: Mapping[Combination, Folded]
    serving: Serving
    bundle: str

    def accepted(self) -> Accepted:
        """What serving needs of it."""
        manifest = self.adapter.manifest
        made_s = None if manifest.created_at is None else seconds_of(manifest.created_at)
        return Accepted(tuple(manifest.auxiliary), dict(manifest.fuses), manifest.fusion, made_s, self.folds)


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A slot, and what is kept of it.

    Args:
        kept: as the engine packed it where the engine can take that back, else the folds.
    """

    slot: Slot
    kept: Accepted


class Preparer:
    """Turns artifacts into slots, each by the backbone that it was made for.

    Args:
        store: where blobs are read.
        backbones: those in memory.
        bring: loads the backbone of a fingerprint if it is not in memory, or raises what keeps it out.
        thread: the loader thread.
        limits: checked before anything is allocated; no stored artifact of more `bytes` is read.
        pause: called on the loader thread between two steps.
        blobs: what was prepared before, on the local disk; None where there is no disk cache.
    """

    def __init__(
        self,
        store: AdapterStore,
        backbones: Backbones,
        bring: Callable[[str], Awaitable[Serving]],
        thread: WorkerThread,
        limits: TensorLimits,
        pause: Pause,
        blobs: PreparedBlobs | None = None,
    ) -> None:
        self._store = store
        self._backbones = backbones
        self._bring = bring
        self._thread = thread
        self._limits = limits
        self._bound = artifact_bound(limits)
        self._pause = pause
        self._blobs = blobs
        # many domains pin the same few auxiliaries and one fusion: they are read and decoded once
        self._pinned_adapter = alru_cache(maxsize=_CACHED_PINS)(self._read_adapter)
        self._pinned_fusion = alru_cache(maxsize=_CACHED_PINS)(self._read_fusion)

    async def fetch(self, revision: str) -> bytes:
        """The bytes of a stored adapter or fusion.

        Raises:
            adapters_store.errors.LimitExceeded: the store has more than an artifact may have; they are not read.
            adapters_store.errors.StoreError: the store could not give it.
        """
        return await self._store.get(revision, self._bound)

    async def verified(self, domain: str, body: bytes | memoryview) -> Verified:
        """Decode an adapter, fetch what it pins and verify it.

        Raises:
            adapters_store.errors.ArtifactError: it is refused; the message names the fault.
            adapters_store.errors.StoreError: the store could not give a pin.
        """
        return await self._verified(domain, body, lambda verified: verified)

    async def verified_revision(self, domain: str, revision: str) -> Verified:
        """The same for a stored revision."""
        return await self.verified(domain, await self.fetch(revision))

    async def verified_auxiliary(self, domain: str, revision: str, serving: Serving) -> Verified:
        """The same for an auxiliary adapter that shall score alone, by one backbone.

        Raises:
            adapters_store.errors.WrongFingerprint: it was made for another one.
        """
        body = await self.fetch(revision)
        return await self._verified(domain, body, lambda verified: verified, serving)

    async def slot_of_revision(self, domain: str, revision: str) -> Slot:
        """A stored revision prepared: as it was kept on disk if it was, else verified; errors as `verified`."""
        if self._blobs is None:
            return await self._verified(domain, await self.fetch(revision), self._slot)
        kept = await self._blobs.find(domain, revision, self._backbones, self._kept(revision))
        if kept is not None:
            return kept
        async with self._blobs.turn(revision) as turn:
            if turn.waited:
                kept = await self._blobs.find(domain, revision, self._backbones, self._kept(revision))
                if kept is not None:
                    return kept
            verified, made = await self._verified(domain, await self.fetch(revision), self._with_made)
            self._keep(verified, made, turn)
            return made.slot

    async def verified_fusion(self, body: bytes | memoryview) -> Fusion:
        """Decode and verify a fusion."""
        fusion = await self._thread.run(partial(decode_fusion, body, self._limits))
        serving = await self._bring(fusion.manifest.fingerprint)
        await self._thread.run(partial(verify_fusion, fusion, serving.backbone))
        return fusion

    async def slot(self, verified: Verified) -> Slot:
        """Prepare every combination of a verified adapter, and keep it on disk for who loads it next."""
        made = await self._thread.run(partial(self._made, verified))
        if self._blobs is not None:
            async with self._blobs.turn(verified.adapter.revision, wait=False) as turn:
                self._keep(verified, made, turn)
        return made.slot

    async def settled(self) -> None:
        """Wait until what was prepared is on the disk."""
        if self._blobs is not None:
            await self._blobs.settle()

    async def stop(self) -> None:
        """Leave out what is not on the disk yet."""
        if self._blobs is not None:
            await self._blobs.stop()

    async def auxiliary_slot(self, adapters: Sequence[Adapter], serving: Serving) -> Slot:
        """A slot of verified auxiliary adapters of one backbone only, in the order of the divisions.

        The fusion that all of them pin weighs them; where they do not agree on one they count alike.

        Raises:
            adapters_store.errors.ArtifactError: the fold is refused.
            adapters_store.errors.StoreError: the store could not give the fusion.
            EngineFailed: the engine cannot score it.
        """
        pinned = {adapter.manifest.fusion for adapter in adapters}
        # the softmax over one is 1, whatever its query is
        shared = next(iter(pinned)) if len(adapters) > 1 and len(pinned) == 1 else None
        fusion = await self._fusion_pin(shared)
        prepared = await self._thread.run(
            lambda: serving.engine.prepare(fold_auxiliary_only(serving.backbone, adapters, fusion))
        )
        fuses = {adapter.manifest.domain: adapter.revision for adapter in adapters}
        unfolded = tuple(sorted(revision for revision in pinned - {shared} if revision is not None))
        return Slot(None, (), {(): prepared}, fuses, serving, fusion=shared, unfolded=unfolded)

    async def _verified(
        self, domain: str, body: bytes | memoryview, finish: Callable[[Verified], T], only: Serving | None = None
    ) -> T:
        """Decode, verify and finish: in one turn of the thread where nothing is pinned, as each turn costs the loop."""
        adapter, finished = await self._thread.run(partial(self._unpinned, domain, body, finish, only))
        if finished is not None:
            return finished
        serving = await self._bring(adapter.manifest.fingerprint)
        auxiliaries = await self._pins(adapter)
        fusion = await self._fusion_pin(adapter.manifest.fusion)
        return await self._thread.run(lambda: finish(self._verify(serving, domain, adapter, auxiliaries, fusion)))

    def _unpinned(
        self, domain: str, body: bytes | memoryview, finish: Callable[[Verified], T], only: Serving | None
    ) -> tuple[Adapter, T | None]:
        self._pause()
        adapter = decode_adapter(body, self._limits, self._pause)
        claimed = adapter.manifest.fingerprint
        if only is not None and claimed != only.fingerprint:
            raise WrongFingerprint(
                f"adapter of domain {domain!r} was made for backbone fingerprint {claimed}; alone it would score by "
                f"the default backbone, whose fingerprint is {only.fingerprint}"
            )
        serving = self._backbones.resident(claimed)
        if serving is None or adapter.manifest.fuses or adapter.manifest.fusion is not None:
            return adapter, None
        return adapter, finish(self._verify(serving, domain, adapter, {}, None))

    def _verify(
        self,
        serving: Serving,
        domain: str,
        adapter: Adapter,
        auxiliaries: Mapping[str, Adapter],
        fusion: Fusion | None,
    ) -> Verified:
        self._pause()
        backbone = serving.backbone  # another bundle of the same fingerprint may take its place meanwhile
        folds = verify_adapter(
            adapter,
            backbone,
            auxiliaries,
            fusion,
            serving.engine.logits,
            domain=domain,
            limits=self._limits,
            pause=self._pause,
        )
        return Verified(adapter, folds, serving, backbone.revision)

    def _slot(self, verified: Verified) -> Slot:
        return self._prepared(verified.adapter.revision, verified.accepted(), verified.serving)

    def _made(self, verified: Verified) -> _Made:
        accepted, engine = verified.accepted(), verified.serving.engine
        slot = self._prepared(verified.adapter.revision, accepted, verified.serving)
        if not isinstance(engine, Adopts):
            return _Made(slot, accepted)
        kept = {
            combination: engine.packed(slot.combinations[combination], folded) or folded
            for combination, folded in verified.folds.items()
        }
        return _Made(slot, replace(accepted, folds=kept))

    def _with_made(self, verified: Verified) -> tuple[Verified, _Made]:
        return verified, self._made(verified)

    def _kept(self, revision: str) -> Callable[[Accepted, Serving, str], Slot]:
        return partial(self._prepared, revision)

    def _prepared(self, revision: str, accepted: Accepted, serving: Serving, kept_as: str | None = None) -> Slot:
        combinations = {}
        for combination, own in accepted.folds.items():
            self._pause()
            combinations[combination] = _ready(serving.engine, own)
        return Slot(
            revision,
            accepted.divisions,
            combinations,
            accepted.fuses,
            serving,
            accepted.made_s,
            accepted.overlay,
            accepted.fusion,
            kept_as,
        )

    def _keep(self, verified: Verified, made: _Made, turn: Turn) -> None:
        assert self._blobs is not None
        domain, revision = verified.adapter.manifest.domain, verified.adapter.revision
        identity = self._blobs.identity(verified.serving, verified.bundle, domain, revision)
        self._blobs.keep(identity, made.kept, made.slot.nbytes, turn)

    async def _pins(self, adapter: Adapter) -> dict[str, Adapter]:
        """What an adapter fuses, by domain; more than could ever be folded is refused before any of it is read."""
        pins, limit = adapter.manifest.fuses, self._limits.combinations
        if 1 + len(pins) > limit:  # in whatever divisions they are: each pin alone, and none
            raise LimitExceeded(f"fuses pins {len(pins)} adapters: more combinations than the limit of {limit}")
        return {domain: await self._pin(domain, revision) for domain, revision in sorted(pins.items())}

    async def _pin(self, domain: str, revision: str) -> Adapter:
        with _named(f"fuses pins revision {revision} of domain {domain!r}"):
            return await self._pinned_adapter(revision)

    async def _fusion_pin(self, revision: str | None) -> Fusion | None:
        if revision is None:
            return None
        with _named(f"fusion pins revision {revision}"):
            return await self._pinned_fusion(revision)

    async def _read_adapter(self, revision: str) -> Adapter:
        return await self._thread.run(partial(decode_adapter, await self.fetch(revision), self._limits))

    async def _read_fusion(self, revision: str) -> Fusion:
        return await self._thread.run(partial(decode_fusion, await self.fetch(revision), self._limits))


def artifact_bound(limits: TensorLimits) -> Bound:
    """How large a stored adapter or fusion may be: as large as one that is published here."""
    return Bound(limits.bytes, "setting max_adapter_bytes")


def _ready(engine: Engine, own: Folded | Packed) -> Prepared:
    """One combination, prepared, or adopted where it was packed before."""
    if not isinstance(own, Packed):
        return engine.prepare(own)
    if not isinstance(engine, Adopts):
        raise EngineFailed(f"the {engine.name} engine takes nothing that was packed before")
    return engine.adopt(own)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say which pin a fault is about."""
    try:
        yield
    except BlobMissing as error:
        raise MissingPin(f"{what}, which the store does not have: publish it first") from error
    except DigestMismatch:  # the store damaged it: no fault of whoever pins it
        raise
    except ArtifactError as error:
        raise WrongPin(f"{what}, which cannot be read as such: {error}") from error
