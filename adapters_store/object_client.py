"""The few requests that the object backend makes: each bounded in time, each failure one of our errors."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
)
from obstore.exceptions import UnauthenticatedError as Unauthenticated

from adapters_store.errors import StoreRefused, StoreUnavailable
from adapters_store.object_urls import SLOWEST_BYTES_S, ObjectUrl, connect

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion  # not there at run time

_PAGE = 1000
_WRITES = "writes"  # user metadata
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_MISSING = "there is no such bucket: create it, or check the URL"


class TagForm(Enum):
    """How a server wants an ETag in If-Match."""

    AS_GIVEN = "as given"
    BARE = "without quotes"


@dataclass(frozen=True, slots=True)
class Tag:
    """What names one state of one object.

    Args:
        e_tag: ETag as the server gave it.
        number: The object's version where the provider counts them (GCS conditions on it), else None.
    """

    e_tag: str
    number: str | None = None

    @property
    def bare(self) -> str:
        """The ETag without quotes: listings and replies of one server need not agree on them."""
        return self.e_tag.removeprefix("W/").strip('"')


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was read.

    Args:
        content: Its bytes.
        tag: Names this state of it.
        writes: Names of the conditional writes that led to it, the last one last; only so many are kept.
    """

    content: bytes
    tag: Tag
    writes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing names it."""

    path: str
    tag: Tag


class ServerFailed(StoreUnavailable):
    """The server answered, and says that it failed: whatever it did of a request, it has done."""


class ObjectClient:
    """Requests to one object store.

    Args:
        url: Which.
        timeout_s: Seconds that one request and its repetitions may take; more for a large body.

    Raises:
        BadId: The URL cannot be used.
    """

    def __init__(self, url: ObjectUrl, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._patient = connect(url, timeout_s=timeout_s, retry=True)
        # Conditional writes are sent once. Repeated after a lost reply, ours would find itself there and come back as
        # a lost race; so "precondition failed" always answers the one request that was sent, and means that it did not
        # write, while a lost reply is StoreUnavailable: unknown. Reading back and comparing would not tell instead:
        # two writers may write the same bytes, and what was ours may be replaced already. (A load balancer must not
        # repeat PUTs either.)
        self._once = connect(url, timeout_s=timeout_s, retry=False)

    async def get(self, path: str, check_size: Callable[[int], None] = lambda size_bytes: None) -> Stored | None:
        """The object, or None.

        Args:
            path: Of the object.
            check_size: Called with its size before the first of its bytes is read; what it raises ends the request.
        """
        with self._reported("GET", path):
            async with self._bounded():
                try:
                    found = await self._patient.get_async(path)
                except FileNotFoundError as error:
                    self._needs_bucket(error)
                    return None
            check_size(found.meta["size"])
            tag = self._tag(found.meta["e_tag"], found.meta["version"])
            writes = str(found.attributes.get(_WRITES, "")).split()
            async with self._bounded(found.meta["size"]):
                return Stored(bytes(await found.bytes_async()), tag, tuple(writes))

    async def has(self, path: str) -> bool:
        """Whether the object is there."""
        with self._reported("HEAD", path):
            async with self._bounded():
                try:
                    await self._patient.head_async(path)
                except FileNotFoundError as error:
                    self._needs_bucket(error)
                    return False
            return True

    async def put(self, path: str, content: bytes) -> None:
        """Write the object, whatever is there."""
        with self._reported("PUT", path):
            async with self._bounded(len(content)):
                await self._patient.put_async(path, content)

    async def create(self, path: str, content: bytes, writes: Sequence[str] = ()) -> bool:
        """Write the object if there is none; whether it was written.

        Raises:
            ServerFailed: Unknown whether it was, but it is over.
            StoreUnavailable: Unknown whether it was, or will be.
        """
        with self._reported("PUT", path):
            async with self._bounded(len(content)):
                try:
                    await self._put_once(path, content, "create", writes)
                except (AlreadyExistsError, PreconditionError) as error:
                    self._needs_bucket(error)
                    return False
            return True

    async def replace(self, path: str, content: bytes, tag: Tag, form: TagForm, writes: Sequence[str] = ()) -> bool:
        """Write the object if it still is the one with this tag; whether it was written.

        Raises:
            ServerFailed: Unknown whether it was, but it is over.
            StoreUnavailable: Unknown whether it was, or will be.
        """
        mode: UpdateVersion = {"e_tag": tag.bare if form is TagForm.BARE else tag.e_tag}
        if tag.number is not None:
            mode["version"] = tag.number
        with self._reported("PUT", path):
            async with self._bounded(len(content)):
                try:
                    await self._put_once(path, content, mode, writes)
                except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                    self._needs_bucket(error)
                    return False
            return True

    async def delete(self, path: str) -> None:
        """Remove the object; an absent one is no error."""
        with self._reported("DELETE", path):
            async with self._bounded():
                try:
                    await self._patient.delete_async(path)
                except FileNotFoundError as error:
                    self._needs_bucket(error)

    async def list(self, folder: str, after: str | None = None) -> AsyncGenerator[Listed, None]:
        """The objects in a folder and below it, in order of their paths, from behind `after` on.

        Args:
            folder: "" is all of the bucket.
            after: A path; None is from the start.
        """
        with self._reported("list", folder):
            pages = self._patient.list(folder or None, offset=after, chunk_size=_PAGE)
            last = ""
            while True:
                async with self._bounded():
                    try:
                        page = await anext(pages)
                    except StopAsyncIteration:
                        return
                for one in page:
                    if one["path"] <= last:
                        raise StoreUnavailable(
                            f"{self._url} lists its objects out of order: no store of this kind fits"
                        )
                    last = one["path"]
                    yield Listed(last, self._tag(one["e_tag"], one["version"]))

    async def _put_once(self, path: str, content: bytes, mode: "PutMode", writes: Sequence[str]) -> None:
        attributes = {"Content-Type": "application/json", _WRITES: " ".join(writes)}
        await self._once.put_async(path, content, mode=mode, attributes=attributes, use_multipart=False)

    @asynccontextmanager
    async def _bounded(self, size: int = 0) -> AsyncIterator[None]:
        async with asyncio.timeout(self._timeout_s + size / SLOWEST_BYTES_S):
            yield

    @contextmanager
    def _reported(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise StoreUnavailable(f"{self._url} did not answer {verb} {path} within {self._timeout_s:g} s") from None
        except (BaseError, FileNotFoundError, ValueError, OSError) as error:
            if isinstance(error, NotSupportedError) or "status code: 501" in str(error):
                raise StoreRefused(f"{self._url} does not know how to {verb} {path} as asked (status 501)") from None
            status = _STATUS.search(str(error))
            kind = ServerFailed if status and status[1].startswith("5") else StoreUnavailable
            # The library's own text may quote the request and the server's reply, signatures with them.
            raise kind(f"{self._url}: {verb} {path} failed: {_reason(error)}") from None

    def _needs_bucket(self, error: Exception) -> None:
        """Tell "not there" and "not as expected", which are answers, from a bucket that is not there."""
        if any(mark in str(error) for mark in _NO_BUCKET):
            raise StoreUnavailable(f"{self._url}: {_MISSING}") from None

    def _tag(self, e_tag: str | None, number: str | None) -> Tag:
        if not e_tag:
            raise StoreUnavailable(f"{self._url} names no ETag with an object: no store of this kind fits")
        return Tag(e_tag, number if self._url.scheme == "gs" else None)


def _reason(error: Exception) -> str:
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if any(mark in text for mark in _NO_BUCKET):
        return _MISSING
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return "no credentials: set them in the environment, or skip_signature=true in the URL"
    if isinstance(error, PermissionDeniedError | Unauthenticated) or (status and status[1] in ("401", "403")):
        return f"access denied{f' ({code[1]})' if code else ''}: check the credentials and what they may do"
    if status:
        return f"status {status[1]}{f' ({code[1]})' if code else ''}"
    for mark, reason in (
        ("Connect", "cannot connect: check the endpoint, and that it runs"),
        ("kind: Timeout", "no answer in time"),
        ("kind: Decode", "the reply broke off"),
    ):
        if mark in text:
            return reason
    return "the request could not be sent, or its reply not be read"
