"""The benchmark sets: 30 Taobao-like domains counted again from their click log, and epinions-mdr's time and memory."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.claims.line import Line, at_most, exactly, not_measurable
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace
from training.builders.published import COUNTS, PUBLISHED
from training.sources.clicklog import ClickWorld, write_click_log

THEMES = 30
MORE_THEMES = 4  # that the log has, and the set does not
FULL = ClickWorld(seed=7, themes=THEMES + MORE_THEMES, users=20_000, items=6_000, clicks=150_000, items_per_theme=900)
QUICK = ClickWorld(seed=7, themes=THEMES + MORE_THEMES, users=500, items=300, clicks=4_000, items_per_theme=120)
EPINIONS_S, EPINIONS_GB = 60, 2
PAPERS = ("amazon-6", "amazon-13", "taobao-10", "taobao-20", "taobao-30")


@dataclass(frozen=True)
class Theme:
    """What the log says of one theme.

    Args:
        clicks: different clicks of users and items with an embedding.
        ratio: positives per negative, as the released code draws them.
    """

    clicks: set[tuple[int, int]]
    ratio: float

    def negatives(self) -> dict[int, int]:
        """How many negatives each user must have: by the ratio, or all that the theme has left."""
        items = len({item for _, item in self.clicks})
        own = Counter(user for user, _ in self.clicks)
        wanted = {user: min(math.floor(count / self.ratio), items - count) for user, count in own.items()}
        return {user: count for user, count in wanted.items() if count}


def themes_of(folder: Path) -> dict[str, Theme]:
    """The first 30 themes of a log, read line by line."""
    embedded = {
        side: {int(line.split(",", 1)[0]) for line in (folder / f"{side}_embedding.csv").read_text().splitlines()[1:]}
        for side in ("user", "item")
    }
    clicks: dict[int, set[tuple[int, int]]] = {}
    with (folder / "theme_click_log.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            own = clicks.setdefault(int(row["theme_id"]), set())
            click = (int(row["user_id"]), int(row["item_id"]))
            if click[0] in embedded["user"] and click[1] in embedded["item"]:
                own.add(click)
    draw = random.Random(123)
    kept = [(theme, own) for theme, own in clicks.items() if own][:THEMES]
    return {f"theme-{theme}": Theme(own, round(draw.uniform(0.2, 0.5), 2)) for theme, own in kept}


def build(work: Workplace, name: str, source: Path, out: Path, *options: str, threads: int = 0) -> tuple[float, float]:
    """Run `espalier data build`; seconds it took, and the peak of its own memory in GB."""
    command = [str(Path(sys.executable).with_name("espalier")), "data", "build", name]
    command += ["--source", str(source), "--out", str(out), *options]
    environment = dict(os.environ)
    if threads:
        environment.update({"POLARS_MAX_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)})
    started = time.monotonic()
    with (work.folder / "builders.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ClaimError(f"{' '.join(command)}\n{(work.folder / 'builders.log').read_text(errors='replace')[-2000:]}")
    return time.monotonic() - started, usage.ru_maxrss * 1024 / 1e9


def digest(folder: Path) -> str:
    """Of every file of a prepared folder."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        whole.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def faults_of(themes: dict[str, Theme], rows: pl.DataFrame, spec: dict[str, Any]) -> Counter[str]:
    """How often each rule is broken."""
    wrong = Counter[str]()
    wrong["domains"] = sum(a != b for a, b in zip(spec["divisions"][0]["domains"], themes, strict=True))
    wrong["ratios"] = sum(spec["facts"]["ratios"][name] != theme.ratio for name, theme in themes.items())
    for name, theme in themes.items():
        own = rows.filter(domain_id=name)
        positives, negatives = own.filter(label=1), own.filter(label=0)
        missed = set(negatives.select("user_id", "item_id").iter_rows())
        wrong["positives"] += set(positives.select("user_id", "item_id").iter_rows()) != theme.clicks
        wrong["positives"] += len(positives) != len(theme.clicks)
        wrong["negatives"] += Counter(negatives["user_id"].to_list()) != theme.negatives()
        wrong["clicked"] += len(missed & theme.clicks)
        wrong["twice"] += len(negatives) - len(missed)
        wrong["foreign"] += len({item for _, item in missed} - {item for _, item in theme.clicks})
        for part in (positives, negatives):
            fifth = len(part) // 5
            wanted = {"train": len(part) - 2 * fifth, "validation": fifth, "test": fifth}
            wrong["split"] += Counter(part["split"].to_list()) != Counter(wanted)
    return wrong


