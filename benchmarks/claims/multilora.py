"""`make claims-multilora`: every promise of MultiLoRA and packed training, measured; FULL=1 runs the long tables."""

from __future__ import annotations

import os
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
SHORT_MIN = 45.0
"""What all groups take together where no long table is run."""


def cost() -> str:
    """Return what FULL=1 takes, as far as it is known before anything is run."""
    from benchmarks.claims import multilora_epinions, multilora_leftout, multilora_movielens

    hours = {
        "multilora_leftout": multilora_leftout.CORE_HOURS,
        "multilora_movielens": multilora_movielens.CORE_HOURS,
        "multilora_epinions": multilora_epinions.CORE_HOURS,
    }
    each = ", ".join(f"{group} {value:.1f}" for group, value in hours.items())
    whole = f"about {sum(hours.values()):.1f} core hours ({each}), at most"
    rest = "multilora_fleet states its own after two rehearsals; each table tells what its last record took"
    return f"# FULL=1: {whole}; {rest}. after a stop the same command goes on"


if __name__ == "__main__":
    if os.environ.get("FULL") == "1":
        print(cost(), flush=True)
    status = Book("multilora", GROUPS, __doc__, SHORT_MIN).main()
    if os.environ.get("FULL") == "1":
        from benchmarks.claims.multilora_results import write_results

        write_results()
    sys.exit(status)
