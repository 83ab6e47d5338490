"""A worker of its own that loads one adapter when it is told to: `python -m … RUN CACHE`, then a line on its input."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from adapters_store.canonical import digest
from benchmarks.forge import Run
from tests.service.prepared.rig import rigged


async def main(run: Run, folder: Path) -> None:
    """Say when it is ready, load with all patience, then say whether it left a blob and what it scores."""
    async with rigged(run, folder, patience_s=30.0) as rig:
        print("ready", flush=True)
        sys.stdin.readline()
        slot = await rig.load(rig.body())
        print(rig.outcomes["kept"], rig.outcomes["used"], digest(b"".join(rig.bits(slot))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Run(Path(sys.argv[1])), Path(sys.argv[2])))
