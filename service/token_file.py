"""The tokens file while the service runs: read at the start, followed afterwards."""

from __future__ import annotations

from pathlib import Path

from structlog.typing import FilteringBoundLogger

from service.auth import Caller
from service.clock import Clock


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
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def find(self, token: str) -> Caller | None:
        """The caller whose token this is now, if any."""
        raise NotImplementedError

    async def reload(self) -> bool:
        """Read the file now (SIGHUP).

        Returns:
            Whether what the file says is in force.
        """
        raise NotImplementedError

    async def follow(self, clock: Clock, every_s: float) -> None:
        """Look for changes for ever; run it as a task and cancel it at the end.

        Args:
            clock: by which the times of looking are counted.
            every_s: between two looks, seconds (`settings.tokens_reload_s`).
        """
        raise NotImplementedError
