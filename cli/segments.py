"""Reads feedback segments from where they are: a folder, or an object store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters_store.errors import BadId, StoreUnavailable
from adapters_store.feedback_lines import SHIPPED, SUFFIX, SegmentName, parse_name
from adapters_store.feedback_objects import FeedbackObjects, open_feedback_objects

TIMEOUT_S = 30.0
Take = Callable[[str, bytes], None]


def read_segments(source: str, take: Take) -> None:
    """Hand every segment to `take`, oldest first; a segment that lies in two folders is handed over once.

    Args:
        source: a folder, also as file:///folder, or the URL of an adapter store in object storage.
        take: gets a segment's file name and its bytes.

    Raises:
        BadId: the URL names neither.
        StoreUnavailable: the folder or the store cannot be read, or has no segment.
    """
    if "://" not in source or source.startswith("file://"):
        folder = Path(unquote(urlsplit(source).path)) if source.startswith("file://") else Path(source)
        _read_folder(folder, take)
        return
    objects = open_feedback_objects(source, timeout_s=TIMEOUT_S)
    if objects is None:
        raise BadId("feedback is read from a folder, or from s3://, gs://, az:// and redis+s3:// stores")
    asyncio.run(_read_objects(objects, take))


def _read_folder(folder: Path, take: Take) -> None:
    paths: dict[str, tuple[SegmentName, Path]] = {}
    for path in sorted(folder.rglob(f"*{SUFFIX}"), key=lambda path: path.name):
        named = parse_name(path.name)
        if named is not None:
            paths.setdefault(named.name, (named, path))
    if not paths:
        raise StoreUnavailable(
            f"{folder} holds no segments of feedback: name the service's feedback_dir, or a copy of it"
        )
    for named, path in paths.values():
        take(*_read(named, path))


def _read(named: SegmentName, path: Path) -> tuple[str, bytes]:
    # a running service closes and ships segments meanwhile, which moves them to their day and renames them
    folders = (path.parent, path.parent / named.day)
    for found in (path, *(folder / (named.name + suffix) for suffix in (SUFFIX, SHIPPED) for folder in folders)):
        try:
            return found.name, found.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreUnavailable(f"{found} cannot be read: {error.strerror}") from error
    raise StoreUnavailable(f"{path} is gone: it was removed meanwhile; run the command again")


async def _read_objects(objects: FeedbackObjects, take: Take) -> None:
    try:
        keys = await objects.keys()
        if not keys:
            raise StoreUnavailable(f"{objects} holds no segments of feedback")
        for key in keys:
            take(key.rpartition("/")[2], await objects.get(key))
    finally:
        await objects.close()
