"""Adding tokens to a tokens file and taking them out: one writer at a time, and never half a file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import ValidationError

from adapters_store.validation import explain
from service.auth import NO_LIMITS, TokenEntry
from service.rate_limits import Limits
from service.refusals import SettingsInvalid
from service.token_file import parse_entries, read_file


def add_token(path: Path, name: str, scopes: Sequence[str], limits: Limits = NO_LIMITS) -> str:
    """Draw a new token and add its entry to a tokens file, which only its owner may read.

    Args:
        path: the tokens file; made if absent.
        name: who will use it; it stands in the audit log.
        scopes: what it may do.
        limits: how much it may ask for.

    Returns:
        The token, which is written nowhere.

    Raises:
        SettingsInvalid: the name is taken, a scope or limit is none, or the file cannot be read or written.
    """
    with _alone(path):
        entries = list_tokens(path) if path.exists() and read_file(path).strip() else []
        if any(entry.name == name for entry in entries):
            raise SettingsInvalid(f"{path} already has a token named {name!r}; choose another name")
        # 256 random bits, so a plain hash hides it: there is nothing to guess that a slow one would protect
        token = "esp_" + secrets.token_urlsafe(32)
        try:
            entry = TokenEntry(
                name=name,
                sha256=hashlib.sha256(token.encode()).hexdigest(),
                scopes=list(scopes),
                requests_per_s=limits.requests_per_s,
                burst=limits.burst,
                rows_per_s=limits.rows_per_s,
            )
        except ValidationError as error:
            raise SettingsInvalid(f"no such token can be made: {explain(error, TokenEntry)}") from error
        _replace(path, [*entries, entry])
    return token


def revoke_token(path: Path, name: str) -> None:
    """Take a token out of a tokens file.

    Args:
        path: the tokens file.
        name: of the token.

    Raises:
        SettingsInvalid: nobody has that name, or the file cannot be read or written.
    """
    with _alone(path):
        entries = list_tokens(path)
        kept = [entry for entry in entries if entry.name != name]
        if len(kept) == len(entries):
            known = ", ".join(repr(entry.name) for entry in entries) or "nobody"
            raise SettingsInvalid(f"{path} has no token named {name!r}; it names {known}")
        _replace(path, kept)


def list_tokens(path: Path) -> list[TokenEntry]:
    """The entries of a tokens file, in its order.

    Raises:
        SettingsInvalid: it cannot be read or has a fault.
    """
    return parse_entries(read_file(path), path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold other writers off until the file is replaced; one that reads too early would bring a revoked token back."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SettingsInvalid(f"the tokens file {path} cannot be written: {error.strerror}") from error
    try:
        # the folder itself, because the file is replaced and a lock file would be left lying about
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, entries: Sequence[TokenEntry]) -> None:
    content = yaml.safe_dump([entry.model_dump(exclude_none=True) for entry in entries], sort_keys=False)
    # made beside it and renamed, so that a crash leaves the old tokens; a new one is readable by its owner only
    beside = path.with_name(path.name + ".new")
    try:
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            if path.exists():
                _keep_readers(file.fileno(), path.stat())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise SettingsInvalid(f"the tokens file {path} cannot be written: {error.strerror}") from error


def _keep_readers(file: int, before: os.stat_result) -> None:
    # a server that may no longer read the file would keep its old tokens, the revoked one among them
    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(file, before.st_uid, before.st_gid)
    os.fchmod(file, stat.S_IMODE(before.st_mode))
