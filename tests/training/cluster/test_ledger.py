"""Laws of the ledger and the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.cluster.errors import LedgerError
from training.cluster.ledger import Entry, Ledger, Log

DOMAINS = ("books", "toys", "games")
ENTRIES = [(epoch, phase, domain) for epoch in (1, 2, 3) for phase in ("dn", "dr") for domain in DOMAINS]


def test_nothing_is_taken_in_twice() -> None:
    """Law: an entry that is in already, or comes twice at once, is an error that names it, and changes nothing."""
    ledger = Ledger(DOMAINS)
    ledger.add([(1, "dn", "books"), (1, "dn", "toys")])
    for again in ([(1, "dr", "books"), (1, "dn", "toys")], [(2, "dn", "toys"), (2, "dn", "toys")]):
        with pytest.raises(LedgerError, match="dn of domain toys"):
            ledger.add(again)
    with pytest.raises(LedgerError, match="no such domain"):
        ledger.add([(1, "dr", "books"), (1, "dr", "cars")])
    assert ledger.entries == [(1, "dn", "books"), (1, "dn", "toys")]
    ledger.add([(1, "dr", "books")])


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.lists(st.sampled_from(ENTRIES), max_size=5), max_size=12))
def test_a_ledger_is_the_set_of_what_was_taken_in(rounds: list[list[Entry]]) -> None:
    """Law: whatever comes in whatever order, and brought back from its record each time, it refuses what a plain set
    of entries would refuse, and holds what that holds."""
    ledger, plain = Ledger(DOMAINS), set[Entry]()
    for entries in rounds:
        twice = len(set(entries)) < len(entries) or not plain.isdisjoint(entries)
        if twice:
            with pytest.raises(LedgerError, match="count twice"):
                ledger.add(entries)
        else:
            ledger.add(entries)
            plain |= set(entries)
        ledger = Ledger.of(json.loads(json.dumps(ledger.record())), DOMAINS)
        assert sorted(ledger.entries) == sorted(plain)


def test_a_ledger_does_not_grow_with_the_epochs() -> None:
    """Law: whole epochs are counted and no more; of an open one there is a bit for each domain."""
    domains = [f"theme-{number}" for number in range(8_000)]
    ledger, sizes = Ledger(domains), []
    for epoch in range(1, 31):
        ledger.add((epoch, "dn", domain) for domain in domains)
        sizes.append(len(json.dumps(ledger.record())))
    assert max(sizes) < 100
    ledger.add((31, "dn", domain) for domain in domains[:-1])
    assert len(json.dumps(ledger.record())) < 8_000 / 8 * 4 / 3 + 150
    with pytest.raises(LedgerError, match="epoch 30"):
        ledger.add([(30, "dn", domains[0])])


def test_a_list_of_entries_is_read_as_manifests_held_it_before() -> None:
    """Law: what was written as a list refuses the same; a ledger of other domains or a damaged one is none."""
    ledger = Ledger.of([[1, "dn", "books"], [1, "dn", "toys"]], DOMAINS)
    assert ledger.entries == [(1, "dn", "books"), (1, "dn", "toys")]
    with pytest.raises(LedgerError, match="count twice"):
        ledger.add([(1, "dn", "books")])
    with pytest.raises(LedgerError, match="3 domains; this training has 2"):
        Ledger.of(ledger.record(), DOMAINS[:2])
    for damaged in (
        {},
        {**ledger.record(), "open": [[1, "dn", "AAAA"]]},
        {**ledger.record(), "open": [[1, "dn", "%"]]},
    ):
        with pytest.raises(LedgerError, match="cannot be read"):
            Ledger.of(damaged, DOMAINS)


def test_a_log_only_grows_and_outlives_a_cut_line(tmp_path: Path) -> None:
    """Law: lines of an earlier run stay; one that a kill cut short is left out, and hides no other."""
    said: list[str] = []
    assert list(Log(tmp_path / "log", said.append).events()) == []
    Log(tmp_path / "log", said.append).write("begin", epoch=1)
    with (tmp_path / "log").open("a") as file:
        file.write('{"event":"ta')
    log = Log(tmp_path / "log", said.append)
    assert list(log.events()) == [{"event": "begin", "epoch": 1}]
    log.write("lost", "a worker died")
    assert [event["event"] for event in log.events()] == ["begin", "lost"]
    assert said == ["a worker died"]
