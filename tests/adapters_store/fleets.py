"""A small store with everything in it, for tests of what looks at whole stores."""

from __future__ import annotations

from dataclasses import dataclass

from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from adapters_store.tensors import write_tensors
from tests.adapters_store.world import World


def artifact(domain: str, number: int, pins: dict[str, str] | None = None, fusion: str | None = None) -> bytes:
    """As much of an adapter as whoever follows references looks at."""
    manifest = {"kind": "fused" if pins else "lora", "domain": domain, "fuses": pins or {}, "fusion": fusion}
    return write_tensors({}, {**manifest, "number": number})


@dataclass
class Filled:
    """What `fill` put where.

    Args:
        pin: Revision of the auxiliary adapter.
        fusion: Of the fusion.
        live: Of the fused adapter of domain t.
        release: Of the live release.
        released: That the release gives to domain u.
        bundle: Of the default bundle.
        layers: Feature layers of side users: full, delta.
    """

    pin: str
    fusion: str
    live: str
    release: str
    released: str
    bundle: str
    layers: tuple[str, str]


async def fill(store: AdapterStore, world: World) -> Filled:
    """Put a bit of everything into a store."""
    bundle = await store.publish_backbone(world.folder / "bundle", "me")
    pin, fusion = await store.put(artifact("g", 0)), await store.put(write_tensors({}, {"kind": "fusion"}))
    await store.set_live("g", "gender", pin, "me")
    await store.set_live("t", "theme", await store.put(artifact("t", 1)), "me")
    live = await store.put(artifact("t", 2, {"g": pin}, fusion))
    await store.set_live("t", "theme", live, "me", pins={"g": pin}, fusion=fusion)
    await store.set_canary("t", await store.put(artifact("t", 3)), 5.0, "me")
    released = await store.put(artifact("u", 0))
    release = await store.put_release(Release(divisions={"theme": {"u": released}}))
    await store.flip(release, "me", min_staged=0)
    full = await store.put(write_tensors({}, {"kind": "features", "parent": None}))
    delta = await store.put(write_tensors({}, {"kind": "features", "parent": full}))
    await store.set_features("0" * 64, "users", full, None, "me")
    await store.set_features("0" * 64, "users", delta, full, "me")
    await store.write_prewarm(["t", "u"])
    await store.put(b"loose")
    return Filled(pin, fusion, live, release, released, bundle, (full, delta))
