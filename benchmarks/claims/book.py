"""A set of claims: runs its groups, prints their lines, and keeps the output as its own section of docs/claims.md."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import subprocess
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.claims.line import Line
from benchmarks.claims.workplace import ROOT, Workplace

REPORT = ROOT / "docs" / "claims.md"


@dataclass(frozen=True)
class Book:
    """One set.

    Args:
        name: `make claims-<name>` runs it.
        groups: modules of this package, in the order in which they run; each has `lines(work)`.
        summary: what the set is about, for its command line.
    """

    name: str
    groups: tuple[str, ...]
    summary: str

    def main(self) -> int:
        """Run the groups asked for; 0 if no line falls short. The report is written when all of them ran."""
        parser = argparse.ArgumentParser(description=self.summary)
        parser.add_argument("--only", nargs="+", choices=self.groups, help="these groups only; docs/ stays as it is")
        parser.add_argument("--work", type=Path, help="work folder (default: a temporary one)")
        parser.add_argument("--reuse", action="store_true", help="take training runs already in --work")
        parser.add_argument("--quick", action="store_true", help="small sizes, to try the claims; docs/ stays as it is")
        options = parser.parse_args()
        with tempfile.TemporaryDirectory(prefix="espalier-claims-") as temporary:
            folder = (options.work or Path(temporary)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            lines = run_groups(options.only or self.groups, Workplace(folder, options.reuse, options.quick))
        short = [line for line in lines if line.verdict == "falls short"]
        print(f"\n{len(lines)} lines, {len(short)} fall short")
        if not options.only and not options.quick:
            old = REPORT.read_text() if REPORT.exists() else ""
            REPORT.write_text(with_section(old, self.name, section(self.name, lines, options.reuse)))
        return 1 if short else 0


def run_groups(groups: Sequence[str], work: Workplace) -> list[Line]:
    """The lines of every group; a group that breaks is a line that falls short."""
    lines: list[Line] = []
    for group in groups:
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


def section(name: str, lines: Sequence[Line], reused: bool) -> str:
    """The last output of one set as Markdown, with what it was measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    head = [
        f"## make claims-{name}",
        "",
        f"Measured {time.strftime('%Y-%m-%d')} at commit {commit.strip()}, Python {platform.python_version()}, "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
        + (", with training runs of an earlier call." if reused else "."),
        "",
        "| claim | figure | bound | verdict |",
        "|---|---|---|---|",
    ]
    return "\n".join(head + [line.row() for line in lines]) + "\n"


def with_section(report: str, name: str, own: str) -> str:
    """The report with one set's section replaced, or added at the end; every other one as it was."""
    parts = re.split(r"(?m)^(?=## make claims-)", report)
    sections = [part.rstrip() + "\n" for part in parts[1:]]
    mine = [i for i, part in enumerate(sections) if part.splitlines()[0] == f"## make claims-{name}"]
    if mine:
        sections[mine[0]] = own
    else:
        sections.append(own)
    title = "# Claims\n\nOne section a command, each the last output of that command from beginning to end.\n"
    return "\n".join([title, *sections])
