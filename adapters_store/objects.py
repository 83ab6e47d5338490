"""`s3://bucket/prefix`, `gs://`, `az://`: object storage as the truth.

::

    <prefix>/blobs/<2 hex>/<digest>
    <prefix>/records/<key>             canonical JSON; no suffix, so that a listing has the order of the keys
    <prefix>/probe/<random>            made and removed when a writer starts

A store is as durable as its provider makes an acknowledged write. Records are changed by conditional writes: created
with If-None-Match: *, replaced with If-Match on the ETag of the very read whose generation was checked. A server that
ignores these conditions would lose changes in silence, so each writer probes it first. A record's metadata names the
last writes that led to it: some servers (Ceph RGW) answer a lost race with "internal error", and only these names tell
whose write it was that won. Listings are taken to show every write that was acknowledged before them, as those of S3,
GCS, Azure and Ceph do. Blobs above 5 MiB are sent in parts; let a lifecycle rule remove uploads that were broken off.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from adapters_store.backend import Backend, Change, Changes, Record, Versioned, in_flight
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import canonical_json, parse_json
from adapters_store.errors import BlobMissing, MalformedRecord
from adapters_store.ids import is_revision
from adapters_store.object_client import Listed, ObjectClient, ServerFailed, Stored, Tag, TagForm
from adapters_store.object_urls import ObjectUrl, parse_object_url
from adapters_store.polling import PollingFeed
from adapters_store.probing import probe

_PARTING_S = 0.05
# Requests in flight of one bulk call: a request takes a round trip of tens of milliseconds and next to no work.
_IN_FLIGHT = 64
_WRITES = 32  # names of writes that a record's metadata keeps
_REMEMBERED = 1024  # records whose state is kept from reading to writing: a request less for each change
_SAFE = "/:="
_CURSOR = re.compile(r"[A-Za-z0-9_:=.~-]+(/[A-Za-z0-9_:=.~-]+)*")


def open_objects(url: str, *, timeout_s: float) -> "ObjectBackend":
    """Open an object store; no request is sent yet.

    Args:
        url: `s3://bucket/prefix?endpoint=http://host:port&region=...&poll_s=10&skip_signature=true`, gs:// and az://
            alike; credentials come from the environment.
        timeout_s: Seconds that one request may take, its repetitions included.

    Returns:
        The backend; the caller closes it.

    Raises:
        BadId: The URL cannot be used; the message says why.
    """
    parsed = parse_object_url(url)
    return ObjectBackend(ObjectClient(parsed, timeout_s=timeout_s), parsed)


@dataclass(frozen=True, slots=True)
class _State:
    """What a conditional write needs to know of the record that it replaces."""

    generation: int
    tag: Tag
    writes: tuple[str, ...]


class ObjectBackend(Backend):
    """Blobs and records in one folder of a bucket.

    Args:
        client: Requests to the store.
        url: Where in it.
    """

    def __init__(self, client: ObjectClient, url: ObjectUrl) -> None:
        self._client = client
        self._name = str(url)
        root = f"{url.prefix}/" if url.prefix else ""
        self._blobs, self._records, self._probes = (f"{root}{name}" for name in ("blobs", "records", "probe"))
        self._states: dict[str, _State] = {}
        self._form: TagForm | None = None
        self._probing = asyncio.Lock()
        self._look: asyncio.Task[dict[str, str]] | None = None
        self._feed = PollingFeed(self._looked, url.poll_s)

    async def prepare_writing(self) -> None:
        """See Backend; the probe runs once, however many ask."""
        await self._tag_form()

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend; what is there is overwritten, so that a damaged blob is healed."""
        await self._client.put(self._blob_path(digest), content)

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        await in_flight(blobs.items(), lambda blob: self.put_blob(*blob), _IN_FLIGHT)

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend; the server says how large an object is before its bytes are read."""
        found = await self._client.get(self._blob_path(digest), lambda size: bound.check(digest, size))
        if found is None:
            raise BlobMissing(f"no blob {digest} in the store")
        return found.content

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        return await self._client.has(self._blob_path(digest))

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """See Backend."""
        found = await in_flight(digests, self.has_blob, _IN_FLIGHT)
        return {digest for digest, there in zip(digests, found, strict=True) if there}

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        async with aclosing(self._client.list(self._blobs)) as listed:
            names = [one.path.rpartition("/")[2] async for one in listed]
        return [name for name in names if is_revision(name)]

    async def delete_blob(self, digest: str) -> None:
        """See Backend."""
        await self._client.delete(self._blob_path(digest))

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        found = await self._client.get(self._record_path(key))
        if found is None:
            return None
        record = _parsed(key, found)
        self._remember(key, _State(record["generation"], found.tag, found.writes))
        return Versioned(record, found.tag.bare)

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """See Backend."""
        found = await in_flight(keys, self.read_record, _IN_FLIGHT)
        return {key: record for key, record in zip(keys, found, strict=True) if record is not None}

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend.

        Raises:
            StoreRefused: The store does not keep conditions; nothing was written.
        """
        form = await self._tag_form()
        path, content = self._record_path(key), canonical_json(dict(record))
        mine = secrets.token_hex(6)
        try:
            if expected == 0:
                return await self._client.create(path, content, [mine])
            state = await self._state(key, expected)
            if state is None:
                return False
            writes = [*state.writes[1 - _WRITES :], mine]
            return await self._client.replace(path, content, state.tag, form, writes)
        except ServerFailed:
            happened = await self._happened(key, expected, mine)
            if happened is None:
                raise
            return happened

    async def compare_and_set_many(self, changes: Sequence[Change]) -> list[bool]:
        """See Backend."""
        return await in_flight(changes, lambda one: self.compare_and_set(one.key, one.expected, one.record), _IN_FLIGHT)

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend.

        Deleting on a condition is not to be had everywhere. So the record is first replaced by itself, one generation
        on: of many who delete or change it, one wins. Who reads it in the moment between can write into it once more
        and lose that; these records are worth nothing later, and their writers write again.
        """
        held = await self.read_record(key)
        if held is None or held.record["generation"] != expected:
            return False
        if not await self.compare_and_set(key, expected, held.record | {"generation": expected + 1}):
            return False
        await self._client.delete(self._record_path(key))
        return True

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        keys: list[str] = []
        if limit == 0:
            return keys
        async with aclosing(self._listed(prefix, after)) as listed:
            async for key, _ in listed:
                keys.append(key)
                if len(keys) == limit:
                    break
        return keys

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend; a version is the ETag, which listings name too."""
        async with aclosing(self._listed(prefix)) as listed:
            return {key: one.tag.bare async for key, one in listed}

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend; looks every `poll_s` seconds, whoever and how many ask."""
        return await self._feed.changes(position, wait_s)

    async def close(self) -> None:
        """See Backend."""
        if self._look is not None:
            self._look.cancel()
        # obstore's threads let go of Python objects a little after the reply; an interpreter that ends in that moment
        # is aborted by them (github.com/PyO3/pyo3-async-runtimes/issues/40, open)
        await asyncio.sleep(_PARTING_S)

    def _blob_path(self, digest: str) -> str:
        return f"{self._blobs}/{digest[:2]}/{digest}"

    def _record_path(self, key: str) -> str:
        return f"{self._records}/{quote(key, safe=_SAFE)}"

    async def _looked(self) -> dict[str, str]:
        # A listing goes on when the one who waits for it gives up, and serves the next: asked for short times only, or
        # cut short by hints (LayeredBackend), a feed would otherwise never finish that of a large store.
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self.versions(""))
            self._look.add_done_callback(lambda look: look.cancelled() or look.exception())
        return await asyncio.shield(self._look)

    async def _tag_form(self) -> TagForm:
        if self._form is None:
            async with self._probing:
                if self._form is None:
                    self._form = await probe(self._client, self._probes, self._name)
        return self._form

    async def _state(self, key: str, expected: int) -> _State | None:
        """What names the record at this generation, or None if it is at another."""
        state = self._states.pop(key, None)
        if state is not None and state.generation == expected:
            return state  # if it is no longer the last, its tag is stale and the write is refused
        found = await self._client.get(self._record_path(key))
        if found is None or _parsed(key, found)["generation"] != expected:
            return None
        return _State(expected, found.tag, found.writes)

    def _remember(self, key: str, state: _State) -> None:
        self._states.pop(key, None)
        self._states[key] = state
        if len(self._states) > _REMEMBERED:
            del self._states[next(iter(self._states))]

    async def _happened(self, key: str, expected: int, mine: str) -> bool | None:
        """Whether a write that is over was carried out, or None where the record as it is now cannot tell."""
        found = await self._client.get(self._record_path(key))
        if found is None:
            return None
        if mine in found.writes:
            return True
        since = _parsed(key, found)["generation"] - expected
        return False if 0 < since <= len(found.writes) else None

    async def _listed(self, prefix: str, after: str = "") -> AsyncGenerator[tuple[str, Listed], None]:
        """Key and object of the records from behind `after` on; asks for little more than what starts with `prefix`."""
        folder = prefix.rpartition("/")[0]
        start = max(after, _before(prefix))
        offset = f"{self._records}/{start}" if _CURSOR.fullmatch(start) else None
        where = f"{self._records}/{folder}" if folder else self._records
        async with aclosing(self._client.list(where, offset)) as listed:
            async for one in listed:
                key = one.path.removeprefix(f"{self._records}/")
                if key.startswith(prefix):
                    if key > after:
                        yield key, one
                elif key > prefix:
                    return


def _before(prefix: str) -> str:
    """Something that sorts before all that start with a prefix and behind nearly all else that sorts before them.

    Listings are asked for by folders. This lets `backbone` and `release` be found without listing every domain.
    """
    if not prefix or prefix.endswith("/"):
        return ""
    return f"{prefix[:-1]}{chr(ord(prefix[-1]) - 1)}~"


def _parsed(key: str, found: Stored) -> Record:
    try:
        record = parse_json(found.content)
    except ValueError as error:
        raise MalformedRecord(f"record {key!r} is no JSON: {error}") from None
    if not isinstance(record, dict) or type(record.get("generation")) is not int:
        raise MalformedRecord(f"record {key!r} is no JSON object with a generation")
    return record
