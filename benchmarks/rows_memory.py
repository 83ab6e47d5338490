"""`python -m benchmarks.rows_memory DATA OUT memory|disk`: memory of its own that a run needs to have all rows at hand.

The run opens a prepared folder (split, encoding) and sorts the training rows by domain for its packs, and trains
nothing. What is told is the largest anonymous memory: pages of files that memory maps are the system's to take back.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

from training.config import TrainingConfig
from training.packed.rows import DomainRows
from training.progress import SilentMeter
from training.stages import Run

_EVERY_S = 0.005


def own_bytes() -> int:
    """This process's anonymous memory now."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


class Peak:
    """Watches this process's anonymous memory from a thread, until it is asked for the largest."""

    def __init__(self) -> None:
        self._largest = self.before = own_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def largest(self) -> int:
        """Stop, and return it in bytes."""
        self._done.set()
        self._thread.join()
        return max(self._largest, own_bytes())

    def _watch(self) -> None:
        while not self._done.wait(_EVERY_S):
            self._largest = max(self._largest, own_bytes())


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("rows", choices=("memory", "disk"))
    given = parser.parse_args()
    config = TrainingConfig(data=given.data, rows=given.rows)
    peak, began = Peak(), time.monotonic()
    run = Run(config, given.out, SilentMeter())
    sorted_rows = DomainRows(run.rows, run.positions.train)
    seconds = time.monotonic() - began
    largest = peak.largest()
    figures = {
        "rows": len(run.rows.label),
        "training_rows": sum(sorted_rows.count(0, place) for place in range(len(run.rows.divisions[0].domains))),
        "encoded_bytes": run.rows.memory_bytes,
        "bytes_before": peak.before,
        "bytes": largest - peak.before,
        "seconds": round(seconds, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
