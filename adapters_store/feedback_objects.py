"""Feedback segments in an object store: `<prefix>/feedback/<day>/<name>.ndjson`, beside blobs and records."""

import asyncio
from contextlib import aclosing
from urllib.parse import parse_qsl, urlencode, urlsplit

from adapters_store.errors import BadId, StoreUnavailable
from adapters_store.feedback_lines import parse_name
from adapters_store.object_client import ObjectClient
from adapters_store.object_urls import parse_object_url

FOLDER = "feedback"
_OBJECTS = frozenset({"s3", "gs", "az"})
# as in adapters_store.objects: obstore's threads let go of Python objects a little after the reply
_PARTING_S = 0.05


class FeedbackObjects:
    """The segments of one store. Names are unique and segments never change, so writing one twice does no harm.

    Args:
        client: requests to the store.
        prefix: folder of the store in its bucket.
        name: of the store, for messages.
    """

    def __init__(self, client: ObjectClient, prefix: str, name: str) -> None:
        self._client = client
        self._root = f"{prefix}/{FOLDER}" if prefix else FOLDER
        self._name = name

    def __str__(self) -> str:
        """The store without its options, as messages name it."""
        return f"{self._name}/{FOLDER}"

    async def put(self, key: str, content: bytes) -> None:
        """Write a segment; acknowledged means as durable as the provider makes it.

        Args:
            key: `SegmentName.key`.
            content: whole lines.

        Raises:
            StoreUnavailable: the store does not answer, or refuses.
        """
        await self._client.put(f"{self._root}/{key}", content)

    async def keys(self) -> list[str]:
        """Keys of all segments, sorted: by day, then by time.

        Raises:
            StoreUnavailable: the store does not answer, or refuses.
        """
        async with aclosing(self._client.list(self._root)) as listed:
            keys = [one.path.removeprefix(f"{self._root}/") async for one in listed]
        return [key for key in keys if parse_name(key.rpartition("/")[2])]

    async def get(self, key: str) -> bytes:
        """A segment's bytes.

        Raises:
            StoreUnavailable: the store does not answer, or the segment is not there (any longer).
        """
        found = await self._client.get(f"{self._root}/{key}")
        if found is None:
            raise StoreUnavailable(f"{self} has no {key} any longer: it was removed meanwhile; run the command again")
        return found.content

    async def delete(self, key: str) -> None:
        """Remove a segment; an absent one is no error.

        Raises:
            StoreUnavailable: the store does not answer, or refuses.
        """
        await self._client.delete(f"{self._root}/{key}")

    async def close(self) -> None:
        """Let the client's threads go."""
        await asyncio.sleep(_PARTING_S)


def open_feedback_objects(url: str, *, timeout_s: float) -> FeedbackObjects | None:
    """The segments of the object store that a store's URL names; no request is sent yet.

    Args:
        url: of an adapter store; a Redis before an object store plays no part.
        timeout_s: longest wait for one answer, seconds; more for a large segment.

    Returns:
        None where the URL names no object store.

    Raises:
        BadId: the URL cannot be used; the message says why.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote a password
        raise BadId("this is no store URL: check the name of the bucket") from None
    scheme = parts.scheme.rpartition("+")[2]
    if scheme not in _OBJECTS:
        return None
    options = urlencode([(name, value) for name, value in parse_qsl(parts.query, True) if name != "redis"])
    parsed = parse_object_url(parts._replace(scheme=scheme, query=options).geturl())
    return FeedbackObjects(ObjectClient(parsed, timeout_s=timeout_s), parsed.prefix, str(parsed))
