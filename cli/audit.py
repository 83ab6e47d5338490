"""The audit line of a command that changes a store: who, what, from, to; beside what it prints for its caller."""

from __future__ import annotations

import getpass
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from adapters_store.errors import DomainUnknown
from adapters_store.records import DomainRecord
from adapters_store.releases import effective
from adapters_store.store import AdapterStore
from service.logs import Action, AuditEntry, AuditLog, open_log
from service.moves import moves
from service.redaction import without_secrets

BY_VARIABLE = "ESPALIER_BY"
FILE_VARIABLE = "ESPALIER_AUDIT_LOG"


def author(command: str) -> str:
    """Who runs a command, as the record and the audit name it: ESPALIER_BY, else the user and the machine.

    Args:
        command: such as `espalier adapters`.
    """
    return f"{os.environ.get(BY_VARIABLE) or _user()} ({command})"


@contextmanager
def audited(action: Action, by: str, *urls: str, **facts: object) -> Iterator[AuditEntry]:
    """Write one line when the change inside ends: its outcome, or the error that it was refused with.

    The line is appended to the file that ESPALIER_AUDIT_LOG names, else written to stderr; not to a terminal, whose
    reader is told in words.

    Args:
        action: what is done.
        by: who does it.
        urls: of the stores; their secrets are not shown.
        facts: what is known from the start.
    """

    def shown(message: str) -> str:
        for url in urls:
            message = without_secrets(message, url)
        return message

    path = os.environ.get(FILE_VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            yield from _changing(AuditLog(open_log(stream=file), shown), action, by, facts)
    elif sys.stderr.isatty():
        yield AuditEntry()
    else:
        yield from _changing(AuditLog(open_log(stream=sys.stderr), shown), action, by, facts)


async def audited_domain(
    opened: AdapterStore,
    url: str,
    action: Action,
    by: str,
    domain: str,
    change: Callable[[], Awaitable[DomainRecord | None]],
    **facts: object,
) -> DomainRecord:
    """Change a domain's record, and say what moved.

    Args:
        opened: the store.
        url: of the store.
        action: what is done.
        by: who does it.
        domain: whose record.
        change: does it; the record as it is then, or None if that is still to be read.
        facts: what is known from the start.

    Returns:
        The record as it is then.

    Raises:
        adapters_store.errors.DomainUnknown: the store has no record of the domain.
        adapters_store.errors.StoreError: the change was refused.
    """
    with audited(action, by, url, domain=domain, **facts) as entry:
        before = await opened.domain(domain)
        live = await effective_live(opened, before, domain)
        after = await change() or await recorded(opened, domain)
        if action in ("set_live", "rollback", "delete"):
            entry.moved(live, None if after.live is None else after.live.revision)
        else:
            for move in moves(before, after):
                entry.facts.update(move.facts if move.action == action else {})
        same = before is not None and before.generation == after.generation
        entry.done("unchanged" if same else "changed", generation=after.generation)
    return after


async def recorded(opened: AdapterStore, domain: str) -> DomainRecord:
    """The record of a domain.

    Raises:
        adapters_store.errors.DomainUnknown: there is none.
    """
    record = await opened.domain(domain)
    if record is None:
        raise DomainUnknown(f"the store has no domain {domain!r}")
    return record


async def effective_live(opened: AdapterStore, record: DomainRecord | None, domain: str) -> str | None:
    """The revision that scores a domain: its own, or the one of the fleet's release."""
    pointer = await opened.pointer()
    release = None if pointer.release is None else await opened.release(pointer.release)
    return effective(record, pointer, release, domain)


def _changing(log: AuditLog, action: Action, by: str, facts: dict[str, object]) -> Iterator[AuditEntry]:
    with log.change(action, by=by, **facts) as entry:
        yield entry


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        name = str(os.getuid())
    return f"{name}@{platform.node()}"
