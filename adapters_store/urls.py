"""Opens a backend by its URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters_store.backend import Backend
from adapters_store.errors import BadId
from adapters_store.file import FileBackend
from adapters_store.memory import MemoryBackend

_KNOWN = "memory:// and file:///absolute/folder"
_LATER = frozenset({"redis", "rediss", "s3", "gs", "az", "redis+s3"})


def open_backend(url: str, create: bool = False) -> Backend:
    """Open the backend that a URL names.

    Args:
        url: `memory://` or `file:///absolute/folder`.
        create: Make a store that is not there yet.

    Returns:
        The backend; the caller closes it.

    Raises:
        BadId: The URL names no backend of this build.
        StoreUnavailable: The store is not there, or cannot be reached.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryBackend()
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        if parts.netloc or not path.is_absolute() or path == Path("/"):
            raise BadId("a file store is named file:///absolute/folder, with three slashes")
        return FileBackend(path, create)
    if parts.scheme in _LATER:
        raise BadId(f"{parts.scheme}:// comes with a later release; this build has {_KNOWN}")
    raise BadId(f"a store URL starts with one of {_KNOWN}; {parts.scheme + '://' if parts.scheme else 'this'} is none")
