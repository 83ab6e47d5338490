"""Store URLs."""

from pathlib import Path

import pytest

from adapters_store.errors import BadId, StoreUnavailable
from adapters_store.file import FileBackend
from adapters_store.memory import MemoryBackend
from adapters_store.urls import open_backend


async def test_url_opens_its_backend(tmp_path: Path) -> None:
    """Law: memory and file URLs open what they name, blanks and signs in the path included."""
    assert isinstance(open_backend("memory://"), MemoryBackend)
    folder = tmp_path / "a store, 100%"
    backend = open_backend(folder.as_uri(), create=True)
    assert isinstance(backend, FileBackend)
    await backend.put_blob("ab" * 32, b"x")
    assert (folder / "blobs" / "ab" / ("ab" * 32)).read_bytes() == b"x"
    with pytest.raises(StoreUnavailable, match="there is no store"):
        open_backend((tmp_path / "absent").as_uri())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://localhost", "redis:// comes with a later release; this build has memory:// and file://"),
        ("s3://bucket/prefix", "s3:// comes with a later release"),
        ("redis+s3://x", r"redis\+s3:// comes with a later release"),
        ("ftp://x", "starts with one of memory:// and file:///absolute/folder; ftp:// is none"),
        ("store", "starts with one of memory://"),
        ("", "starts with one of memory://"),
        ("file://relative/folder", "three slashes"),
        ("file:relative", "three slashes"),
        ("file:///", "three slashes"),
    ],
)
def test_other_urls_say_what_there_is(url: str, message: str) -> None:
    """Law: an unknown scheme lists the known ones; a later one says so."""
    with pytest.raises(BadId, match=message):
        open_backend(url)
