"""Does an object store keep the promises that writing needs? It is asked, not believed."""

import secrets
from contextlib import suppress

from adapters_store.errors import StoreRefused, StoreUnavailable
from adapters_store.object_client import ObjectClient, Stored, TagForm

_HINT = "writing here could lose other writers' changes; take a store with conditional writes. Reading works"


async def probe(client: ObjectClient, folder: str, name: str) -> TagForm:
    """Create an object twice, replace it by its ETag and by a stale one, and see what comes of it.

    Args:
        client: Requests to the store.
        folder: Where the object may be made; it is removed again.
        name: Of the store, for messages.

    Returns:
        The form of an ETag that the server takes in If-Match: most want it as they gave it, some without its quotes.

    Raises:
        StoreRefused: The store ignores conditions, or cannot meet them; the message says which.
        StoreUnavailable: It cannot be reached or written to.
    """
    path = f"{folder}/{secrets.token_hex(16)}"
    try:
        form = await _asked(client, path, name)
    except StoreRefused:
        await _removed(client, path)
        raise
    await _removed(client, path)
    return form


async def _removed(client: ObjectClient, path: str) -> None:
    with suppress(StoreUnavailable):  # what was found out stands; what stays behind is a few bytes that nobody reads
        await client.delete(path)


async def _asked(client: ObjectClient, path: str, name: str) -> TagForm:
    if not await client.create(path, b"first"):
        raise StoreRefused(f"{name} does not create an object under a new name (If-None-Match: *); {_HINT}")
    if await client.create(path, b"second"):
        raise StoreRefused(f"{name} creates an object that is there already (it ignores If-None-Match: *); {_HINT}")
    first = await _read(client, path, b"first", name)
    for form in TagForm:
        if await client.replace(path, b"third", first.tag, form):
            break
    else:
        raise StoreRefused(f"{name} refuses to replace an object by its own ETag (If-Match); {_HINT}")
    if await client.replace(path, b"fourth", first.tag, form):
        raise StoreRefused(f"{name} replaces an object by a stale ETag (it ignores If-Match); {_HINT}")
    await _read(client, path, b"third", name)
    return form


async def _read(client: ObjectClient, path: str, expected: bytes, name: str) -> Stored:
    found = await client.get(path)
    if found is None or found.content != expected:
        raise StoreRefused(f"{name} does not read back what was just written; {_HINT}")
    return found
