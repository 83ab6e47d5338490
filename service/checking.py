"""What would stop a server from starting, found without starting one: files, folders and cores of its settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from service.cores import shares
from service.refusals import SettingsInvalid
from service.reloading import tokens_of
from service.settings import Settings
from service.tls import open_tls
from service.tracing import check_tracing


def faults_of(settings: Settings, log: FilteringBoundLogger) -> list[str]:
    """Every fault in what valid settings point at; neither the store nor the network is asked.

    Args:
        settings: to be checked.
        log: of what reads the files.

    Returns:
        A sentence for each; none when a server would get past them.
    """
    looks: tuple[Callable[[], object], ...] = (
        lambda: tokens_of(settings, log),
        lambda: open_tls(settings, log),
        lambda: check_tracing(settings.otlp_endpoint),
        lambda: shares(settings.engine_cpus, workers=settings.workers, threads=settings.engine_threads),
        lambda: _folder("cache_dir", settings.cache_dir),
        lambda: _folder("feedback_dir", settings.feedback_dir),
    )
    faults = []
    for look in looks:
        try:
            look()
        except SettingsInvalid as error:
            faults.append(str(error))
    return faults


def _folder(name: str, folder: Path | None) -> None:
    """A folder that is there, or can be made: the nearest one above it that is there can be written to."""
    if folder is None:
        return
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise SettingsInvalid(f"{name}: {nearest} is no folder; choose another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SettingsInvalid(f"{name}: {nearest} cannot be written to by this user; choose another folder")
