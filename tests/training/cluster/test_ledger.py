"""Laws of the ledger and the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.cluster.errors import LedgerError
from training.cluster.ledger import Ledger, Log


def test_nothing_is_taken_in_twice() -> None:
    """Law: an entry that is in already, or comes twice at once, is an error that names it, and changes nothing."""
    ledger = Ledger()
    ledger.add([(1, "dn", "books"), (1, "dn", "toys")])
    for again in ([(1, "dr", "books"), (1, "dn", "toys")], [(2, "dn", "toys"), (2, "dn", "toys")]):
        with pytest.raises(LedgerError, match="dn of domain toys"):
            ledger.add(again)
    assert ledger.entries == [(1, "dn", "books"), (1, "dn", "toys")]
    ledger.add([(1, "dr", "books")])


def test_a_ledger_comes_back_from_its_record() -> None:
    """Law: a ledger brought back refuses what the one that was kept refuses."""
    ledger = Ledger()
    ledger.add([(1, "dn", "books")])
    again = Ledger.of(ledger.record())
    assert again.entries == ledger.entries
    with pytest.raises(LedgerError):
        again.add([(1, "dn", "books")])


def test_a_log_only_grows_and_outlives_a_cut_line(tmp_path: Path) -> None:
    """Law: lines of an earlier run stay; one that a kill cut short is left out, and hides no other."""
    said: list[str] = []
    Log(tmp_path / "log", said.append).write("begin", epoch=1)
    with (tmp_path / "log").open("a") as file:
        file.write('{"event":"ta')
    log = Log(tmp_path / "log", said.append)
    assert log.events() == [{"event": "begin", "epoch": 1}]
    log.write("lost", "a worker died")
    assert [event["event"] for event in log.events()] == ["begin", "lost"]
    assert said == ["a worker died"]
