"""What a change through this replica came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Alias = Literal["live", "canary", "shadow"]
Status = Literal["created", "unchanged", "stored", "verified"]


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did.

    Args:
        domain: the domain; empty for a fusion.
        revision: sha256 of the body.
        generation: of the domain's record now; None when it has none, and for a fusion.
        status: created (named by its alias now; a fusion: stored now), unchanged (was so already), stored (not live),
            verified (dry run).
        pointer: generation of the release pointer under which this holds; second half of the ETag.
        before: the revision that its alias named when the change was looked into; None for none, and for a fusion.
    """

    domain: str
    revision: str
    generation: int | None
    status: Status
    pointer: int = 0
    before: str | None = None
