"""The audit of a service: who changed what, from what to what, by which door; and who wrote what a replica follows."""

from __future__ import annotations

from typing import Any

import pytest

from adapters_store.records import Canary, DomainRecord, Live, Previous, Stop
from adapters_store.releases import Release
from benchmarks.forge import Run, digest
from service.moves import moves
from tests.service.live import Live as Service
from tests.service.live import adapter, espalier

PATIENT: dict[str, Any] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000}
FIRST, SECOND = "a" * 64, "b" * 64
BODY = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]}


def own(run: Run) -> str:
    """The revision of theme-1 that is live from the start."""
    return digest((run.folder / "adapters" / "theme-1.safetensors").read_bytes())


def followed(live: Service) -> list[dict[str, Any]]:
    """The audit lines of what the replica did by the word of others."""
    return [line for line in live.lines if line["event"] == "audit" and "request_id" not in line]


def picked(lines: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    """Some fields of each line."""
    return [tuple(line.get(key) for key in keys) for line in lines]


async def test_every_change_over_http_names_what_stood_and_what_stands(random_run: Run) -> None:
    """Law: from and to of each alias, the digest and the generation; a refusal names the error and what was asked."""
    first, other = own(random_run), adapter(random_run, "theme-1", "avg")
    second = digest(other)
    async with espalier(random_run, **PATIENT) as live:
        aliases = "/adapters/theme-1/aliases"
        await live.publish("theme-1", other, params={"activate": "false"})
        await live.client.put(f"{aliases}/canary", json={"revision": second, "percent": 5})
        await live.client.put(f"{aliases}/shadow", json={"revision": second, "percent": 50})
        await live.client.delete(f"{aliases}/canary")
        await live.publish("theme-1", other)
        await live.publish("theme-1", other)
        await live.client.post("/adapters/theme-1/rollback", json={"from": second})
        await live.client.put(f"{aliases}/live", json={"revision": second})
        await live.client.delete("/adapters/theme-1")
        await live.publish("theme-1", b"no artifact")
        lines = live.audit
    assert picked(lines, "action", "outcome", "revision", "from", "to", "generation") == [
        ("publish", "stored", second, None, None, 1),
        ("set_canary", "created", second, None, second, 2),
        ("set_shadow", "created", second, None, second, 3),
        ("clear_canary", "cleared", None, second, None, 4),
        ("publish", "created", second, first, second, 5),
        ("publish", "unchanged", second, second, second, 5),
        ("rollback", "rolled_back", second, second, first, 6),
        ("set_live", "created", second, first, second, 7),
        ("delete", "deleted", None, second, None, 8),
        ("publish", "LimitExceeded", digest(b"no artifact"), None, None, None),
    ]
    assert {(line["by"], line["domain"]) for line in lines} == {("admin", "theme-1")}


async def test_who_may_not_change_a_domain_is_told_with_what_it_wanted(random_run: Run) -> None:
    """Law: a change that a token's scopes forbid leaves a line with its name and the domain; a read leaves none."""
    async with espalier(random_run, tokens={"one": ["publish:theme-1"]}) as live:
        live.client.headers["Authorization"] = "Bearer one"
        answers = [
            await live.client.delete("/adapters/theme-2"),
            await live.client.post(f"/fusions?revision={FIRST}", content=b"x"),
            await live.client.get("/adapters/theme-2"),
        ]
        lines = live.audit
    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert picked(lines, "action", "outcome", "by", "domain", "request_id") == [
        ("denied", "Forbidden", "one", "theme-2", answers[0].json()["request_id"]),
        ("denied", "Forbidden", "one", None, answers[1].json()["request_id"]),
    ]


async def test_what_others_made_live_is_told_with_its_author_when_it_serves_here(random_run: Run) -> None:
    """Law: an activation by the feed names who wrote the record, what served before and what serves."""
    first, other = own(random_run), adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, **PATIENT, feed=False) as live:
        await live.client.post("/score", json=BODY)
        second = await live.store.put(other)
        await live.store.set_live("theme-1", "theme", second, "grace")
        await live.replica.watcher.reconcile()
        lines = [line for line in followed(live) if line["domain"] == "theme-1"]
    assert picked(lines, "action", "outcome", "by", "from", "to", "generation") == [
        ("activate", "followed", "test", None, first, 1),
        ("activate", "followed", "grace", first, second, 2),
    ]


