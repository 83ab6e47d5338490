"""`make claims-operate`: every promise about running the service, measured; exits non-zero when one falls short."""

from __future__ import annotations

import sys

from benchmarks.claims.book import Book

# those whose figures are times come first, so that whoever waits for them knows how long to leave the machine alone;
# the search for secrets comes last, through all that the others left
GROUPS = (
    "operate_rolling",
    "operate_series",
    "operate_observed",
    "operate_soak",
    "operate_suites",
    "operate_api",
    "operate_fuzz",
    "operate_image",
    "operate_secrets",
)

if __name__ == "__main__":
    sys.exit(Book("operate", GROUPS, __doc__).main())
