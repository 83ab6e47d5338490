"""A set of claims: runs its groups, prints their lines, and keeps each group's last output in docs/claims.md."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import re
import subprocess
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import machine
from benchmarks.claims.line import Line, at_most
from benchmarks.claims.workplace import ROOT, Workplace

TIME = "time"
REPORT = ROOT / "docs" / "claims.md"
TITLE = """# Claims

What each command printed last, a table a group. Groups of one commit and day are of one run of the whole command; one
that was run again by itself (`python -m benchmarks.claims.NAME --only GROUP`) has its own.
"""


@dataclass(frozen=True)
class Book:
    """One set.

    Args:
        name: `make claims-<name>` runs it.
        groups: modules of this package, in the order in which they run; each has `lines(work)`.
        summary: what the set is about, for its command line.
        minutes: that all groups may take together where no long table is run (FULL=1).
    """

    name: str
    groups: tuple[str, ...]
    summary: str
    minutes: float = math.inf

    def main(self) -> int:
        """Run the groups asked for; 0 if no line falls short. Each group's part of the report is written as it ends."""
        parser = argparse.ArgumentParser(description=self.summary)
        parser.add_argument("--only", nargs="+", choices=self.groups, help="these groups only")
        parser.add_argument("--work", type=Path, help="work folder (default: a temporary one)")
        parser.add_argument("--reuse", action="store_true", help="take training runs already in --work")
        parser.add_argument("--quick", action="store_true", help="small sizes, to try the claims; docs/ stays as it is")
        options = parser.parse_args()
        lines: list[Line] = []
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="espalier-claims-") as temporary:
            folder = (options.work or Path(temporary)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            work = Workplace(folder, options.reuse, options.quick)  # one for all: it knows the secrets that were used
            for group in options.only or self.groups:
                found = run_group(group, work)
                lines += found
                if not options.quick:
                    self._keep(group, part(group, found, options.reuse))
        whole = not (options.only or options.reuse or options.quick or os.environ.get("FULL") == "1")
        if whole and math.isfinite(self.minutes):
            lines.append(self.in_all(time.monotonic() - began))
            print(lines[-1], flush=True)
            self._keep(TIME, part(TIME, lines[-1:], False))
        short = [line for line in lines if line.verdict == "falls short"]
        print(f"\n{len(lines)} lines, {len(short)} fall short")
        return 1 if short else 0

    def in_all(self, seconds: float) -> Line:
        """The time of a call that ran every group and no long table."""
        return at_most(f"`make claims-{self.name}`, all its short lines", seconds / 60, self.minutes, " min", 1)

    def _keep(self, group: str, own: str) -> None:
        """Put a group's part in place of its last one."""
        report = read_report(REPORT.read_text() if REPORT.exists() else "")
        parts = {**report.get(self.name, {}), group: own}
        report[self.name] = {name: parts[name] for name in (*self.groups, TIME) if name in parts}
        draft = REPORT.with_suffix(".part")
        draft.write_text(written_report(report))
        draft.rename(REPORT)


def run_group(group: str, work: Workplace) -> list[Line]:
    """The lines of a group; one that breaks is a line that falls short."""
    lines: list[Line] = []
    started = time.monotonic()
    print(f"# {group}", flush=True)
    try:
        module = importlib.import_module(f"benchmarks.claims.{group}")
        for line in module.lines(work):
            lines.append(line)
            print(line, flush=True)
    except Exception as error:
        traceback.print_exc()
        lines.append(Line(group, f"broke: {type(error).__name__}", "runs to its end", "falls short"))
        print(lines[-1], flush=True)
    print(f"# {group}: {time.monotonic() - started:.0f} s", flush=True)
    return lines


def part(group: str, lines: Sequence[Line], reused: bool) -> str:
    """The last output of one group as Markdown, with what it was measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    head = [
        f"### {group}",
        "",
        f"Measured {time.strftime('%Y-%m-%d')} at commit {commit.strip()}, Python {platform.python_version()}, "
        f"{machine.described()}" + (", with training runs of an earlier call." if reused else "."),
        "",
        "| claim | figure | bound | verdict |",
        "|---|---|---|---|",
    ]
    return "\n".join(head + [line.row() for line in lines]) + "\n"


def read_report(text: str) -> dict[str, dict[str, str]]:
    """The parts of a report, by the name of their set and their group."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"(?m)^(?=## make claims-)", text)[1:]:
        name, *parts = re.split(r"(?m)^(?=### )", section)
        groups = {each.splitlines()[0].removeprefix("### "): each.rstrip() + "\n" for each in parts}
        found[name.splitlines()[0].removeprefix("## make claims-")] = groups
    return found


def written_report(sets: Mapping[str, Mapping[str, str]]) -> str:
    """The report of these parts."""
    sections = ["\n".join([f"## make claims-{name}\n", *parts.values()]) for name, parts in sets.items()]
    return "\n".join([TITLE, *sections])