async def test_what_this_replica_refuses_is_told_with_its_author(random_run: Run) -> None:
    """Law: a revision of another writer that fails here is a line with the reason; what served goes on."""
    async with espalier(random_run, **PATIENT, feed=False) as live:
        await live.client.post("/score", json=BODY)
        bad = await live.store.put(adapter(random_run, "theme-2", "avg"))
        await live.store.set_live("theme-1", "theme", bad, "mallory")
        await live.replica.watcher.reconcile()
        (line,) = [line for line in followed(live) if line["action"] == "reject"]
    told = {"outcome": "refused", "by": "mallory", "domain": "theme-1", "revision": bad, "level": "warning"}
    assert told.items() <= line.items()
    assert "theme-2" in line["reason"]


async def test_trials_stops_and_tombstones_of_others_are_told(random_run: Run) -> None:
    """Law: canary, shadow, freeze and delete by another writer are lines of the replicas that serve the domain."""
    first = own(random_run)
    async with espalier(random_run, **PATIENT, feed=False) as live:
        await live.client.post("/score", json=BODY)
        other = await live.store.put(adapter(random_run, "theme-1", "avg"))
        for change in (
            live.store.set_canary("theme-1", other, 5.0, "grace"),
            live.store.clear_canary("theme-1", "grace"),
            live.store.freeze("theme-1", "grace", "incident 7"),
            live.store.thaw("theme-1", "grace"),
            live.store.delete("theme-1", "grace"),
        ):
            await change
            await live.replica.watcher.reconcile()
        lines = [line for line in followed(live) if line["by"] == "grace"]
    assert picked(lines, "action", "from", "to", "generation") == [
        ("set_canary", None, other, 2),
        ("clear_canary", other, None, 3),
        ("freeze", False, True, 4),
        ("thaw", True, False, 5),
        ("delete", first, None, 6),
    ]


async def test_releases_and_switches_of_the_fleet_are_told(random_run: Run) -> None:
    """Law: staging, flipping and rolling back a release, and the switches, are one line each, by their author."""
    async with espalier(random_run, **PATIENT, feed=False) as live:
        other = await live.store.put(adapter(random_run, "theme-1", "avg"))
        release = await live.store.put_release(Release(divisions={"theme": {"theme-1": other}}))
        for change in (
            live.store.stage(release, "grace"),
            live.store.flip(release, "grace", 0.0),
            live.store.roll_back_release(release, "ada"),
            live.store.switch_backbone_only(True, "ada"),
            live.store.freeze(None, "ada", "incident 7"),
        ):
            await change
            await live.replica.watcher.reconcile()
        lines = [line for line in followed(live) if line["by"] in ("grace", "ada") and "domain" not in line]
    assert picked(lines, "action", "by", "from", "to") == [
        ("stage_release", "grace", None, release),
        ("flip_release", "grace", None, release),
        ("rollback_release", "ada", release, None),
        ("backbone_only", "ada", False, True),
        ("freeze", "ada", False, True),
    ]


async def test_a_default_backbone_that_serves_here_is_told(random_run: Run, three_way_run: Run) -> None:
    """Law: another default is one line of the replica that scores with it, by whoever made it the default."""
    async with espalier(random_run, **PATIENT, feed=False) as live:
        first = live.replica.backbone_revision
        second = await live.store.publish_backbone(three_way_run.folder / "bundle", "grace")
        await live.replica.watcher.reconcile()
        await live.replica.watcher.settled()
        lines = [line for line in followed(live) if line["action"] == "set_backbone"]
    assert picked(lines, "outcome", "by", "from", "to", "revision") == [("followed", "grace", first, second, second)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"live": Live(revision=SECOND)}, [("set_live", FIRST, SECOND)]),
        (
            {"live": Live(revision=SECOND), "previous": [Previous(revision=FIRST, rolled_back=True)]},
            [("rollback", FIRST, SECOND)],
        ),
        ({"live": None, "canary": None, "deleted": True}, [("delete", FIRST, None)]),
        ({"canary": Canary(revision=SECOND, percent=10, salt="s")}, [("set_canary", SECOND, SECOND)]),
        ({"canary": None, "frozen": Stop(reason="x")}, [("clear_canary", SECOND, None), ("freeze", False, True)]),
    ],
)
def test_moves_between_two_records(changes: dict[str, Any], told: list[tuple[Any, ...]]) -> None:
    """Law: each difference that changes what is served or refused is one move; an unchanged record has none."""
    before = DomainRecord(
        domain="theme-1",
        division="theme",
        generation=3,
        live=Live(revision=FIRST),
        canary=Canary(revision=SECOND, percent=5, salt="s"),
    )
    found = moves(before, before.model_copy(update=changes))
    assert [(move.action, move.facts["from"], move.facts["to"]) for move in found] == told
