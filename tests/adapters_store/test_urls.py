"""Store URLs."""

from pathlib import Path

import pytest

from adapters_store.errors import BadId, StoreUnavailable
from adapters_store.file import FileBackend
from adapters_store.guarded import GuardedBackend
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
        ("ftp://x", r"starts with one of memory://, file:///absolute/folder, redis://, .*; ftp:// is none"),
        ("store", "starts with one of memory://"),
        ("", "starts with one of memory://"),
        ("file://relative/folder", "three slashes"),
        ("file:relative", "three slashes"),
        ("file:///", "three slashes"),
    ],
)
def test_other_urls_say_what_there_is(url: str, message: str) -> None:
    """Law: an unknown scheme lists the known ones."""
    with pytest.raises(BadId, match=message):
        open_backend(url)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://127.0.0.1:1/0", "RedisBackend"),
        ("rediss://user:secret@127.0.0.1:1/0", "RedisBackend"),
        ("redis+cluster://127.0.0.1:1", "RedisBackend"),
        ("s3://bucket/prefix?region=local", "ObjectBackend"),
        ("redis+s3://bucket/prefix?redis=redis://127.0.0.1:1/0&region=local", "LayeredBackend"),
    ],
)
async def test_remote_store_is_opened_inside_bounds(url: str, kind: str) -> None:
    """Law: every remote backend comes guarded, and opening one reaches for nothing yet."""
    backend = open_backend(url)
    assert isinstance(backend, GuardedBackend)
    assert type(backend.inner).__name__ == kind
    await backend.close()


async def test_store_without_its_cache_is_the_truth_alone() -> None:
    """Law: who wants no cached answer gets the object store inside the same bounds; other stores are as they are."""
    url = "redis+s3://bucket/prefix?redis=redis://127.0.0.1:1/0&region=local"
    for asked, kind in ((url, "ObjectBackend"), ("redis://127.0.0.1:1/0", "RedisBackend")):
        backend = open_backend(asked, cached=False)
        assert isinstance(backend, GuardedBackend)
        assert type(backend.inner).__name__ == kind
        await backend.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cret@ho\u2100st/0",
        "redis+sentinel://user:s3cret@[half/main",
        "s3://[half",
        "s3://bucket?endpoint=http://[half",
        "s3://bucket?endpoint=http://user:s3cret@host",
        "s3://bucket?endpoint=http://host:port",
        "redis+s3://bucket?redis=redis://[half",
        "redis+s3://bucket?redis=redis://user:s3cret@ho\u2100st",
        "redis+s3://bucket?redis=redis://user:half&s3cret@host:6379",
        "redis+s3://bucket?redis=redis://user:half#s3cret@host:6379",
        "file:///folder?s3cret",
        "file:///folder#s3cret",
    ],
)
def test_malformed_url_is_refused_without_its_secrets(url: str) -> None:
    """Law: whatever is wrong with a URL, the refusal is a BadId, and repeats nothing that may be a password."""
    with pytest.raises(BadId) as refused:
        open_backend(url)
    assert "s3cret" not in str(refused.value)
