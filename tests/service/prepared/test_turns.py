"""Laws of turns: one process at a time, never for long, and a dead one stands in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.prepared.turns import Turns

REVISION, OTHER = "a" * 64, "b" * 64
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2][:15], 16))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, revision: str) -> Iterator[subprocess.Popen[str]]:
    """Another process has the turn."""
    command = [sys.executable, "-S", "-c", HOLDER, str(path), revision]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


async def test_a_turn_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    """Law: past its patience a process goes on without, and says that it waited; others' revisions are free."""
    turns = Turns(tmp_path / "preparing", patience_s=0.01)
    with held(tmp_path / "preparing", REVISION):
        assert (await turns.take(REVISION)).waited
        assert not (await turns.take(OTHER)).waited
    turns.close()


async def test_a_process_that_dies_gives_its_turns_back(tmp_path: Path) -> None:
    """Law: no turn outlives its process."""
    turns = Turns(tmp_path / "preparing", patience_s=30.0)
    with held(tmp_path / "preparing", REVISION) as holder:
        holder.kill()
        holder.wait()
        turn = await turns.take(REVISION)
        assert not turn.waited
        turn.end()
        turn.end()
    turns.close()


async def test_a_turn_that_was_handed_on_is_ended_by_whom_it_was_given_to(tmp_path: Path) -> None:
    """Law: the first holder's end lets nobody in; the second one's does."""
    turns = Turns(tmp_path / "preparing", patience_s=0.0)
    turn = await turns.take(REVISION)
    last = turn.handed_on()
    turn.end()
    assert not free(tmp_path / "preparing")
    last.end()
    assert free(tmp_path / "preparing")
    turns.close()


async def test_without_locks_nobody_waits(tmp_path: Path) -> None:
    """Law: where the file cannot be made, everybody prepares for himself."""
    turns = Turns(tmp_path / "no folder" / "preparing", patience_s=30.0)
    turn = await turns.take(REVISION)
    assert not turn.waited
    turn.end()


def free(path: Path) -> bool:
    """Whether another process gets the turn at once."""
    script = HOLDER.replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB").replace('print("held", flush=True)', "sys.exit(0)")
    command = [sys.executable, "-S", "-c", script, str(path), REVISION]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
