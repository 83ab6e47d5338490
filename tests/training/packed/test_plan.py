"""Which domains are trained together: bounds, shares, and the same plan everywhere."""

from __future__ import annotations

import random

from network.inputs import FieldShape, NetworkShape
from training.adapters import Place
from training.batches import batch_count
from training.config import Schedule
from training.packed.config import PackedConfig
from training.packed.plan import Footprint, Plan, Size, plan
from training.packed.stack import lora_layout

SHAPE = NetworkShape((FieldShape("user", "sparse", 9),), tower=(64, 32))
SCHEDULE = Schedule(batch_rows=64)
FOOTPRINT = Footprint(SHAPE, lora_layout(SHAPE, (8, 8)), SCHEDULE)
_MIB = 2**20


def sizes(count: int, largest: int = 5_000) -> list[Size]:
    draw = random.Random(0)
    return [
        Size(Place(0, i, "theme", f"theme-{i}"), int(largest ** draw.random()), draw.randrange(200))
        for i in range(count)
    ]


def members(found: Plan) -> list[Place]:
    return [place for pack in found.packs for place in pack.places]


def test_every_domain_is_trained_once() -> None:
    """Law: packs and the domains by themselves are all domains, each once; no pack exceeds either bound."""
    wanted = sizes(300)
    for config in (PackedConfig(memory_mib=8, domains=40), PackedConfig(memory_mib=2)):
        found = plan(wanted, FOOTPRINT, config)
        placed = members(found) + list(found.alone)
        assert sorted(p.domain for p in placed) == list(range(300))
        assert max(pack.memory_bytes for pack in found.packs) <= config.memory_mib * _MIB
        assert max(len(pack.places) for pack in found.packs) <= config.domains
    assert found.alone


def test_stated_memory_is_that_of_the_packs_domains() -> None:
    """Law: a pack's statement counts its domains, all their rows, and its largest batch."""
    wanted = {size.place: size for size in sizes(100)}
    for pack in plan(wanted.values(), FOOTPRINT, PackedConfig(memory_mib=8)).packs:
        own = [wanted[place] for place in pack.places]
        largest = max(
            -(-size.train // batch_count(size.train, SCHEDULE.batch_rows, SCHEDULE.min_batches)) for size in own
        )
        rows = sum(size.train + size.stop for size in own)
        assert pack.memory_bytes == FOOTPRINT.of(len(own), rows, max(1, largest))


def test_tables_of_their_own_count() -> None:
    """Law: where domains have embedding tables, a pack is charged its largest one for each domain."""
    place = Place(0, 0, "theme", "theme-0")
    bare, tabled = (plan([Size(place, 50, 9, n)], FOOTPRINT, PackedConfig()).packs[0] for n in (0, 700))
    assert tabled.memory_bytes - bare.memory_bytes >= 700 * SHAPE.width * 4 * 7


def test_domains_of_a_pack_are_of_like_size() -> None:
    """Law: along the packs neither the batches of an epoch nor, among equal ones, the rows grow."""
    wanted = {size.place: size.train for size in sizes(200)}
    rows = [wanted[place] for place in members(plan(sizes(200), FOOTPRINT, PackedConfig()))]
    keys = [(batch_count(n, SCHEDULE.batch_rows, SCHEDULE.min_batches), n) for n in rows]
    assert keys == sorted(keys, reverse=True)


def test_shares_are_the_plan() -> None:
    """Law: shares are disjoint and together the whole plan; the plan is the same wherever it is made."""
    whole = plan(sizes(300), FOOTPRINT, PackedConfig(memory_mib=2, domains=20))
    assert whole == plan(sizes(300), FOOTPRINT, PackedConfig(memory_mib=2, domains=20))
    shares = [whole.share(part, 4) for part in range(1, 5)]
    assert sorted(p.number for share in shares for p in share.packs) == [p.number for p in whole.packs]
    assert sorted(p.domain for share in shares for p in share.alone) == sorted(p.domain for p in whole.alone)
    assert max(len(share.packs) for share in shares) - min(len(share.packs) for share in shares) <= 1


def test_plan_is_stated() -> None:
    """Law: the line names how many domains, packs, bytes, and what no pack holds."""
    found = plan(sizes(300), FOOTPRINT, PackedConfig(memory_mib=2))
    largest = max(pack.memory_bytes for pack in found.packs) / _MIB
    line = found.line()
    assert line.startswith(f"{len(members(found))} domains in {len(found.packs)} packs of at most {largest:,.0f} MiB")
    assert line.endswith(f"{len(found.alone)} too large for one, each by itself")
    assert plan([], FOOTPRINT, PackedConfig()).line() == "0 domains in 0 packs of at most 0 MiB"
