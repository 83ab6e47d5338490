"""Counts by domain: exact for what is known, bounded for what anybody may make up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.domain_counts import (
    CANARY_REQUESTS,
    CANARY_ROWS,
    COLUMNS,
    REASONS,
    REQUESTS,
    ROWS,
    DomainCounts,
    DomainTally,
)

SCORED = st.lists(
    st.tuples(
        st.sampled_from(["women", "men", "kids", "a.b:c"]),
        st.integers(1, 500),
        st.sampled_from(["live", "canary", "previous", None]),
        st.sampled_from([None, *REASONS]),
    )
)


@given(SCORED, st.lists(st.integers(0, 20)))
def test_every_request_is_counted_once_wherever_the_tally_is_cut(
    scored: list[tuple[str, int, str | None, str | None]], cuts: list[int]
) -> None:
    """Law: the table holds, by domain and in all, what a plain sum over the requests gives."""
    counts, tally = DomainCounts(), DomainTally()
    for number, (domain, rows, alias, fallback) in enumerate(scored):
        tally.scored(domain, rows, alias, fallback, known=True)
        if number in cuts:
            counts.add(tally.take())
    counts.add(tally.take())
    assert len(tally) == 0
    for domain in {each[0] for each in scored} | {"nobody"}:
        own = [each for each in scored if each[0] == domain]
        row = counts.of(domain)
        assert (row[REQUESTS], row[ROWS]) == (len(own), sum(each[1] for each in own))
        canary = [each for each in own if each[2] == "canary"]
        assert (row[CANARY_REQUESTS], row[CANARY_ROWS]) == (len(canary), sum(each[1] for each in canary))
        for reason in REASONS:
            assert row[COLUMNS.index(reason)] == sum(each[3] == reason for each in own)
    assert counts.total[REQUESTS] == len(scored)
    np.testing.assert_array_equal(counts.table.sum(axis=0), counts.total)


def test_made_up_ids_take_no_room() -> None:
    """Law: an id that is no domain counts in the total alone; one that was a domain before is counted on by name."""
    counts, tally = DomainCounts(), DomainTally()
    tally.scored("women", 10, "live", None, known=True)
    counts.add(tally.take())
    for number in range(5000):
        tally.scored(f"made-up-{number}", 1, None, "unknown_domain", known=False)
    tally.scored("women", 10, None, "store_unavailable", known=False)
    tally.scored("women", 10, "live", None, known=True)
    counts.add(tally.take())
    assert len(counts) == 1
    assert counts.total[REQUESTS] == 5003
    assert counts.of("women")[REQUESTS] == 3
    assert counts.knows_all_of("made-up-7")


def test_past_its_limit_the_table_grows_no_more() -> None:
    """Law: the domain beyond the limit counts in the total, and `full` says so."""
    counts, tally = DomainCounts(limit=3), DomainTally()
    for domain in ("a", "b", "c", "d", "a"):
        tally.scored(domain, 1, "live", None, known=True)
    counts.add(tally.take())
    assert (len(counts), counts.full, counts.knows_all_of("d"), counts.knows_all_of("a")) == (3, True, False, True)
    assert counts.total[REQUESTS] == 5
    assert counts.of("a")[REQUESTS] == 2


def test_the_table_holds_as_many_domains_as_the_largest_of_the_papers() -> None:
    """Law: 69,102 domains are counted one by one, in a table of at most 16 MB."""
    counts = DomainCounts()
    names = [f"domain-{number}" for number in range(69_102)]
    for start in range(0, len(names), 512):
        counts.add({name: [1] * len(COLUMNS) for name in names[start : start + 512]})
    assert len(counts) == 69_102
    assert not counts.full
    assert counts.total[ROWS] == 69_102
    assert counts.table.base is not None
    assert counts.table.base.nbytes <= 16 << 20


def test_a_domain_is_counted_from_before_it_was_known() -> None:
    """Law: requests for a domain whose adapter came too late are its own once it is known, also in a later tally."""
    counts, tally = DomainCounts(), DomainTally()
    for _ in range(2):
        tally.scored("late", 5, None, "loading", known=False)
    counts.add(tally.take())
    tally.scored("late", 5, None, "loading", known=False)
    tally.scored("at-once", 5, None, "loading", known=False)
    tally.scored("late", 5, "live", None, known=True)
    tally.scored("at-once", 5, "live", None, known=True)
    counts.add(tally.take())
    assert [int(counts.of(domain)[REQUESTS]) for domain in ("late", "at-once")] == [4, 2]
    assert counts.of("late")[COLUMNS.index("loading")] == 3
    np.testing.assert_array_equal(counts.table.sum(axis=0), counts.total)


def test_ids_kept_aside_are_bounded() -> None:
    """Law: of ids that nobody knows only the last 10,000 are remembered."""
    counts, tally = DomainCounts(), DomainTally()
    for number in range(10_001):
        tally.scored(f"id-{number}", 1, None, "loading", known=False)
    counts.add(tally.take())
    for number in (0, 1):
        tally.scored(f"id-{number}", 1, "live", None, known=True)
    counts.add(tally.take())
    assert [int(counts.of(f"id-{number}")[REQUESTS]) for number in (0, 1)] == [1, 2]


def test_what_a_domain_counted_before_it_was_known_is_told_at_once() -> None:
    """Law: a request that came before its domain was known is in the domain's counts, another or none following."""
    counts, tally = DomainCounts(), DomainTally()
    tally.scored("late", 3, None, "loading", known=False)
    counts.add(tally.take())
    assert (counts.of("late")[REQUESTS], counts.of("late")[ROWS]) == (1, 3)
    tally.scored("late", 4, "live", None, known=True)
    counts.add(tally.take())
    assert (counts.of("late")[REQUESTS], counts.of("late")[ROWS]) == (2, 7)
