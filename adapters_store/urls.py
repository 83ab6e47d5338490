"""Opens a backend by its URL.

::

    memory://                               this process
    file:///absolute/folder                 this host
    redis:// rediss://                      one server; with +sentinel or +cluster before ://, those
    s3:// gs:// az://                       object storage
    redis+s3:// (and gs, az; rediss)        object storage as the truth, Redis as its cache and feed

A remote backend is opened inside bounds (`guarded`). Its library is imported only when a URL asks for it.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters_store.backend import Backend
from adapters_store.errors import BadId
from adapters_store.file import FileBackend
from adapters_store.guarded import GuardedBackend
from adapters_store.memory import MemoryBackend
from adapters_store.timed import Told

_REDIS = frozenset(f"redis{s}{kind}" for s in ("", "s") for kind in ("", "+sentinel", "+cluster"))
_OBJECTS = frozenset({"s3", "gs", "az"})
_LAYERED = frozenset(f"{redis}+{objects}" for redis in ("redis", "rediss") for objects in _OBJECTS)
_KNOWN = "memory://, file:///absolute/folder, redis://, s3://, gs://, az:// and redis+s3://"
# Total time of a call over that of one try by the backend: room for its retries.
_DEADLINE_OVER_TIMEOUT = 2.5


def open_backend(
    url: str,
    create: bool = False,
    *,
    timeout_s: float = 2.0,
    told: Told = lambda operation, seconds, error: None,
    cached: bool = True,
) -> Backend:
    """Open the backend that a URL names.

    Args:
        url: One of the forms above.
        create: Make a store that is not there yet.
        timeout_s: Longest wait for a remote store's answer to one try, seconds.
        told: Called after each call to a cache before the store, whose failures nobody else hears of.
        cached: Whether a cache that the URL names is used; without it every answer is the store's own.

    Returns:
        The backend; the caller closes it.

    Raises:
        BadId: The URL names no backend of this build.
        StoreUnavailable: The store is not there, or cannot be reached.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote the password
        raise BadId("this is no store URL: check the host, and the brackets of an IPv6 address") from None
    if parts.scheme == "memory":
        return MemoryBackend()
    if parts.scheme == "file":
        if parts.query or parts.fragment:
            raise BadId("percent-encode the folder of a file store: ? is %3F, # is %23")
        path = Path(unquote(parts.path))
        if parts.netloc or not path.is_absolute() or path == Path("/"):
            raise BadId("a file store is named file:///absolute/folder, with three slashes")
        return FileBackend(path, create)
    remote = _open_remote(parts.scheme, url, timeout_s, told, cached)
    if remote is None:
        scheme = parts.scheme + "://" if parts.scheme else "this"
        raise BadId(f"a store URL starts with one of {_KNOWN}; {scheme} is none")
    return GuardedBackend(remote, deadline_s=_DEADLINE_OVER_TIMEOUT * timeout_s)


def _open_remote(scheme: str, url: str, timeout_s: float, told: Told, cached: bool) -> Backend | None:
    if scheme in _REDIS:
        from adapters_store.redis import open_redis

        return open_redis(url, timeout_s=timeout_s)
    if scheme in _OBJECTS:
        from adapters_store.objects import open_objects

        return open_objects(url, timeout_s=timeout_s)
    if scheme in _LAYERED:
        from adapters_store.layered import open_layered, open_truth

        if not cached:
            return open_truth(url, timeout_s=timeout_s)
        return open_layered(url, timeout_s=timeout_s, told=told)
    return None
