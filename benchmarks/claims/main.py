"""`make claims-main`: every promise of the main job, measured; exits non-zero when one falls short."""

from __future__ import annotations

import sys

from benchmarks.claims.book import Book

GROUPS = ("movielens", "synthetic", "served", "swaps", "malformed", "footprint", "peers", "fresh_clone")

if __name__ == "__main__":
    sys.exit(Book("main", GROUPS, __doc__).main())
