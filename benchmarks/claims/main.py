"""`make claims-main`: every promise of the main job, measured; exits non-zero when one falls short."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.claims.line import Line
from benchmarks.claims.workplace import ROOT, Workplace

GROUPS = ("movielens", "synthetic", "served", "swaps", "malformed", "footprint", "peers", "fresh_clone")


def main() -> int:
    """Run the groups asked for, print their lines, and keep the output when all of them ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="run these groups only (nothing is written to docs/)")
    parser.add_argument("--work", type=Path, help="work folder (default: a temporary one)")
    parser.add_argument("--reuse", action="store_true", help="take training runs already in --work")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="espalier-claims-") as temporary:
        folder = (options.work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        lines = run_groups(options.only or GROUPS, Workplace(folder, options.reuse))
    short = [line for line in lines if line.verdict == "falls short"]
    print(f"\n{len(lines)} lines, {len(short)} fall short")
    if not options.only:
        write_report(lines, options.reuse)
    return 1 if short else 0


def run_groups(groups: tuple[str, ...] | list[str], work: Workplace) -> list[Line]:
    """The lines of every group; a group that breaks is a line that falls short."""
    lines: list[Line] = []
    for group in groups:
        started = time.monotonic()
        print(f"# {group}", flush=True)
        module = importlib.import_module(f"benchmarks.claims.{group}")
        try:
            for line in module.lines(work):
                lines.append(line)
                print(line, flush=True)
        except Exception as error:
            traceback.print_exc()
            lines.append(Line(group, f"broke: {type(error).__name__}", "runs to its end", "falls short"))
            print(lines[-1], flush=True)
        print(f"# {group}: {time.monotonic() - started:.0f} s", flush=True)
    return lines


def write_report(lines: list[Line], reused: bool) -> None:
    """docs/claims.md: the last output, with what it was measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    head = [
        "# Claims",
        "",
        "The last output of `make claims-main`. Reused trainings of an earlier call are named below.",
        "",
        f"Measured {time.strftime('%Y-%m-%d')} at commit {commit.strip()}, Python {platform.python_version()}, "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
        + (", with training runs of an earlier call." if reused else "."),
        "",
        "| claim | figure | bound | verdict |",
        "|---|---|---|---|",
    ]
    (ROOT / "docs" / "claims.md").write_text("\n".join(head + [line.row() for line in lines]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
