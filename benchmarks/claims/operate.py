"""`make claims-operate`: every promise about running the service, measured; exits non-zero when one falls short."""

from __future__ import annotations

import sys

from benchmarks.claims.book import Book

GROUPS = (
    "operate_suites",
    "operate_api",
    "operate_fuzz",
    "operate_observed",
    "operate_series",
    "operate_rolling",
    "operate_image",
    "operate_soak",
    "operate_secrets",
)

if __name__ == "__main__":
    sys.exit(Book("operate", GROUPS, __doc__).main())
