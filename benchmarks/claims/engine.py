"""`make claims-engine`: every promise of the scoring engine, measured; exits non-zero when one falls short."""

from __future__ import annotations

import sys

from benchmarks.claims.book import Book

# those whose figures are times come first, so that whoever waits for them knows how long to leave the machine alone
GROUPS = (
    "engine_speed",
    "engine_domains",
    "engine_cold",
    "engine_http",
    "engine_company",
    "engine_accuracy",
    "engine_suites",
    "engine_gpu",
)

if __name__ == "__main__":
    sys.exit(Book("engine", GROUPS, __doc__).main())
