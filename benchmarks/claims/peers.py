"""The first harness of benchmarks/: 32 requests x 100 items over 32 domains, against peers in the same run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from benchmarks.claims.line import Line, measured
from benchmarks.claims.workplace import ROOT, Workplace, run


def lines(work: Workplace) -> Iterator[Line]:
    """The ratios as `make bench` prints them; the issue sets no bound on them."""
    out = work.folder / "engines.json"
    run([sys.executable, "-m", "benchmarks.engines", "--json", str(out)], ROOT, work.folder / "engines.log", 1200)
    for name, figure in json.loads(out.read_text()).items():
        yield measured(f"32 requests x 100 items, 32 domains: {name}", str(figure))
