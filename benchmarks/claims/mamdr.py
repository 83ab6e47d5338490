"""`make claims-mamdr`: every promise of MAMDR, measured; non-zero when one falls short; FULL=1 runs the long tables."""

from __future__ import annotations

import sys

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

if __name__ == "__main__":
    sys.exit(Book("mamdr", GROUPS, __doc__).main())
