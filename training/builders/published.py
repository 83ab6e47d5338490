"""What is known of the benchmark sets' sizes, and whether a build has them.

The papers' figures are those of the overview table of MAMDR (ICDE 2023); rows are its train, validation and test rows
together. `Published.sourced` says which of them something at hand confirms; all others were entered from memory and are
held by their own arithmetic alone (`per_domain`). Taobao-30's are left out: not even that could be done for them.
The overview counts for Amazon-13; the paper's table of its domains has a misprint (Video Games) and sums to less. The
domain tables of Taobao-20 and Taobao-30 differ from their overviews by 895 rows.

epinions-mdr is this project's own: its rows follow from the public file and the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from training.errors import SourceError
from training.prepared import PreparedDataset
from training.sources.counts import ANY_SIZE

_OTHERS = 0.003
COUNTS = ("users", "items", "rows")


@dataclass(frozen=True)
class Published:
    """Counts of one set.

    Args:
        users, items: over all domains.
        rows: over all domains and parts.
        per_domain: rows of a domain on average, as printed; None where no paper prints it.
        tolerance: by which share a build may differ; 0 is exactly.
        sourced: which of `COUNTS` a source at hand confirms.
    """

    users: int
    items: int
    rows: int
    per_domain: int | None = None
    tolerance: float = _OTHERS
    sourced: frozenset[str] = frozenset()

    def of(self, what: str) -> int:
        """One of `COUNTS`."""
        return {"users": self.users, "items": self.items, "rows": self.rows}[what]

    @property
    def unsourced(self) -> tuple[str, ...]:
        """The counts that nothing at hand confirms."""
        return tuple(what for what in COUNTS if what not in self.sourced)


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "amazon-6": Published(445_789, 172_653, 9_968_333 + 3_372_666 + 3_585_877, 2_821_146, tolerance=0.0),
        "amazon-13": Published(
            502_222, 215_403, 11_999_607 + 4_100_756 + 4_339_523, 1_572_299, sourced=frozenset({"rows"})
        ),
        "taobao-10": Published(23_778, 6_932, 92_137 + 37_645 + 43_502, 17_328, tolerance=0.0),
        "taobao-20": Published(58_190, 16_319, 243_592 + 96_591 + 106_500, 22_334),
        "epinions-mdr": Published(22_164, 296_277, 4_020_663, tolerance=0.0, sourced=frozenset(COUNTS)),
    }
)


def check_counts(name: str, prepared: PreparedDataset, source: Path) -> None:
    """Compare a build with what is published of its set; a set of which nothing is, passes.

    Args:
        name: of the set.
        prepared: the build.
        source: what it was built from, for the message.

    Raises:
        SourceError: users, items or rows differ by more than the set's tolerance; it says which of the expected figures
            nothing at hand confirms.
    """
    published = PUBLISHED.get(name)
    if published is None:
        return
    odd = [
        what
        for what in COUNTS
        if abs(prepared.spec.facts[what] - published.of(what)) > published.tolerance * published.of(what)
    ]
    if not odd:
        return
    told = [f"{prepared.spec.facts[what]:,} {what} instead of {published.of(what):,}" for what in odd]
    allowed = f" (differences up to {published.tolerance:.1%} are let pass)" if published.tolerance else ""
    unsure = [what for what in odd if what in published.unsourced]
    doubt = f"; the expected {', '.join(unsure)} have no source at hand: see the paper first" if unsure else ""
    raise SourceError(
        source,
        None,
        f"gives {' and '.join(told)} for {name}{allowed}",
        f"use the files named in docs/benchmark-sets.md, or {ANY_SIZE}{doubt}",
    )
