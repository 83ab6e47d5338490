"""Transitions of the domain record, against a plain model of what they mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapters_store.errors import MalformedRecord, NothingToRollBack, RecordConflict, WrongDomain
from adapters_store.records import HISTORY, BackboneRecord, DomainRecord, parse_record
from adapters_store.transitions import activated, defaulted, deleted, rolled_back

REVISIONS = [f"{i:064x}" for i in range(24)]
REVISION = st.sampled_from(REVISIONS)


def new(domain: str = "theme-1") -> DomainRecord:
    return DomainRecord(domain=domain, division="theme")


class DomainHistory(RuleBasedStateMachine):
    """Any sequence of activate, roll back and delete, beside a model: a stack of (revision, left in a rollback)."""

    def __init__(self) -> None:
        super().__init__()
        self.record = new()
        self.live: str | None = None
        self.before: list[tuple[str, bool]] = []
        self.changes = 0

    @initialize(revision=REVISION)
    def begin(self, revision: str) -> None:
        self.activate(revision)

    def apply(self, record: DomainRecord) -> None:
        assert record.generation == self.record.generation + (record is not self.record)
        self.changes += record is not self.record
        self.record = record
        self.before = self.before[:HISTORY]

    @rule(revision=REVISION)
    def activate(self, revision: str) -> None:
        if revision != self.live:
            kept = [entry for entry in self.before if entry[0] != revision]
            self.before = ([(self.live, False)] if self.live else []) + kept
            self.live = revision
        self.apply(activated(self.record, "theme", revision, "test", 0.0))

    @rule()
    @precondition(lambda self: self.live is not None)
    def roll_back(self) -> None:
        assert self.live is not None
        target = next((revision for revision, left in self.before if not left), None)
        if target is None:
            with pytest.raises(NothingToRollBack):
                rolled_back(self.record, self.live, "test", 0.0)
            return
        self.before = [(self.live, True), *(entry for entry in self.before if entry[0] != target)]
        after = rolled_back(self.record, self.live, "test", 0.0)
        self.live = target
        self.apply(after)

    @rule(revision=REVISION)
    def roll_back_from_another(self, revision: str) -> None:
        if revision != self.live:
            with pytest.raises(RecordConflict):
                rolled_back(self.record, revision, "test", 0.0)

    @rule()
    def delete(self) -> None:
        if self.live is not None:
            self.before = [(self.live, False), *self.before]
        self.live = None
        self.apply(deleted(self.record, "test", 0.0))

    @invariant()
    def record_is_the_model(self) -> None:
        assert (self.record.live.revision if self.record.live else None) == self.live
        assert [(entry.revision, entry.rolled_back) for entry in self.record.previous] == self.before
        assert self.record.deleted == (self.live is None and self.changes > 0)

    @invariant()
    def history_is_bounded_and_has_no_repetition(self) -> None:
        names = [entry.revision for entry in self.record.previous]
        assert len(names) == len(set(names)) <= HISTORY
        assert self.live not in names

    @invariant()
    def generation_counts_changes(self) -> None:
        assert self.record.generation == self.changes

    @invariant()
    def record_survives_storage(self) -> None:
        stored = self.record.model_dump(mode="json")
        assert parse_record(stored, DomainRecord, "domain/theme-1") == self.record


TestDomainHistory = DomainHistory.TestCase
TestDomainHistory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_rollback_walks_back_and_never_to_where_it_was_left() -> None:
    """Law: rolling back twice goes two back, not forth and back; the left revisions stay in sight, marked."""
    record = new()
    for revision in REVISIONS[:3]:
        record = activated(record, "theme", revision, "test", 0.0)
    once = rolled_back(record, REVISIONS[2], "test", 0.0)
    assert once.live is not None
    assert once.live.revision == REVISIONS[1]
    twice = rolled_back(once, REVISIONS[1], "test", 0.0)
    assert twice.live is not None
    assert twice.live.revision == REVISIONS[0]
    assert [(e.revision, e.rolled_back) for e in twice.previous] == [(REVISIONS[1], True), (REVISIONS[2], True)]
    with pytest.raises(NothingToRollBack, match="theme-1"):
        rolled_back(twice, REVISIONS[0], "test", 0.0)


def test_activating_what_is_live_changes_nothing() -> None:
    """Law: repeating a publish is no change: same record, same generation."""
    record = activated(new(), "theme", REVISIONS[0], "one", 1.0)
    assert activated(record, "theme", REVISIONS[0], "two", 2.0) is record
    tombstone = deleted(record, "one", 3.0)
    assert deleted(tombstone, "two", 4.0) is tombstone


def test_domain_keeps_its_division_while_it_is_in_use() -> None:
    """Law: a domain id is unique over divisions; only a deleted domain may begin anew elsewhere."""
    record = activated(new(), "theme", REVISIONS[0], "test", 0.0)
    with pytest.raises(WrongDomain, match="is of division 'theme', not 'gender'"):
        activated(record, "gender", REVISIONS[1], "test", 0.0)
    moved = activated(deleted(record, "test", 0.0), "gender", REVISIONS[1], "test", 0.0)
    assert (moved.division, moved.generation) == ("gender", 3)


def test_change_says_when_and_who() -> None:
    """Law: every change records its time in UTC and its author."""
    record = activated(new(), "theme", REVISIONS[0], "ann", 1_700_000_000.25)
    assert (record.updated_at, record.by) == ("2023-11-14T22:13:20.250Z", "ann")


def test_keys_of_newer_writers_survive_a_change() -> None:
    """Law: an older build that changes a record drops nothing that a newer one put there."""
    stored = activated(new(), "theme", REVISIONS[0], "test", 0.0).model_dump(mode="json")
    stored |= {"novel": {"of": "a newer build"}}
    stored["live"]["note"] = "kept"
    record = parse_record(stored, DomainRecord, "domain/theme-1")
    back = rolled_back(activated(record, "theme", REVISIONS[1], "test", 0.0), REVISIONS[1], "test", 0.0)
    dumped = back.model_dump(mode="json")
    assert dumped["novel"] == stored["novel"]
    assert dumped["live"] == stored["live"]


@given(st.lists(REVISION, max_size=40))
def test_default_backbone_keeps_its_history(revisions: list[str]) -> None:
    """Law: the default is the last one set; earlier ones follow, newest first, once each."""
    record, expected = BackboneRecord(), []
    for revision in revisions:
        record = defaulted(record, revision, "test", 0.0)
        expected = [revision, *(entry for entry in expected if entry != revision)][: HISTORY + 1]
    assert [*([record.default] if record.default else []), *record.previous] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"domain": "../x"},
        {"generation": -1},
        {"live": {"revision": "short"}},
        {"previous": [{"revision": REVISIONS[0]}] * 17},
        {"live": 3},
    ],
)
def test_stored_nonsense_is_named(changes: dict[str, object]) -> None:
    """Law: a record that cannot be read is an error with its key, never a record."""
    stored = new().model_dump(mode="json") | changes
    with pytest.raises(MalformedRecord, match="record 'domain/theme-1': "):
        parse_record(stored, DomainRecord, "domain/theme-1")
