"""`make claims-store`: every promise of the store, measured; exits non-zero when one falls short."""

from __future__ import annotations

import sys

from benchmarks.claims.book import Book

GROUPS = (
    "store_contract",
    "store_increments",
    "store_faults",
    "store_workers",
    "store_fleet",
    "store_races",
    "store_features",
    "store_canary",
    "store_storm",
)

if __name__ == "__main__":
    sys.exit(Book("store", GROUPS, __doc__).main())
