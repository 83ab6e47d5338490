"""Follow the backbone record: load a new default beside the old one, flip one reference, let go of what nothing names.

At most two backbones are in memory. One stays while it is the default, here or by the record, or the newest one before
it, or while a slot of it is in memory. A third is not loaded; it is tried again at each look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from adapters_store.backbone import MANIFEST_BOUND, Backbone, file_bound, parse_bundle_manifest
from adapters_store.errors import ArtifactError, BlobMissing, StoreError, StoreUnavailable, WrongFingerprint
from adapters_store.feature_tables import SIDES
from adapters_store.manifest import BackboneManifest
from adapters_store.records import BackboneRecord
from adapters_store.store import AdapterStore
from features.errors import FeatureError
from service.backbones import Backbones
from service.clock import Clock, slept
from service.confirming import confirmed
from service.domains import TRIALS, Domains
from service.engine import Engine
from service.errors import EngineFailed, StartError
from service.loader import LOST
from service.observer import Observer
from service.serving import Serving, verified_serving
from service.slots import SPARE, SlotTable
from service.table_watch import TableFollower
from service.threads import WorkerThread
from service.watcher import Follow

_ASK_AGAIN_S = 1.0  # the record is not read for each adapter of a fingerprint that it does not name
_REFUSED = (ArtifactError, EngineFailed, FeatureError)


class _NoRoom(Exception):
    """Two backbones are in memory, and both are named."""


class BackboneFollower:
    """Brings this replica to the backbones that the record, and its adapters, name.

    Args:
        store: where the record and the bundles are read.
        truth: the same without the disk cache.
        backbones: changed here alone.
        domains: say which revisions are named.
        slots: say which backbones' slots are in memory.
        thread: on which a backbone is read and verified.
        make_engine: for a bundle.
        followed: the records that the watcher follows; those of a resident backbone's tables are kept in it.
        moved: called after each change of what is resident, or of the default.
        clock: when the next look is due.
        observer: told of changes and refusals.
        every_s: between two looks at what could not be loaded, or let go, seconds.
    """

    def __init__(
        self,
        store: AdapterStore,
        truth: AdapterStore,
        backbones: Backbones,
        domains: Domains,
        slots: SlotTable,
        thread: WorkerThread,
        make_engine: Callable[[Backbone], Engine],
        followed: dict[str, Follow],
        moved: Callable[[], None],
        clock: Clock,
        observer: Observer,
        *,
        every_s: float,
    ) -> None:
        self._store = store
        self._truth = truth
        self._backbones = backbones
        self._domains = domains
        self._slots = slots
        self._thread = thread
        self._make_engine = make_engine
        self._followed = followed
        self._moved = moved
        self._clock = clock
        self._observer = observer
        self._every_s = every_s
        self._record = BackboneRecord()
        self._refused: dict[str, str] = {}  # bundle -> why; asked for again when the record moves
        self._fingerprints: dict[str, str] = {}  # of bundles whose manifest was read
        self._missed: tuple[str, float] = ("", 0.0)  # fingerprint that no bundle has, and when that was found
        self._lock = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._follow_tables(backbones.default)
        self._told: tuple[str | None, ...] = ()
        self._tell(None)

    async def follow(self) -> None:
        """Read the record, and serve the default that it names as soon as that is loaded.

        Raises:
            adapters_store.errors.StoreError: the record or the bundle could not be read; what serves keeps serving.
        """
        await self._read_record()
        await self.settle()

    async def settle(self) -> None:
        """Bring the recorded default if it is not the one that serves, and let go of what nothing names any more.

        Raises:
            adapters_store.errors.StoreError: the bundle could not be read.
        """
        async with self._lock:
            kept_out = None
            wanted = self._record.default
            try:
                if wanted is not None and wanted != self._backbones.default.revision:
                    await self._bring_default(wanted)
            except _NoRoom as error:
                kept_out = str(error)
            finally:
                self._let_go_if_idle()
                self._tell(kept_out or self._refused.get(wanted or ""))

    async def bring(self, fingerprint: str) -> Serving:
        """The backbone of a fingerprint, loaded if it is none of those in memory and there is room.

        Raises:
            adapters_store.errors.WrongFingerprint: no bundle that the record names has it, or it cannot be loaded here.
            adapters_store.errors.StoreError: the store could not give it.
        """
        serving = self._backbones.resident(fingerprint)
        if serving is not None:
            return serving
        async with self._lock:
            revision = await self._bundle_of(fingerprint)
            try:
                return await self._load(revision)
            except _NoRoom as error:
                raise WrongFingerprint(
                    f"made for backbone fingerprint {fingerprint}, which is kept out: {error}"
                ) from None
            except LOST:
                raise
            except _REFUSED as error:
                self._refuse(revision, error)
                raise self._unfit(fingerprint, revision) from error

    def start(self) -> None:
        """Look again and again until `stop`."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look_again_and_again())

    async def stop(self) -> None:
        """Look no more."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _bring_default(self, revision: str) -> None:
        if revision in self._refused:
            return
        before = self._backbones.default.revision
        try:
            serving = await self._load(revision)
        except LOST:
            raise
        except _REFUSED as error:
            self._refuse(revision, error)
            return
        if serving is not self._backbones.default:
            self._backbones.flip()
            self._moved()
        moved = {"from": before, "to": revision, "revision": revision}
        self._observer.followed("set_backbone", by=self._record.by, generation=self._record.generation, **moved)

    async def _load(self, revision: str) -> Serving:
        """A bundle as it serves: beside the default, or in the place of another bundle of its fingerprint."""
        fingerprint = await self._fingerprint(revision)
        held = self._backbones.resident(fingerprint)
        if held is not None and (held.revision == revision or revision != self._record.default):
            return held
        if held is None:
            self._make_room()
        fresh = await self._read(revision, None if held is None else held.engine)
        await self._bring_tables(fresh)
        if held is None:
            self._backbones.beside = fresh
            self._follow_tables(fresh)
        else:
            held.take(fresh)
        self._moved()
        return held or fresh

    async def _read(self, revision: str, engine: Engine | None) -> Serving:
        """As `AdapterStore.bundle` does, but whatever takes long is done on the thread."""
        manifest = await self._manifest(revision)
        files = {entry.name: await self._store.map(entry.sha256, file_bound(entry)) for entry in manifest.files}

        def verified() -> Serving:
            backbone = Backbone(revision, manifest, files)
            return verified_serving(backbone, engine or self._make_engine(backbone))

        return await self._thread.run(verified)

    async def _read_record(self) -> None:
        record = await confirmed(self._record.generation, self._store.backbone_record, self._truth.backbone_record)
        if record.generation != self._record.generation:
            self._refused.clear()
        self._record = record

    async def _bring_tables(self, serving: Serving) -> None:
        """Take the tables that the records name; what the store cannot give is left to the watcher."""
        follower = TableFollower(self._store, self._truth, serving, self._observer)
        for side in SIDES:
            try:
                await follower.follow(side)
            except StoreError:
                self._observer.store_failed("follow")

    def _follow_tables(self, serving: Serving) -> None:
        tables = TableFollower(self._store, self._truth, serving, self._observer)
        self._followed |= {key: partial(tables.follow, side) for side, key in tables.keys.items()}

    def _make_room(self) -> None:
        """Let go of the backbone beside the default, unless something names it.

        Raises:
            _NoRoom: something does.
        """
        beside = self._backbones.beside
        if beside is None:
            return
        named = self._named_by(beside)
        if named is not None:
            default = self._backbones.default.revision[:12]
            raise _NoRoom(f"two backbones are in memory: {default}, the default, and {beside.revision[:12]}, {named}")
        self._let_go(beside)

    def _let_go_if_idle(self) -> None:
        """Let the one beside go if it has no slot and was not asked for since the last look."""
        beside = self._backbones.beside
        if beside is None:
            return
        wanted, beside.wanted = beside.wanted, False
        if not wanted and self._record_names(beside) is None and not self._slots.holds(beside):
            self._let_go(beside)

    def _let_go(self, serving: Serving) -> None:
        self._backbones.beside = None
        for key in [key for key in self._followed if key.startswith(f"features/{serving.fingerprint}:")]:
            del self._followed[key]
        for place, role in list(self._slots.of(serving)):  # they stood in for what could not be loaded
            self._slots.drop(place, role)
        self._moved()

    def _named_by(self, serving: Serving) -> str | None:
        """What keeps a backbone in memory; None if nothing does."""
        by_record = self._record_names(serving)
        if by_record is not None:
            return by_record
        for place, role in self._slots.of(serving):
            known = self._domains.get(place) if isinstance(place, str) else None
            slot = self._slots.get(place, role)
            if role in SPARE:
                return f"which domain {place!r} holds {role}"
            if slot is not None and known is not None and slot.revision in (known.live, *map(known.trial, TRIALS)):
                return f"which the {role} revision of domain {place!r} is of"
        return None

    def _record_names(self, serving: Serving) -> str | None:
        if serving.revision == self._record.default:
            return "the recorded default"
        return "the default before it" if serving.revision in self._record.previous[:1] else None

    async def _bundle_of(self, fingerprint: str) -> str:
        """The bundle of a fingerprint, among those that the record names."""
        missed, at = self._missed
        if fingerprint != missed or self._clock.now() - at >= _ASK_AGAIN_S:
            await self._read_record()
        for revision in _recorded(self._record):
            try:
                found = await self._fingerprint(revision)
            except (BlobMissing, ArtifactError):  # an earlier one may have been collected; the rest may be whole
                continue
            if found == fingerprint:
                if revision in self._refused:
                    raise self._unfit(fingerprint, revision)
                return revision
        self._missed = fingerprint, self._clock.now()
        raise WrongFingerprint(
            f"made for backbone fingerprint {fingerprint}; the default has {self._backbones.default.fingerprint}, and "
            "no bundle that is or was the default has that one: publish its bundle first, or make it the default with "
            "`espalier backbone default`"
        )

    async def _fingerprint(self, revision: str) -> str:
        if revision not in self._fingerprints:
            self._fingerprints[revision] = (await self._manifest(revision)).fingerprint
        return self._fingerprints[revision]

    async def _manifest(self, revision: str) -> BackboneManifest:
        content = await self._store.map(revision, MANIFEST_BOUND)
        return await self._thread.run(lambda: parse_bundle_manifest(bytes(content)))

    def _refuse(self, revision: str, error: Exception) -> None:
        self._refused[revision] = str(error)
        told = {"revision": revision, "reason": str(error), "generation": self._record.generation}
        self._observer.refused("set_backbone", by=self._record.by, **told)

    def _unfit(self, fingerprint: str, revision: str) -> WrongFingerprint:
        why = self._refused[revision]
        return WrongFingerprint(
            f"made for backbone fingerprint {fingerprint}, whose bundle {revision} is refused: {why}"
        )

    def _tell(self, kept_out: str | None) -> None:
        beside = self._backbones.beside
        refused = None if kept_out is None else self._record.default
        told = (self._backbones.default.revision, None if beside is None else beside.revision, refused, kept_out)
        if told != self._told:
            self._told = told
            self._observer.backbones(*told)

    async def _look_again_and_again(self) -> None:
        while True:
            await slept(self._clock, self._every_s)
            try:
                await self.settle()
            except StoreError:
                self._observer.store_failed("backbone")
            except Exception as error:  # a fault of ours must not end the looks unseen
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "following the backbones failed", "exception": error}
                )


async def open_default(
    store: AdapterStore, make_engine: Callable[[Backbone], Engine], observer: Observer, *, cached: bool
) -> Serving:
    """The recorded default as it serves; where it cannot be had, the newest before it that can.

    Args:
        store: where the record and the bundles are read.
        make_engine: for a bundle.
        observer: told of those that cannot serve.
        cached: whether an earlier one may be on this disk although the store does not answer.

    Raises:
        StartError: the store names no default backbone, or none that it names can serve.
        adapters_store.errors.StoreError: the store failed, and the disk cache does not have the backbone.
    """
    record = await store.backbone_record()
    if record.default is None:
        raise StartError("the store has no default backbone: publish one with `espalier publish RUN --store URL`")
    first: Exception | None = None
    for revision in _recorded(record):
        try:
            backbone = await store.bundle(revision)
            return verified_serving(backbone, make_engine(backbone))
        except (*_REFUSED, BlobMissing, StoreUnavailable) as error:
            if isinstance(error, StoreUnavailable) and not cached:
                raise
            first = first or error
            observer.backbones(None, None, revision, str(error))
    if isinstance(first, StoreUnavailable):
        raise first
    raise StartError(f"backbone {record.default} cannot serve: {first}") from first


def _recorded(record: BackboneRecord) -> Sequence[str]:
    return [*([] if record.default is None else [record.default]), *record.previous]
