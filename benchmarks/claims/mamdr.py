"""`make claims-mamdr`: every promise of MAMDR, measured; non-zero when one falls short; FULL=1 runs the long tables."""

from __future__ import annotations

import os
import sys

from benchmarks.claims import mamdr_conflict, mamdr_epinions, mamdr_sweeps
from benchmarks.claims.book import Book

GROUPS = (
    "mamdr_builders",
    "mamdr_kinds",
    "mamdr_cluster",
    "mamdr_agreement",
    "mamdr_conflict",
    "mamdr_movielens",
    "mamdr_epinions",
    "mamdr_sweeps",
)


def cost() -> str:
    """Return what FULL=1 takes, as far as it is known before anything is run."""
    hours = {
        "mamdr_conflict": mamdr_conflict.CORE_HOURS,
        "mamdr_epinions": mamdr_epinions.CORE_HOURS + mamdr_epinions.STRUCTURES_CORE_HOURS,
        "mamdr_sweeps": mamdr_sweeps.CORE_HOURS,
    }
    each = ", ".join(f"{group} {value:.1f}" for group, value in hours.items())
    whole = f"about {sum(hours.values()):.1f} core hours ({each}), by single epochs"
    return f"# FULL=1: {whole}; mamdr_movielens was not timed. Each table also tells what its last record took"


if __name__ == "__main__":
    if os.environ.get("FULL") == "1":
        print(cost(), flush=True)
    sys.exit(Book("mamdr", GROUPS, __doc__).main())
