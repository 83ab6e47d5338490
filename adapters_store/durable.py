"""Files that are there whole or not at all, also after a crash."""

import os
import secrets
from pathlib import Path

TEMPORARY = ".tmp-"


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Put a file in place atomically: a reader or a crash sees the old file or the whole new one.

    Written beside its place (a rename across file systems is a copy), synced, renamed, and the folder synced, since the
    rename itself lives in the folder.

    Args:
        path: Where; its folder exists.
        content: What.

    Raises:
        OSError: The file system refuses; nothing was changed.
    """
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: The file system refuses.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
