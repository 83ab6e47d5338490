"""What is asked."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loadtest.catalogue import Catalogue, Dye, read_catalogue
from loadtest.errors import LoadTestError
from loadtest.traffic import PROBES, Traffic, Zipf

CATALOGUE = Catalogue(
    domains=("women", "men", "kids"),
    cold=("far", "farther"),
    users=("1", "anna"),
    items=tuple(f"item-{number}" for number in range(50)),
    dyes={"men": (Dye("men", "a" * 64, None, 1.0, 0.0),)},
)


def traffic(items: int = 10) -> Traffic:
    """Of the catalogue above."""
    return Traffic(CATALOGUE, exponent=1.0, items=items, rng=random.Random(3))


def test_popularity_follows_zipfs_law() -> None:
    """Law: rank r is drawn with probability proportional to 1 / (r + 1)."""
    zipf = Zipf(4, 1.0, random.Random(5))
    counts = Counter(zipf.draw() for _ in range(50_000))
    whole = 1 + 1 / 2 + 1 / 3 + 1 / 4
    for rank in range(4):
        assert counts[rank] / 50_000 == pytest.approx(1 / (rank + 1) / whole, abs=0.01)


def test_requests_are_of_the_catalogue() -> None:
    """Law: a request names one domain, one user and distinct items of the catalogue, as JSON."""
    asked = traffic()
    for _ in range(200):
        question = asked.popular()
        body = json.loads(question.body)
        assert body["domain_id"] == question.domain in CATALOGUE.domains
        assert body["user_id"] in CATALOGUE.users
        assert len(set(body["item_ids"])) == len(body["item_ids"]) == question.items == 10
        assert set(body["item_ids"]) <= set(CATALOGUE.items)
    assert traffic(items=1000).popular().items == 50


def test_a_dyed_domain_is_asked_fixed_requests_only() -> None:
    """Law: one probe number of a dyed domain is always the same request; other domains have none."""
    asked = traffic()
    bodies: dict[int, set[bytes]] = {}
    for _ in range(500):
        question = asked.popular()
        assert (question.probe is not None) == (question.domain == "men")
        if question.probe is not None:
            bodies.setdefault(question.probe, set()).add(question.body)
    assert sorted(bodies) == list(range(PROBES))
    assert all(len(same) == 1 for same in bodies.values())


def test_cold_domains_take_turns() -> None:
    """Law: a cold domain is asked again only after all others were."""
    asked = traffic()
    first, second, third = (asked.cold().domain for _ in range(3))
    assert {first, second} == {"far", "farther"}
    assert third == first


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no catalogue"),
        ({"schema": 2}, "schema 2"),
        ({"schema": 1, "domains": []}, "is no catalogue"),
        ({"schema": 1, "domains": [], "cold": [], "users": [], "items": [], "dyes": {}}, "nothing to score"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_catalogue_is_refused_by_name(tmp_path: Path, content: Any, said: str) -> None:
    """Law: a missing, foreign or empty catalogue is refused, naming the file."""
    path = tmp_path / "catalogue.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(LoadTestError, match=said) as refusal:
        read_catalogue(path)
    assert "catalogue.json" in str(refusal.value)
