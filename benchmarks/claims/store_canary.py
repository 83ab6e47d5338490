"""A canary scores a fixed share of the users, the same everywhere; a shadow changes no byte of an answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence

import httpx

from benchmarks.claims.line import Line, between, exactly
from benchmarks.claims.served import last_epoch_run, publish_run
from benchmarks.claims.swaps import Dyes, make_dyes
from benchmarks.claims.wire import Wire, score_body
from benchmarks.claims.workplace import ClaimError, Server, Workplace, serving

USERS = 100_000
CONNECTIONS = 8
SHADOWED = 300
# What is of the request or of the record and not of the revision: the request's own id, and the record's generation,
# for setting an alias is a change of the record.
ASIDE = re.compile(rb'"(request_id|generation)": ?("[^"]*"|[0-9]+)')


async def served_by(server: Server, dyes: Dyes, users: Sequence[str]) -> set[str]:
    """Those of the users whom the canary scores."""
    waiting, found = iter(users), set()

    async def work() -> None:
        async with Wire(server.url, server.headers) as wire:
            for user in waiting:
                answer = await wire.score(user, dyes.domain, dyes.requests[0][1][:1])
                if answer["served"]["alias"] == "canary":
                    found.add(user)

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return found


def put_alias(server: Server, domain: str, alias: str, **content: object) -> None:
    """PUT one alias."""
    url = f"{server.url}/adapters/{domain}/aliases/{alias}"
    answer = httpx.put(url, json=content, headers=server.headers, timeout=30)
    if not answer.is_success:
        raise ClaimError(f"{url}: {answer.text}")


async def until_prepared(server: Server, dyes: Dyes, users: Sequence[str]) -> None:
    """Until the canary, prepared off the scoring path, scores its users."""
    for _ in range(500):
        if await served_by(server, dyes, users):
            return
        await asyncio.sleep(0.02)


async def answers(server: Server, dyes: Dyes, count: int) -> list[bytes]:
    """The bytes of some answers, without what is aside."""
    found = []
    async with Wire(server.url, server.headers) as wire:
        for turn in range(count):
            user, items = dyes.requests[turn % len(dyes.requests)]
            _, body = await wire.post("/score", score_body(user, dyes.domain, items))
            found.append(ASIDE.sub(b"", body))
    return found


def store(server: Server, dyes: Dyes, revision: str, activate: bool) -> None:
    """POST one dye, made live or only stored."""
    url = f"{server.url}/adapters/{dyes.domain}?revision={revision}" + ("" if activate else "&activate=false")
    httpx.post(url, content=dyes.bodies[revision], headers=server.headers, timeout=30).raise_for_status()


def lines(work: Workplace) -> Iterator[Line]:
    """Canary and shadow on two replicas of one store."""
    run = last_epoch_run(work)
    dyes = make_dyes(run, 3)
    live, canary, shadow = dyes.bodies
    users = [f"user-{number}" for number in range(4000 if work.quick else USERS)]
    url = publish_run(work, run)
    with serving(work, url) as first:
        for revision in (live, canary, shadow):
            store(first, dyes, revision, revision == live)
        put_alias(first, dyes.domain, "canary", revision=canary, percent=5.0)
        asyncio.run(until_prepared(first, dyes, users[:300]))
        chosen = asyncio.run(served_by(first, dyes, users))
        share = 100 * len(chosen) / len(users)
        yield between(f"canary of 5%: share of {len(users)} users", share, 4.7, 5.3, "%")
        few = sorted(chosen) + [user for user in users[: 2 * len(chosen)] if user not in chosen]
        with serving(work, url) as second:
            asyncio.run(until_prepared(second, dyes, users[:300]))
            same = asyncio.run(served_by(second, dyes, few))
        yield exactly(f"users of {len(few)} in the canary on one of two replicas alone", len(same ^ chosen), 0)
    with serving(work, url) as again:
        asyncio.run(until_prepared(again, dyes, users[:300]))
        same = asyncio.run(served_by(again, dyes, few))
        yield exactly(f"users of {len(few)} in or out of the canary after a restart only", len(same ^ chosen), 0)
        put_alias(again, dyes.domain, "canary", revision=canary, percent=10.0)
        wider = asyncio.run(served_by(again, dyes, few))
        yield exactly("users of the 5% that are outside at 10%", len(chosen - wider), 0)
        yield exactly("the 10% has users that the 5% had not", len(wider) > len(chosen), True)
        httpx.delete(
            f"{again.url}/adapters/{dyes.domain}/aliases/canary", headers=again.headers, timeout=30
        ).raise_for_status()
        before = asyncio.run(answers(again, dyes, SHADOWED))
        put_alias(again, dyes.domain, "shadow", revision=shadow, percent=100.0)
        after = asyncio.run(answers(again, dyes, SHADOWED))
        changed = sum(a != b for a, b in zip(before, after, strict=True))
        yield exactly(
            f"of {SHADOWED} answers (their ids and the record's generation aside), changed by a shadow", changed, 0
        )
        yield exactly("rows that the shadow scored meanwhile, by its metric: any", shadow_rows(again) > 0, True)


def shadow_rows(server: Server) -> float:
    """How often the shadow's differences were taken, from the metrics."""
    text = httpx.get(f"{server.url}/metrics", headers=server.headers, timeout=30).text
    counts = re.findall(r"(?m)^espalier_shadow\w*_count(?:\{[^}]*\})? (\S+)$", text)
    return max(map(float, counts), default=0.0)
