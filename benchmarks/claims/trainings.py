"""Many trainings side by side: a process a core, and every result kept as soon as it is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adapters_store.durable import write_durably
from benchmarks.claims.workplace import ROOT, Workplace
from training.trials.kept import Found, KeptResults, TrialKey

RECORDS = ROOT / "benchmarks" / "claims" / "records"


class Training(Protocol):
    """What is trained; hashable, and sent to another process."""

    @property
    def key(self) -> TrialKey:
        """What its result is kept by."""


T = TypeVar("T", bound=Training)


def run_all(
    trainings: Sequence[T], run: Callable[[T], Found], told: Callable[[T, Found], str], kept: Path
) -> dict[T, Found]:
    """Run trainings; one whose result is kept is not run again, and one that breaks holds up no other.

    Args:
        trainings: what to run; longest first is quickest.
        run: a module's function, given one thread.
        told: a line about a result.
        kept: folder of results, one JSON file each.

    Raises:
        Exception: the first that a training ended with, once all others are done and kept.
    """
    results = KeptResults(kept)
    found = {training: results.get(training.key) for training in trainings}
    done = {training: result for training, result in found.items() if result is not None}
    left = [training for training in found if training not in done]
    broken: list[Exception] = []
    with ProcessPoolExecutor(_cores(len(left)), mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, training): training for training in left}
        for future in as_completed(running):
            training = running[future]
            try:
                done[training] = future.result()
                results.put(training.key, done[training])
                print(f"# {told(training, done[training])}", flush=True)
            except Exception as error:
                broken.append(error)
                print(f"# broke: {training.key.method}, seed {training.key.seed}: {error!r}", flush=True)
    if broken:
        raise broken[0]
    return done


def dated(content: Mapping[str, Any]) -> str:
    """When a record was made, and of which code its trainings are."""
    return f"{content['date']} at commit {content['commit']}, trained by code {', '.join(content['code'])}"


def fresh(work: Workplace, name: str) -> Path:
    """A folder's path in the work folder; what an earlier call left there is gone, unless it is to be reused."""
    folder = work.folder / name
    if not work.reuse:
        shutil.rmtree(folder, ignore_errors=True)
    return folder


@contextmanager
def sittings(name: str, records: Path = RECORDS) -> Iterator[Path]:
    """The folder of a long table's results while it is unfinished, gone once the block has ended without an error.

    It lies beside the records, so that a table that takes longer than one sitting, or one machine, goes on from what is
    committed of it.
    """
    folder = records / "unfinished" / name
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another table is unfinished
        folder.parent.rmdir()


def origin(code: Iterable[str]) -> dict[str, Any]:
    """When and at which commit a record is made, and of which code (`code_commit`) its trainings are."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    short = {name.partition("+")[0][:9] + ("+" if "+" in name else "") for name in code}
    return {"commit": head.strip(), "date": time.strftime("%Y-%m-%d"), "code": sorted(short)}


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Put a record in place of the one before, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _cores(left: int) -> int:
    """Processes for so many trainings; a pool wants one at least, and starts none before there is work."""
    return max(1, min(len(os.sched_getaffinity(0)), left))
