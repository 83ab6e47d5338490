"""The tokens file while the service runs: read at the start, followed afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError
from structlog.typing import FilteringBoundLogger

from adapters_store.validation import explain
from service.auth import Caller, TokenBook, TokenEntry
from service.clock import Clock, slept
from service.refusals import SettingsInvalid

# written in C where libyaml is at hand: reading 1,000 tokens with the other one holds up requests
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

NOBODY = "the tokens file {} holds no token: add one with `espalier token new`, or start without --tokens"


class TokenFile:
    """The tokens of a file, as `service.auth.Tokens`; a `Guard` that holds it sees each change at once.

    A change takes effect as a whole: a file that cannot be read or has a fault leaves the old tokens in force, and is
    logged once. A list without any entry (`[]`) is no fault and lets nobody in; an empty file is one, because a writer
    that truncates before it writes leaves such a file for a moment.

    Args:
        path: the tokens file, as `espalier token new` writes it. A symbolic link is followed at each look.
        log: told of changes and faults; never of a token or its hash.

    Raises:
        SettingsInvalid: it cannot be read, has a fault, or names nobody.
    """

    configured = True

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        self._path = path
        self._log = log
        self._content = read_file(path)
        self._book = TokenBook(parse_entries(self._content, path))
        self._fault: str | None = None
        # one look at a time: the later one must not be overtaken by what an earlier one read
        self._looking = asyncio.Lock()
        if not self._book.configured:
            raise SettingsInvalid(NOBODY.format(path))

    def __len__(self) -> int:
        return len(self._book)

    def find(self, token: str) -> Caller | None:
        """The caller whose token this is now, if any."""
        return self._book.find(token)

    async def reload(self) -> bool:
        """Read the file now (SIGHUP).

        Returns:
            Whether what the file says is in force.
        """
        async with self._looking:
            try:
                content, book = await asyncio.to_thread(self._read, self._content)
            except SettingsInvalid as error:
                self._tell(str(error))
                return False
            self._fault = None
            if book is not None:
                self._content, self._book = content, book
                self._log.info("tokens_reloaded", tokens=len(book))
            return True

    async def follow(self, clock: Clock, every_s: float) -> None:
        """Look for changes for ever; run it as a task and cancel it at the end.

        Args:
            clock: by which the times of looking are counted.
            every_s: between two looks, seconds (`settings.tokens_reload_s`).
        """
        while True:
            await slept(clock, every_s)
            await self.reload()

    def _read(self, before: bytes) -> tuple[bytes, TokenBook | None]:
        # compared by content: a time stamp is too coarse, and a mounted secret changes by its link alone
        content = read_file(self._path)
        return content, None if content == before else TokenBook(parse_entries(content, self._path))

    def _tell(self, fault: str) -> None:
        if fault != self._fault:
            self._log.error("tokens_kept", tokens=len(self._book), reason=fault)
        self._fault = fault


def read_tokens(path: Path) -> TokenBook:
    """The tokens of a file at this moment: a YAML or JSON list of {name, sha256, scopes} and limits.

    Raises:
        SettingsInvalid: it cannot be read or has a fault.
    """
    return TokenBook(parse_entries(read_file(path), path))


def read_file(path: Path) -> bytes:
    """The bytes of a tokens file.

    Raises:
        SettingsInvalid: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsInvalid(f"the tokens file {path} cannot be read: {error.strerror}") from error


def parse_entries(content: bytes, path: Path) -> list[TokenEntry]:
    """The entries of a tokens file.

    Args:
        content: its bytes.
        path: named by errors.

    Raises:
        SettingsInvalid: no list of entries, or two of the same name or token.
    """
    try:
        listed = yaml.load(content, _Loader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        # the parser's own message quotes the line, which may hold a secret
        raise SettingsInvalid(f"the tokens file {path} is no YAML or JSON: {type(error).__name__}") from error
    if listed is None:
        raise SettingsInvalid(NOBODY.format(path))
    try:
        entries = TypeAdapter(list[TokenEntry]).validate_python(listed)
    except ValidationError as error:
        raise SettingsInvalid(
            f"the tokens file {path} must be a list of {{name, sha256, scopes}}: {explain(error, TokenEntry)}"
        ) from error
    for name, times in Counter(entry.name for entry in entries).items():
        if times > 1:
            raise SettingsInvalid(f"the tokens file {path} names {name!r} twice")
    first: dict[str, str] = {}
    for entry in entries:
        if (other := first.setdefault(entry.sha256, entry.name)) != entry.name:
            raise SettingsInvalid(f"the tokens file {path} gives {other!r} and {entry.name!r} the same token")
    return entries
