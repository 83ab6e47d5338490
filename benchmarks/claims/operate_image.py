"""The image, built and run for real: `deploy/check_image.py` over a store with a trained run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.claims.line import Line, not_measurable
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace, new_token

TOOLS = ("buildah", "podman", "crun", "debootstrap")
_NAME, _FIGURE, _BOUND = slice(0, 34), slice(35, 55), slice(56, 72)  # columns of the script's lines


def filled(work: Workplace) -> Path:
    """A folder as `espalier demo` leaves one: store, run, tokens, and the token itself."""
    run, folder = last_epoch_run(work), work.folder / "image"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copytree(run.folder / "bundle", folder / "run" / "bundle")
    work.espalier("publish", str(run.folder), "--store", (folder / "store").as_uri())
    (folder / "token").write_text(new_token(work, folder / "tokens.yaml"))
    return folder


def lines(work: Workplace) -> Iterator[Line]:
    """The script's own lines."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        why = f"{', '.join(missing)} not installed" if missing else "building and running images here takes root"
        yield not_measurable("image built and run", "non-root, read-only root, scores, <= 300 MB of layers", why)
        return
    command = [sys.executable, "deploy/check_image.py", str(filled(work)), "--debootstrap"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3000)
    told = [line for line in done.stdout.splitlines() if line.endswith(("holds", "FALLS SHORT"))]
    if not told:
        raise ClaimError(f"the image was not checked\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    for line in told:
        name, figure, bound = (line[part].strip() for part in (_NAME, _FIGURE, _BOUND))
        yield Line(f"image: {name}", figure, bound, "holds" if line.endswith("holds") else "falls short")
