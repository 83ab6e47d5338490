"""`make claims-multilora`: every promise of MultiLoRA and packed training, measured; FULL=1 runs the long tables."""

from __future__ import annotations

import sys

from benchmarks.claims.book import Book

GROUPS = (
    "multilora_kinds",
    "multilora_newcomer",
    "multilora_chooser",
    "multilora_calibration",
    "multilora_loader",
    "multilora_packed",
    "multilora_fleet",
    "multilora_leftout",
    "multilora_movielens",
    "multilora_epinions",
)

if __name__ == "__main__":
    sys.exit(Book("multilora", GROUPS, __doc__).main())
