"""`python -m benchmarks.engines`: a mixed batch of 32 domains of the MovieLens shape, against peers, in one table.

The short form of `make bench`: one network, one batch, the code of `benchmarks.bench`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bench.batches import Batch, measure
from benchmarks.bench.peers_onnx import PLAIN
from benchmarks.bench.shapes import MAIN, shapes


def table(batch: Batch) -> Table:
    """The figures as they are printed."""
    shown = Table(title=f"{batch.shape}, {batch.batching} rows, a domain a request, lookup included")
    for heading in ("", "rows/s", "of the plain backbone (quartiles)"):
        shown.add_column(heading, justify="left" if not heading else "right")
    for name in batch.trial.names:
        shown.add_row(name, f"{batch.trial.rate(name):,.0f}", batch.trial.said(name, PLAIN))
    for name, why in batch.absent.items():
        shown.add_row(name, "-", why)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write the ratios to a file if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="threads inside one run of every engine (default 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write {contender: ratio} of the last measurement here")
    asked = parser.parse_args(arguments)
    batch = measure(shapes(asked.quick)[0], MAIN, asked.threads, asked.quick)
    Console(width=160).print(table(batch))
    if asked.json:
        ratios = {name: round(batch.trial.ratio(name, PLAIN).median, 3) for name in batch.trial.names}
        asked.json.write_text(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
