"""Series of single domains: few, never falling, and together everything, whoever scrapes them and when."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain_counts import REQUESTS, DomainCounts, DomainTally
from service.top_domains import EVERY_S, OTHER, TopDomains


class Traffic:
    """Domains that are scored, and the clock that tells when."""

    def __init__(self, places: int) -> None:
        self.now = 0.0
        self.counts = DomainCounts()
        self.top = TopDomains(self.counts, places, lambda: self.now)

    def scored(self, **requests: int) -> None:
        """So many requests for each domain."""
        tally = DomainTally()
        for domain, number in requests.items():
            for _ in range(number):
                tally.scored(domain, 10, "live", None, known=True)
        self.counts.add(tally.take())

    def shown(self) -> dict[str, int]:
        """Requests by series; no domain has two."""
        series = [(domain, int(counts[REQUESTS])) for domain, counts in self.top.shown()]
        assert len(dict(series)) == len(series)
        return dict(series)


@dataclass
class Scraper:
    """Counts increases as Prometheus does: between two scrapes, for series that are in both."""

    last: dict[str, int] = field(default_factory=dict)
    increase: int = 0

    def scrape(self, shown: dict[str, int], *, from_nothing: bool) -> None:
        """Take what is shown; a series that is new counts from 0 where it is one of the first."""
        for domain, value in shown.items():
            before = self.last.get(domain, 0 if from_nothing else value)
            assert value >= before, domain
            self.increase += value - before
        self.last = shown


def test_while_there_is_room_every_domain_has_its_own_series() -> None:
    """Law: domains get series as they come; those beyond the places count as `other`."""
    traffic = Traffic(places=3)
    assert traffic.shown() == {OTHER: 0}
    traffic.scored(women=5, men=3)
    assert traffic.shown() == {"women": 5, "men": 3, OTHER: 0}
    traffic.scored(kids=2, toys=1, women=1)
    assert traffic.shown() == {"women": 6, "men": 3, "kids": 2, OTHER: 1}


def test_the_busiest_of_those_that_come_together_get_the_places() -> None:
    """Law: of domains first seen between two looks the busiest are shown."""
    traffic = Traffic(places=2)
    traffic.scored(women=1, men=7, kids=4, toys=2)
    assert traffic.shown() == {"men": 7, "kids": 4, OTHER: 3}


def test_a_busier_domain_takes_the_place_of_a_quiet_one_in_three_looks() -> None:
    """Law: it is announced at the value that it had, then counts; the other stands still, then goes.

    What came before the domain counted was shown as `other` and stays there.
    """
    traffic = Traffic(places=2)
    traffic.scored(women=50, men=3)
    traffic.shown()
    traffic.scored(kids=20)
    assert traffic.shown() == {"women": 50, "men": 3, OTHER: 20}
    traffic.now += EVERY_S
    assert traffic.shown() == {"women": 50, "men": 3, "kids": 0, OTHER: 20}
    traffic.scored(kids=5, men=1)
    assert traffic.shown() == {"women": 50, "men": 3, "kids": 0, OTHER: 26}
    traffic.now += EVERY_S
    assert traffic.shown() == {"women": 50, "kids": 0, OTHER: 26}
    traffic.scored(kids=5, men=400)
    assert traffic.shown() == {"women": 50, "kids": 5, OTHER: 426}
    traffic.now += EVERY_S
    assert traffic.shown() == {"women": 50, "kids": 5, "men": 3, OTHER: 426}
    traffic.now += EVERY_S
    traffic.shown()
    traffic.scored(men=2)
    assert traffic.shown()["men"] == 5


def test_one_as_busy_as_another_does_not_push_it_out() -> None:
    """Law: a newcomer has to be busier by a quarter, so two equal ones do not change places for ever."""
    traffic = Traffic(places=1)
    traffic.scored(women=100)
    traffic.shown()
    for _ in range(5):
        traffic.scored(men=110, women=100)
        traffic.now += EVERY_S
        assert set(traffic.shown()) == {"women", OTHER}


def test_a_domain_that_is_called_other_has_no_series_of_its_own() -> None:
    """Law: no two series have one name."""
    traffic = Traffic(places=2)
    traffic.scored(other=50, women=1)
    assert traffic.shown() == {"women": 1, OTHER: 50}


def test_without_places_all_is_other() -> None:
    """Law: K = 0 shows one series."""
    traffic = Traffic(places=0)
    traffic.scored(women=4, men=2)
    traffic.now += 2 * EVERY_S
    assert traffic.shown() == {OTHER: 6}


STEPS = st.lists(
    st.tuples(st.integers(0, 11), st.integers(1, 300), st.integers(1, 30), st.sampled_from(["a", "b", "ab"])),
    max_size=60,
)


@given(st.integers(0, 4), STEPS)
@settings(max_examples=150)
def test_no_series_falls_and_no_increase_is_lost_for_any_scraper(
    places: int, steps: list[tuple[int, int, int, str]]
) -> None:
    """Law: the increases that each of two scrapers sees over all series are what was scored between its scrapes.

    They come at different times, at least as often as domains change; series are at most a fifth more than the places.
    """
    traffic, scrapers = Traffic(places), {"a": Scraper(), "b": Scraper()}
    scraped_at = dict.fromkeys(scrapers, 0.0)
    first = dict.fromkeys(scrapers, 0)
    # the first domains are all there before anyone looks: a series that appears with its first request is another law
    traffic.scored(**{f"d{number}": 12 - number for number in range(12)})
    shown = traffic.shown()
    for name, scraper in scrapers.items():
        scraper.scrape(shown, from_nothing=True)
        first[name] = scraper.increase
    assert first == dict.fromkeys(scrapers, int(traffic.counts.total[REQUESTS]))
    for domain, requests, seconds, who in steps:
        traffic.scored(**{f"d{domain}": requests})
        traffic.now += seconds
        late = [name for name in scrapers if traffic.now - scraped_at[name] >= EVERY_S / 2]
        for name in {*who, *late}:
            shown = traffic.shown()
            assert len(shown) <= 1 + places + max(1, places // 5)
            scrapers[name].scrape(shown, from_nothing=False)
            scraped_at[name] = traffic.now
    for scraper in scrapers.values():
        scraper.scrape(traffic.shown(), from_nothing=False)
        assert scraper.increase == traffic.counts.total[REQUESTS]


def test_a_look_at_the_largest_fleet_is_quick_to_compute() -> None:
    """Law: with 69,102 domains the series are still few, and the busiest are among them."""
    traffic = Traffic(places=50)
    rng = np.random.default_rng(0)
    traffic.counts.add(
        {f"d{n}": [int(v)] * len(traffic.counts.total) for n, v in enumerate(rng.zipf(1.3, 69_102) % 9999)}
    )
    shown = traffic.shown()
    assert len(shown) == 51
    busiest = np.argsort(-traffic.counts.table[:, REQUESTS], kind="stable")[:10]
    assert {f"d{row}" for row in busiest} <= shown.keys()


def test_what_came_before_a_domain_was_known_stays_in_other() -> None:
    """Law: a domain gets its series when it is known, `other` does not fall, and its own counts hold everything."""
    traffic, tally = Traffic(places=3), DomainTally()
    for _ in range(4):
        tally.scored("late", 10, None, "loading", known=False)
    traffic.counts.add(tally.take())
    assert traffic.shown() == {OTHER: 4}
    traffic.scored(late=2)
    assert traffic.shown() == {"late": 2, OTHER: 4}
    assert traffic.counts.of("late")[REQUESTS] == 6