def taobao_lines(work: Workplace) -> Iterator[Line]:
    """Thirty domains, counted again in plain Python."""
    source, out = work.folder / "click-log", work.folder / "taobao-30"
    write_click_log(source, QUICK if work.quick else FULL)
    build(work, "taobao-30", source, out, "--any-size", "--processes", "1")
    rows = pl.read_parquet(out / "interactions.parquet")
    wrong = faults_of(themes_of(source), rows, json.loads((out / "spec.json").read_text()))
    claims = {
        f"of {THEMES} domains, {len(rows):,} rows: not the themes that the log names first": "domains",
        "domains with another ratio of positives to negatives than the released code's": "ratios",
        "domains whose positives are not the log's clicks": "positives",
        "domains with a user whose negatives are not floor(n / ratio) or all left": "negatives",
        "negatives that the user clicked in the domain": "clicked",
        "negatives that stand twice": "twice",
        "negatives of items that are not the domain's": "foreign",
        "domains and labels not split 60/20/20": "split",
    }
    for claim, fault in claims.items():
        yield exactly(claim, wrong[fault], 0)
    build(work, "taobao-30", source, work.folder / "taobao-30-4", "--any-size", "--processes", "4")
    yield exactly("bytes of the folder built by 4 processes, as by 1", digest(work.folder / "taobao-30-4"), digest(out))
    build(work, "taobao-30", source, work.folder / "taobao-30-seed", "--any-size", "--seed", "1")
    again = pl.read_parquet(work.folder / "taobao-30-seed" / "interactions.parquet")
    same_counts = again.group_by("domain_id", "label", "split").len().sort("domain_id", "label", "split")
    counts = rows.group_by("domain_id", "label", "split").len().sort("domain_id", "label", "split")
    figure = (not again.equals(rows), same_counts.equals(counts))
    yield exactly("another seed: other rows, and as many in every domain, label and part", figure, (True, True))


def epinions_lines(work: Workplace) -> Iterator[Line]:
    """The real many-domain set, on one core."""
    source = work.data / "epinions"
    if not source.exists():
        yield not_measurable("epinions-mdr on one core", f"<= {EPINIONS_S} s", "the data is not at hand")
        return
    seconds, gigabytes = build(work, "epinions-mdr", source, work.folder / "epinions-mdr", threads=1)
    rows = pl.scan_parquet(work.folder / "epinions-mdr" / "interactions.parquet").select(pl.len()).collect().item()
    facts = json.loads((work.folder / "epinions-mdr" / "spec.json").read_text())["facts"]
    known = PUBLISHED["epinions-mdr"]
    claim = f"epinions-mdr: {', '.join(COUNTS)}"
    yield exactly(claim, tuple(facts[what] for what in COUNTS), tuple(known.of(what) for what in COUNTS))
    yield at_most(f"epinions-mdr, {rows:,} rows, on one core", seconds, EPINIONS_S, " s", 1)
    yield at_most("peak memory of that build", gigabytes, EPINIONS_GB, " GB", 2)


def published_lines() -> Iterator[Line]:
    """What the paper prints of its sets: neither its tables nor its files are at hand here."""
    for name in PAPERS:
        known = PUBLISHED.get(name)
        unsourced = COUNTS if known is None else known.unsourced
        bound = "exactly" if known is not None and known.tolerance == 0 else "within 0.3%"
        yield not_measurable(f"{name}: {', '.join(unsourced)} of the paper's overview", bound, "no source at hand")
        if known is not None:
            for what in sorted(known.sourced):
                yield not_measurable(f"{name}: {known.of(what):,} {what}", bound, "the data is not at hand")


def lines(work: Workplace) -> Iterator[Line]:
    """Generated click logs first, then the real reviews, then what cannot be checked here."""
    yield from taobao_lines(work)
    yield from epinions_lines(work)
    yield from published_lines()
