"""Ten million generated rows: what a loader keeps in memory at most, and a run over what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.claims.line import Line, at_most, exactly, measured
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace

ROWS, QUICK_ROWS = 10_000_000, 50_000
USERS, VIDEOS, TABS = 1_000, 200_000, (0, 1, 2, 4, 6)
BLOCK = 1_000_000
LOGS = ("log_standard_4_08_to_4_21_1k.csv", "log_standard_4_22_to_5_08_1k.csv")
BOUND_GB = 2
DISK = 0.4
"""Of what rows in memory take: the positions of rows stay there, sorted by domain, in either case."""
_RANGES = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
)
_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")


def lines(work: Workplace) -> Iterator[Line]:
    """KuaiRand-1K's form: two logs of half the rows each, and the features of all users and videos."""
    rows = QUICK_ROWS if work.quick else ROWS
    source, out = work.folder / "kuairand-source", work.folder / "kuairand"
    written = write_source(source, rows)
    seconds, gigabytes = prepared(work, "kuairand-1k", source, out)
    yield at_most(f"kuairand-1k, {rows:,} generated rows: peak memory of the loader", gigabytes, BOUND_GB, " GB", 2)
    kept = pl.scan_parquet(out / "interactions.parquet").select(pl.len()).collect().item()
    yield exactly("rows that it kept", kept, rows)
    yield measured(f"its time, for {written / 1e6:,.0f} MB of CSV", f"{seconds:.0f} s")
    yield from rows_lines(work, out)


def rows_lines(work: Workplace, data: Path) -> Iterator[Line]:
    """What a run over these rows needs in memory of its own, with `rows: disk` and without."""
    found = {where: opened(work, data, where) for where in ("memory", "disk")}
    told = ", ".join(
        f"{where} {each['bytes'] / 1e6:,.0f} MB in {each['seconds']:.0f} s" for where, each in found.items()
    )
    encoded = found["disk"]["encoded_bytes"] / 1e6
    claim = f"memory of a run that has {found['disk']['rows']:,} rows ({encoded:,.0f} MB encoded) at hand, rows: disk"
    yield at_most(
        f"{claim} over rows: memory ({told})", found["disk"]["bytes"] / found["memory"]["bytes"], DISK, "x", 2
    )


def opened(work: Workplace, data: Path, where: str) -> dict[str, float]:
    """The figures of `benchmarks.rows_memory`, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rows_memory", str(data), str(work.folder / f"rows-{where}"), where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ClaimError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def write_source(folder: Path, rows: int) -> int:
    """Files of the public form, random; bytes of the logs."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for i, name in enumerate(LOGS):
        with (folder / name).open("wb") as log:
            left, first = rows // len(LOGS) + (rows % len(LOGS) if i == 0 else 0), True
            while left:
                n = min(left, BLOCK)
                _log(draw, n).write_csv(log, include_header=first)
                left, first = left - n, False
    users = {"user_id": np.arange(USERS), **{name: draw.integers(0, 4, USERS).astype(str) for name in _RANGES}}
    users |= {f"onehot_feat{i}": draw.integers(0, 50, USERS).astype(str) for i in range(18)}
    users |= {name: draw.integers(0, 5_000, USERS) for name in _COUNTS}
    pl.DataFrame(users).write_csv(folder / "user_features_1k.csv")
    videos = {
        "video_id": np.arange(VIDEOS),
        "author_id": draw.integers(0, 9_000, VIDEOS),
        "video_type": draw.choice(["NORMAL", "AD"], VIDEOS),
        "upload_dt": np.full(VIDEOS, "2022-01-01"),
        "visible_status": draw.choice(["public", "private"], VIDEOS),
        "server_width": draw.choice(["720", "1080"], VIDEOS),
        "server_height": draw.choice(["1280", "1920"], VIDEOS),
    }
    pl.DataFrame(videos).write_csv(folder / "video_features_basic_1k.csv")
    return sum((folder / name).stat().st_size for name in LOGS)


def _log(draw: np.random.Generator, rows: int) -> pl.DataFrame:
    """Rows of a log, with some of the columns that the loader leaves alone."""
    return pl.DataFrame(
        {
            "user_id": draw.integers(0, USERS, rows),
            "video_id": draw.integers(0, VIDEOS, rows),
            "date": np.full(rows, 20_220_408),
            "hourmin": draw.integers(0, 2_359, rows),
            "time_ms": draw.integers(1_649_347_200_000, 1_652_000_000_000, rows),
            "is_click": draw.integers(0, 2, rows),
            "is_like": draw.integers(0, 2, rows),
            "play_time_ms": draw.integers(0, 200_000, rows),
            "duration_ms": draw.integers(0, 200_000, rows),
            "tab": draw.choice(TABS, rows),
        }
    )


def prepared(work: Workplace, name: str, source: Path, out: Path) -> tuple[float, float]:
    """Run `espalier data prepare`; seconds it took, and the peak of its own memory in GB."""
    command = [str(Path(sys.executable).with_name("espalier")), "data", "prepare", name]
    command += ["--source", str(source), "--out", str(out), "--any-size"]
    log, started = work.folder / "loader.log", time.monotonic()
    with log.open("ab") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ClaimError(f"{' '.join(command)}\n{log.read_text(errors='replace')[-2000:]}")
    return time.monotonic() - started, usage.ru_maxrss * 1024 / 1e9
