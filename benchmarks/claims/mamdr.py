"""`make claims-mamdr`: every promise of MAMDR, measured; non-zero when one falls short; FULL=1 runs the long tables.

FULL=1 takes hours, in as many sittings as it takes: the results of a table that is not finished stay in
benchmarks/claims/records/unfinished/, and the same command goes on with them, on another machine too where they are
committed. Without that folder it begins anew.
"""

from __future__ import annotations

import os
import sys

from benchmarks.claims import mamdr_conflict, mamdr_epinions, mamdr_movielens, mamdr_structures, mamdr_sweeps
from benchmarks.claims.book import Book
from benchmarks.claims.mamdr_contest import full

GROUPS = (
    "mamdr_builders",
    "mamdr_kinds",
    "mamdr_cluster",
    "mamdr_agreement",
    "mamdr_conflict",
    "mamdr_movielens",
    "mamdr_epinions",
    "mamdr_structures",
    "mamdr_sweeps",
)
SHORT_MIN = 45.0
"""What all groups take together where no long table is run."""


def bills() -> dict[str, tuple[float, str]]:
    """Each long table's core hours, and how they are known."""
    epinions = mamdr_epinions.contest()
    return {
        "conflict": mamdr_conflict.contest().bill(),
        "movielens": mamdr_movielens.contest().bill(),
        "epinions": epinions.bill(),
        "structures": mamdr_structures.structures_contest(epinions.rows()).bill(),
        "sweeps": mamdr_sweeps.bill(),
    }


def cost() -> str:
    """Return what FULL=1 takes, as far as it is known before anything is run."""
    found = bills()
    each = ", ".join(f"{name} {hours:.1f} ({known})" for name, (hours, known) in found.items())
    cores = len(os.sched_getaffinity(0))
    whole = sum(hours for hours, _ in found.values())
    told = f"# FULL=1: about {whole:.1f} core hours, {whole / cores:.1f} h on the {cores} cores here: {each}. "
    return told + "After a stop the same command goes on with the trainings that are finished"


if __name__ == "__main__":
    if full():
        print(cost(), flush=True)
    sys.exit(Book("mamdr", GROUPS, __doc__, SHORT_MIN).main())
