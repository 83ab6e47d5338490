"""Which code a result came from."""

from __future__ import annotations

import hashlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOMS = ("adapters_store", "features", "network", "training")
"""Whatever decides what a training learns; a commit that changes other rooms makes no result stale."""
_ROOT = Path(__file__).resolve().parents[2]
_CHANGES_DIGITS = 8


def code_commit(root: Path = _ROOT) -> str:
    """Name the code that trains: the last commit that changed it, and a digest of what is not committed yet.

    Args:
        root: of the checkout.

    Returns:
        Such as `1f0c…`, or `1f0c…+3a9b77c1` with changes; the installed release where there is no checkout.
    """
    commit = _git(root, "log", "-1", "--format=%H", "--", *ROOMS)
    if not commit:
        return _release()
    changes = _changes(root)
    return commit.decode().strip() + (f"+{changes}" if changes else "")


def _changes(root: Path) -> str:
    """A digest of what differs from the last commit, untracked files with it; empty where nothing does."""
    changed = _git(root, "diff", "HEAD", "--binary", "--", *ROOMS) or b""
    names = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *ROOMS) or b""
    if not changed and not names:
        return ""
    found = hashlib.sha256(changed + names)
    for name in filter(None, names.split(b"\0")):
        path = root / name.decode("utf-8", "surrogateescape")
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest()[:_CHANGES_DIGITS]


def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _release() -> str:
    try:
        return f"release {version('espalier')}"
    except PackageNotFoundError:
        return "unknown"
