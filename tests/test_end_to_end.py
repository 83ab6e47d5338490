"""A real server process over a real file store, held to the oracle: the claims of the main job in miniature."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.claims import malformed, served, swaps
from benchmarks.claims.workplace import Server, Workplace, serving
from benchmarks.forge import Run


@pytest.fixture(scope="module", params=["random_run", "three_way_run"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Server]]:
    """A server over a fresh store with one random run in it."""
    run: Run = request.getfixturevalue(request.param)
    work = Workplace(tmp_path_factory.mktemp("live"))
    # what is asked here is what is answered, not how soon: a busy machine must not turn answers into refusals
    with serving(work, served.publish_run(work, run), deadline_ms="30000") as server:
        yield run, server


@pytest.mark.parametrize("mode", served.MODES)
def test_served_scores_equal_the_oracle(live: tuple[Run, Server], mode: str) -> None:
    """Law: in every mode a served score is the oracle's within 2e-6, alone and inside mixed batches."""
    run, server = live
    paths = run.natural(mode)
    served.publish_mode(server, paths)
    wanted = served.draws(run, run.oracle, paths, 48, seed=5)
    alone, mixed = asyncio.run(served.both_ways(server, wanted))
    assert max(error for error, _ in alone + mixed) <= 2e-6
    assert all(named for _, named in alone + mixed)
    assert np.mean([np.abs(d.expected - d.backbone).max() > 1e-4 for d in wanted]) >= 0.95


def test_context_reaches_the_network(live: tuple[Run, Server]) -> None:
    """Law: context fields of a request are encoded as the oracle encodes them, known values and unknown ones."""
    run, server = live
    oracle = run.oracle
    domain = run.domains[1]
    for context in ({"hour": 7, "age_days": 50.0}, {"hour": "7"}, {"hour": 99, "age_days": -3}):
        body = {"user_id": 5, "domain_id": domain, "item_ids": ["item-3", "item-9"], "context": context}
        state = httpx.get(f"{server.url}/adapters/{domain}", headers=server.headers).raise_for_status().json()
        answer = httpx.post(f"{server.url}/score", json=body, headers=server.headers).raise_for_status().json()
        assert answer["served"]["revision"] in str(state)
        adapter = next(
            f
            for mode in served.MODES
            for f in [served.AdapterFile(run.natural(mode)[domain])]
            if served.digest(run.natural(mode)[domain].read_bytes()) == answer["served"]["revision"]
        )
        pins = served.pins_of(adapter, run.auxiliaries())
        expected = oracle.score("5", domain, ["item-3", "item-9"], adapter, pins, run.fusion(), context)
        np.testing.assert_allclose(answer["scores"], expected, atol=2e-6)


def test_no_items_are_no_scores(live: tuple[Run, Server]) -> None:
    """Law: an empty candidate list is answered by an empty list, whatever the divisions are of."""
    run, server = live
    body = {"user_id": 5, "domain_id": run.domains[0], "item_ids": []}
    answer = httpx.post(f"{server.url}/score", json=body, headers=server.headers).raise_for_status()
    assert answer.json()["scores"] == []


def test_swaps_under_load_name_what_scored(live: tuple[Run, Server]) -> None:
    """Law: while revisions of a domain are swapped, each answer equals the oracle for exactly the revision it names."""
    run, server = live
    dyes = swaps.make_dyes(run, count=40)
    assert dyes.closest >= swaps.APART
    seen, _ = asyncio.run(swaps.storm(server, dyes, window_s=2.0))
    assert seen.publishes == [201] * 40
    assert set(seen.statuses) == {200}
    assert (seen.strangers, seen.ambiguous, seen.stale) == (0, 0, 0)
    assert max(seen.errors) <= swaps.TOLERANCE


def test_malformed_artifacts_are_refused_by_name(live: tuple[Run, Server]) -> None:
    """Law: each kind of malformed artifact is refused with a 4xx that names the fault, and the live revision serves."""
    run, server = live
    domain = run.domains[0]
    source = run.natural("attention")[domain].read_bytes()
    served.publish_mode(server, {domain: run.natural("attention")[domain]})
    kinds = list(malformed.faults(source, np.random.default_rng(0)))
    results, (bad, named) = asyncio.run(malformed.attack(server, run, domain, kinds, source))
    assert [(kind, status) for kind, status, _ in results if not 400 <= status < 500] == []
    assert [kind for kind, _, names_it in results if not names_it] == []
    assert bad == 0
    assert named == {served.digest(source)}


def test_a_stopped_server_leaves_nothing(tmp_path: Path, random_run: Run) -> None:
    """Law: what was published is there after a restart, under the same revision."""
    work = Workplace(tmp_path)
    store = served.publish_run(work, random_run)
    body = {"user_id": 5, "domain_id": "theme-1", "item_ids": ["item-3"]}
    answers = []
    for _ in range(2):
        with serving(work, store) as server:
            served.publish_mode(server, random_run.natural("avg"))
            answer = httpx.post(f"{server.url}/score", json=body, headers=server.headers).raise_for_status().json()
            answers.append((answer["scores"], answer["served"]["revision"]))
    assert answers[0] == answers[1]
