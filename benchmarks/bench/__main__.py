"""`make bench`: every benchmark of the engine in one go; writes docs/benchmarks.md and its plot.

One core is pinned for what is measured unless said. A figure is the median of ratios within a round, over 9 rounds in
which all take turns; when quartiles are more than 10% apart everything of that part is measured once more, and both
figures are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.bench.everything import Bench, everything
from benchmarks.bench.plot import draw
from benchmarks.bench.report import PLOT, replaced, written
from benchmarks.claims.workplace import ROOT

FOLDER = ROOT / ".bench"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep the figures as JSON, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--work", type=Path, default=FOLDER, help="folder for files of the parts and the figures")
    parser.add_argument("--docs", type=Path, help="folder of benchmarks.md (default: docs/; with --quick, of --work)")
    parser.add_argument("--redraw", action="store_true", help="write the page from the figures of the last run")
    asked = parser.parse_args(arguments)
    kept = asked.work.resolve() / "bench.json"
    console = Console(highlight=False)
    if asked.redraw:
        bench = msgspec.json.decode(kept.read_bytes(), type=Bench)
    else:
        bench = everything(kept.parent, asked.quick, lambda part: console.print(f"measuring {part}"))
        kept.write_bytes(msgspec.json.encode(bench))
    docs: Path = asked.docs or (kept.parent if bench.where.quick else ROOT / "docs")
    page = docs / "benchmarks.md"
    draw(bench.batches, docs / PLOT)
    part = written(bench)
    page.write_text(replaced(page.read_text() if page.exists() else "# Benchmarks\n", part))
    console.print(part, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
