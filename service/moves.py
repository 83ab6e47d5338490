"""What moved between two states of a domain's record, in the words of the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from adapters_store.records import DomainRecord, Shadow
from service.logs import Action


@dataclass(frozen=True, slots=True)
class Move:
    """One difference.

    Args:
        action: what whoever wrote the record did.
        facts: `from` and `to`, digests or None, and what else tells it.
    """

    action: Action
    facts: dict[str, object] = field(default_factory=dict)


def moves(before: DomainRecord | None, after: DomainRecord) -> Iterator[Move]:
    """Tell records apart by what they serve and refuse.

    Args:
        before: None for a new domain.
        after: the later one.
    """
    held = _live(before)
    if after.deleted and not (before is not None and before.deleted):
        yield Move("delete", {"from": held, "to": None})
    elif _live(after) != held:
        left = {entry.revision for entry in after.previous if entry.rolled_back}
        yield Move("rollback" if held in left else "set_live", {"from": held, "to": _live(after)})
    if not after.deleted:
        yield from _trial("set_canary", "clear_canary", None if before is None else before.canary, after.canary)
        yield from _trial("set_shadow", "clear_shadow", None if before is None else before.shadow, after.shadow)
    was_frozen = before is not None and before.frozen is not None
    if after.frozen is not None and not was_frozen:
        yield Move("freeze", {"from": False, "to": True, "reason": after.frozen.reason})
    elif after.frozen is None and was_frozen:
        yield Move("thaw", {"from": True, "to": False})


def _live(record: DomainRecord | None) -> str | None:
    return None if record is None or record.live is None else record.live.revision


def _trial(setting: Action, clearing: Action, before: Shadow | None, after: Shadow | None) -> Iterator[Move]:
    was = None if before is None else (before.revision, before.percent)
    now = None if after is None else (after.revision, after.percent)
    if was == now:
        return
    facts: dict[str, object] = {"from": was and was[0], "to": now and now[0]}
    if was is not None:
        facts["from_percent"] = was[1]
    if now is not None:
        facts["to_percent"] = now[1]
    yield Move(clearing if after is None else setting, facts)
