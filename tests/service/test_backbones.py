"""Laws of two backbones side by side: one request by one of them, a domain by its adapter's, no more than two."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

from adapters_store.backbone import read_bundle, write_bundle
from adapters_store.manifest import Calibration
from adapters_store.releases import Release
from adapters_store.tensors import write_tensors
from benchmarks.forge import Run, digest
from benchmarks.oracle import Oracle
from features.fields import Division
from service.scorer import ScoreResult
from tests.factory import SEGMENTS, THEMES, make_run
from tests.service.clockwork import turns_until
from tests.service.core import Core, FaultyBackend, assert_scores, filled, opened

DOMAIN, OTHER, THIRD = THEMES[:3]


@pytest.fixture(scope="session")
def green_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Another backbone with adapters for the same domains, users and items."""
    return make_run(tmp_path_factory.mktemp("green") / "run", seed=21)


@dataclass
class Shades:
    """One replica that began with the blue backbone, as each run's oracle sees it."""

    blue: Core
    green: Core
    red: Core

    async def make_default(self, core: Core) -> str:
        """Another writer makes a run's bundle the default, and this replica looks."""
        revision = await offered(core)
        await core.store.set_default_backbone(revision, "someone")
        await core.replica.watcher.reconcile()
        await core.replica.watcher.settled()
        return revision

    async def put_live(self, core: Core, domain: str) -> str:
        """Another writer makes a run's adapter live, and this replica looks; its revision."""
        record = await core.put_live(domain)
        await core.replica.watcher.reconcile()
        assert record.live is not None
        return record.live.revision


@pytest.fixture
async def shades(random_run: Run, green_run: Run, three_way_run: Run) -> AsyncIterator[Shades]:
    async with opened(random_run, prewarm_s=0) as blue:
        yield Shades(blue, replace(blue, run=green_run), replace(blue, run=three_way_run))


async def offered(core: Core) -> str:
    """The store has a run's blobs; nothing names them."""
    for path in [core.run.folder / "fusion.safetensors", *sorted((core.run.folder / "adapters").glob("*"))]:
        await core.store.put(path.read_bytes())
    return await core.store.put_bundle(core.run.folder / "bundle")


def bundle_of(core: Core) -> str:
    """The revision of a run's bundle."""
    return digest((core.run.folder / "bundle" / "manifest.json").read_bytes())


def assert_scored_by(core: Core, result: ScoreResult, body: bytes | None) -> None:
    """Adapter, backbone, vocabulary and tables are all of one run."""
    assert result.served.backbone == bundle_of(core)
    assert result.served.revision == (None if body is None else digest(body))
    backbone = read_bundle(core.run.folder / "bundle")
    files = {entry.name: entry.sha256 for entry in backbone.manifest.files}
    assert result.served.features == {side: files[f"{side}.safetensors"] for side in ("users", "items")}
    assert_scores(result, core.expected(result.domain_id, body))


async def test_a_new_default_scores_what_has_no_adapter_and_nothing_else(shades: Shades) -> None:
    """Law: after a look the new default scores domains without an adapter; the others move when theirs is published."""
    blue, green = shades.blue, shades.green
    await shades.put_live(blue, DOMAIN)
    assert_scored_by(blue, await blue.score(DOMAIN), blue.body(DOMAIN))
    await shades.make_default(green)
    assert_scored_by(green, await blue.score(OTHER), None)
    assert_scored_by(blue, await blue.score(DOMAIN, strict=True), blue.body(DOMAIN))
    await shades.put_live(green, DOMAIN)
    assert_scored_by(green, await blue.score(DOMAIN, strict=True), green.body(DOMAIN))
    assert blue.ledger.resident_backbones[-1] == (bundle_of(green), bundle_of(blue), None, None)


async def test_the_feed_brings_a_new_default(shades: Shades) -> None:
    """Law: the record is followed without a restart, and requests are scored until the flip and after it."""
    blue, green = shades.blue, shades.green
    await blue.replica.start()
    await turns_until(lambda: blue.ledger.resyncs == 1)
    revision = await offered(green)
    await blue.store.set_default_backbone(revision, "someone")
    seen = []
    while not seen or seen[-1].served.backbone != revision:
        seen.append(await blue.score(OTHER))
    for result in seen:
        assert_scored_by(green if result.served.backbone == revision else blue, result, None)
    assert len(blue.engines) == 2


async def test_one_batch_may_hold_both(shades: Shades) -> None:
    """Law: requests of two backbones that meet in one batch are each scored by their own."""
    blue, green = shades.blue, shades.green
    await shades.make_default(green)
    await shades.put_live(blue, DOMAIN)
    await shades.put_live(green, OTHER)
    domains = [DOMAIN, OTHER, THIRD] * 4
    await asyncio.gather(*(blue.score(domain) for domain in domains))  # all are here from now on
    for engine in blue.engines:
        engine.batches.clear()
    for domain, result in zip(domains, await asyncio.gather(*(blue.score(one) for one in domains)), strict=True):
        core, body = {DOMAIN: (blue, blue.body(DOMAIN)), OTHER: (green, green.body(OTHER))}.get(domain, (green, None))
        assert_scored_by(core, result, body)
    assert [len(engine.batches) for engine in blue.engines] == [1, 1]


async def test_a_cold_domain_brings_the_backbone_of_its_adapter(shades: Shades) -> None:
    """Law: an adapter of an earlier default that is not in memory brings it back, and the rows are encoded by it."""
    blue, green = shades.blue, shades.green
    await blue.store.set_default_backbone(await offered(green), "someone")
    await blue.store.set_default_backbone(bundle_of(blue), "someone")
    await blue.replica.watcher.reconcile()
    assert len(blue.engines) == 1
    await green.put_live(DOMAIN)
    assert_scored_by(green, await blue.score(DOMAIN, strict=True), green.body(DOMAIN))
    assert_scored_by(blue, await blue.score(OTHER), None)


async def test_a_roll_back_of_the_default_loads_nothing(shades: Shades) -> None:
    """Law: the default before stays in memory, so going back is one flip."""
    blue, green = shades.blue, shades.green
    await shades.make_default(green)
    await shades.make_default(blue)
    assert_scored_by(blue, await blue.score(OTHER), None)
    assert len(blue.engines) == 2
    assert blue.ledger.resident_backbones[-1] == (bundle_of(blue), bundle_of(green), None, None)


async def test_a_third_waits_until_one_is_let_go(shades: Shades) -> None:
    """Law: while two are named a third is refused, and says why; once an alias moved it comes by the next look."""
    blue, green, red = shades.blue, shades.green, shades.red
    await shades.put_live(blue, DOMAIN)
    await blue.score(DOMAIN)
    await shades.make_default(green)
    await shades.make_default(red)
    default, beside, refused, reason = blue.ledger.resident_backbones[-1]
    assert (default, beside, refused) == (bundle_of(green), bundle_of(blue), bundle_of(red))
    assert reason is not None
    assert f"the live revision of domain '{DOMAIN}'" in reason
    await red.put_live(OTHER)
    result = await blue.score(OTHER)
    assert result.served.fallback == "adapter_rejected"
    assert_scored_by(green, result, None)
    state = await blue.replica.publisher.state(OTHER)
    assert state.rejection is not None
    assert "kept out" in state.rejection.reason
    assert_scored_by(blue, await blue.score(DOMAIN, strict=True), blue.body(DOMAIN))
    await shades.put_live(green, DOMAIN)
    await blue.replica.backbones.settle()
    await blue.replica.watcher.settled()
    assert blue.ledger.resident_backbones[-1] == (bundle_of(red), bundle_of(green), None, None)
    assert_scored_by(red, await blue.score(OTHER, strict=True), red.body(OTHER))
    assert_scored_by(green, await blue.score(DOMAIN, strict=True), green.body(DOMAIN))
    assert_scored_by(red, await blue.score(THIRD), None)


async def test_a_stand_in_holds_no_backbone_against_a_third(shades: Shades) -> None:
    """Law: a revision that only serves because live's backbone is kept out gives way: nothing waits for ever."""
    blue, green, red = shades.blue, shades.green, shades.red
    await shades.put_live(blue, DOMAIN)
    await blue.score(DOMAIN)
    await shades.make_default(green)
    await shades.make_default(red)
    await shades.put_live(red, DOMAIN)
    result = await blue.score(DOMAIN)
    assert result.served.fallback == "adapter_rejected"
    assert_scored_by(blue, result, blue.body(DOMAIN))
    await blue.replica.backbones.settle()
    await blue.replica.watcher.settled()
    assert_scored_by(red, await blue.score(DOMAIN, strict=True), red.body(DOMAIN))


async def test_what_nothing_names_is_let_go(shades: Shades) -> None:
    """Law: a backbone that came for a domain goes at the second look after the domain left, and its memory with it."""
    blue, green, red = shades.blue, shades.green, shades.red
    for core in (green, red, blue):
        await blue.store.set_default_backbone(await offered(core), "someone")
    await blue.replica.watcher.reconcile()
    await green.put_live(DOMAIN)
    await blue.score(DOMAIN)
    for _ in range(3):
        await blue.replica.backbones.settle()
    assert blue.ledger.resident_backbones[-1][:2] == (bundle_of(blue), bundle_of(green))
    engine = weakref.ref(blue.engines.pop())
    await shades.put_live(blue, DOMAIN)
    for _ in range(2):
        await blue.replica.backbones.settle()
    assert blue.ledger.resident_backbones[-1] == (bundle_of(blue), None, None, None)
    assert_scored_by(blue, await blue.score(DOMAIN, strict=True), blue.body(DOMAIN))
    gc.collect()
    assert engine() is None


async def test_a_canary_is_scored_by_its_own_backbone(shades: Shades) -> None:
    """Law: users of a canary of the other backbone are scored by that one entirely, the rest by live's."""
    blue, green = shades.blue, shades.green
    await shades.put_live(blue, DOMAIN)
    await blue.score(DOMAIN)
    await shades.make_default(green)
    revision = await blue.store.put(green.body(DOMAIN))
    await blue.store.set_canary(DOMAIN, revision, 100.0, "someone")
    await blue.replica.watcher.reconcile()
    result = await blue.score(DOMAIN)
    assert result.served.alias == "canary"
    assert_scored_by(green, result, green.body(DOMAIN))


async def test_a_shadow_of_the_other_backbone_is_compared(shades: Shades) -> None:
    """Law: the answer is live's; the shadow is encoded by its own tables, and its probabilities are the oracle's."""
    blue, green = shades.blue, shades.green
    await shades.put_live(blue, DOMAIN)
    await blue.score(DOMAIN)
    await shades.make_default(green)
    revision = await blue.store.put(green.body(DOMAIN))
    await blue.store.set_shadow(DOMAIN, revision, 100.0, "someone")
    await blue.replica.watcher.reconcile()
    blue.ledger.compared.clear()
    result = await blue.score(DOMAIN)
    assert_scored_by(blue, result, blue.body(DOMAIN))
    await turns_until(lambda: bool(blue.ledger.compared))
    differences, _ = blue.ledger.compared[-1]
    expected = green.expected(DOMAIN, green.body(DOMAIN)) - blue.expected(DOMAIN, blue.body(DOMAIN))
    assert differences == pytest.approx(expected, abs=1e-5)


async def test_auxiliaries_alone_serve_with_the_default_only(shades: Shades) -> None:
    """Law: auxiliary adapters of the old backbone count as absent under the new default, until they are of it."""
    blue, green = shades.blue, shades.green
    for segment in SEGMENTS:
        await blue.put_live(segment)
    assert (await blue.score(OTHER)).served.fallback == "auxiliary_only"
    await shades.make_default(green)
    result = await blue.score(OTHER)
    assert result.served.fallback == "no_adapter"
    assert_scored_by(green, result, None)
    for segment in SEGMENTS:
        await green.put_live(segment)
    await blue.replica.watcher.reconcile()
    result = await blue.score(OTHER)
    assert (result.served.fallback, result.served.backbone) == ("auxiliary_only", bundle_of(green))
    await shades.make_default(blue)
    for segment in SEGMENTS:
        await blue.put_live(segment)
    await blue.replica.watcher.reconcile()
    assert (await blue.score(OTHER)).served.backbone == bundle_of(blue)


async def test_the_switch_means_the_default(shades: Shades) -> None:
    """Law: with every adapter kept out the default backbone scores, whatever a domain's adapter is of."""
    blue, green = shades.blue, shades.green
    await shades.put_live(blue, DOMAIN)
    await blue.score(DOMAIN)
    await shades.make_default(green)
    await blue.store.switch_backbone_only(True, "someone")
    await blue.replica.watcher.reconcile()
    assert_scored_by(green, await blue.score(DOMAIN), None)


async def test_a_default_that_is_refused_leaves_the_old_one(shades: Shades, tmp_path: Path) -> None:
    """Law: a bundle that the engine does not reproduce never serves, and is tried once; the next record is followed."""
    blue, green = shades.blue, shades.green
    bundle = read_bundle(green.run.folder / "bundle")
    golden = bundle.tensors("golden")
    golden["logits"] = golden["logits"] + 0.5
    files = {name: bundle.file(name) for name in bundle.files}
    files["golden.safetensors"] = write_tensors(golden, {"content": "golden"})
    bad = write_bundle(tmp_path / "bundle", bundle.manifest, files)
    await blue.store.publish_backbone(tmp_path / "bundle", "someone")
    await blue.replica.watcher.reconcile()
    await blue.replica.backbones.settle()
    assert_scored_by(blue, await blue.score(OTHER), None)
    default, _, refused, reason = blue.ledger.resident_backbones[-1]
    assert (default, refused, len(blue.engines)) == (bundle_of(blue), bad, 2)
    assert reason is not None
    assert "golden row" in reason
    await shades.make_default(green)
    assert_scored_by(green, await blue.score(OTHER), None)


async def test_a_bundle_that_is_not_there_yet_is_asked_for_again(shades: Shades) -> None:
    """Law: what the store cannot give is a failed look, and no refusal."""
    blue, green = shades.blue, shades.green
    await blue.store.set_default_backbone(await offered(green), "someone")
    blue.backend.lost.add(bundle_of(green))
    with pytest.raises(Exception, match="no blob"):
        await blue.replica.watcher.reconcile()
    assert_scored_by(blue, await blue.score(OTHER), None)
    blue.backend.lost.clear()
    await blue.replica.watcher.reconcile()
    assert_scored_by(green, await blue.score(OTHER), None)


async def test_another_bundle_of_the_same_weights_keeps_engine_and_slots(shades: Shades, tmp_path: Path) -> None:
    """Law: a bundle that only lists more domains takes the other's place; nothing is loaded anew and all is renamed."""
    blue = shades.blue
    await shades.put_live(blue, DOMAIN)
    await blue.score(DOMAIN)
    assert (await blue.score("theme-9")).served.fallback == "unknown_domain"
    slot = blue.replica.slots.get(DOMAIN)
    bundle = read_bundle(blue.run.folder / "bundle")
    themes, *rest = bundle.manifest.divisions
    more = Division(**{**themes.model_dump(), "domains": [*themes.domains, "theme-9"]})
    manifest = bundle.manifest.model_copy(update={"divisions": [more, *rest]})
    files = {name: bundle.file(name) for name in bundle.files}
    revision = write_bundle(tmp_path / "bundle", manifest, files)
    await blue.store.publish_backbone(tmp_path / "bundle", "someone")
    await blue.replica.watcher.reconcile()
    result = await blue.score(DOMAIN, strict=True)
    assert (result.served.backbone, blue.replica.slots.get(DOMAIN), len(blue.engines)) == (revision, slot, 1)
    assert_scores(result, blue.expected(DOMAIN, blue.body(DOMAIN)))
    assert (await blue.score("theme-9")).served.fallback == "no_adapter"


async def test_a_bundle_that_only_calibrates_otherwise_is_taken_over(shades: Shades, tmp_path: Path) -> None:
    """Law: what no natural adapter scores is on the new bundle's line, where auxiliaries alone scored too."""
    blue = shades.blue
    user = next(user for user in blue.users if blue.auxiliary_of("segment", user) == "segment-a")
    bare = next(user for user in blue.users if blue.auxiliary_of("segment", user) is None)
    await shades.put_live(blue, "segment-a")
    bundle, offset = read_bundle(blue.run.folder / "bundle"), -1.5
    before = [await blue.score(OTHER, user_id=each) for each in (user, bare)]
    assert [each.served.fallback for each in before] == ["auxiliary_only", "no_adapter"]
    manifest = bundle.manifest.model_copy(update={"calibration": Calibration(intercept=offset)})
    assert manifest.fingerprint == bundle.manifest.fingerprint
    write_bundle(tmp_path / "bundle", manifest, {name: bundle.file(name) for name in bundle.files})
    await blue.store.publish_backbone(tmp_path / "bundle", "someone")
    await blue.replica.watcher.reconcile()
    after = [await blue.score(OTHER, user_id=each) for each in (user, bare)]
    assert [each.served.fallback for each in after] == ["auxiliary_only", "no_adapter"]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(logit(new.scores), logit(old.scores) + offset, atol=1e-5)
    shifted = Oracle(tmp_path / "bundle")
    assert_scores(after[1], shifted.score(bare, OTHER, blue.items[:5]))


async def test_an_adapter_of_no_recorded_backbone_is_refused_by_name(shades: Shades) -> None:
    """Law: publishing an adapter whose bundle was never the default is refused, and the message says what to do."""
    await offered(shades.green)
    with pytest.raises(Exception, match="publish its bundle first"):
        await shades.green.publish(DOMAIN)


async def test_a_release_moves_a_fleet_to_the_other_backbone_and_back(shades: Shades) -> None:
    """Law: adapters that are staged before their backbone is recorded are prepared once it is; flips load nothing."""
    blue, green = shades.blue, shades.green
    for domain in (DOMAIN, OTHER):
        await shades.put_live(blue, domain)
        await blue.score(domain)
    await offered(green)
    named = {domain: await blue.store.put(green.body(domain)) for domain in (DOMAIN, OTHER)}
    release = await blue.store.put_release(Release(divisions={"theme": named}))
    await blue.store.stage(release, "someone")
    await blue.replica.watcher.reconcile()
    await blue.replica.staging.settled()
    assert blue.ledger.stagings[-1] == (release, 0, 2)
    await shades.make_default(green)
    await blue.replica.staging.settled()
    assert blue.ledger.stagings[-1] == (release, 2, 2)
    assert_scored_by(blue, await blue.score(DOMAIN, strict=True), blue.body(DOMAIN))
    await blue.store.flip(release, "someone", min_staged=0)
    await blue.replica.releases.follow()
    for domain in named:
        assert_scored_by(green, await blue.score(domain, strict=True), green.body(domain))
    await blue.store.roll_back_release(release, "someone")
    await blue.replica.releases.follow()
    for domain in named:
        assert_scored_by(blue, await blue.score(domain, strict=True), blue.body(domain))
    assert len(blue.engines) == 2


async def test_a_publish_brings_its_backbone(shades: Shades) -> None:
    """Law: after a publish through this replica the domain is scored by the adapter's backbone."""
    blue, green = shades.blue, shades.green
    await blue.store.set_default_backbone(await offered(green), "someone")
    await green.publish(DOMAIN)
    assert_scored_by(green, await blue.score(DOMAIN, strict=True), green.body(DOMAIN))


async def both_on_disk(run: Run, green_run: Run, cache: Path) -> FaultyBackend:
    """A store and a disk cache after a flip to green, with one domain left on blue."""
    backend = await filled(run)
    async with opened(run, on=backend, cache=cache, prewarm_s=0) as blue:
        green = replace(blue, run=green_run)
        await blue.put_live(DOMAIN)
        await blue.score(DOMAIN)
        await blue.store.set_default_backbone(await offered(green), "someone")
        await blue.replica.watcher.reconcile()
        assert_scored_by(green, await blue.score(OTHER), None)
    return backend


async def test_a_restart_without_the_store_serves_both(random_run: Run, green_run: Run, tmp_path: Path) -> None:
    """Law: with both on this disk a restart without the store serves each domain as before."""
    backend = await both_on_disk(random_run, green_run, tmp_path / "cache")
    backend.away = True
    async with opened(random_run, on=backend, cache=tmp_path / "cache", prewarm_s=0) as blue:
        green = replace(blue, run=green_run)
        assert blue.replica.backbone_revision == bundle_of(green)
        assert_scored_by(blue, await blue.score(DOMAIN, strict=True), blue.body(DOMAIN))
        result = await blue.score(OTHER)
        assert result.served.backbone == bundle_of(green)


async def test_a_restart_without_the_new_default_serves_the_one_before(
    random_run: Run, green_run: Run, tmp_path: Path
) -> None:
    """Law: a record that was read before its bundle was leaves the default before serving, also over a restart."""
    backend, cache = await filled(random_run), tmp_path / "cache"
    async with opened(random_run, on=backend, cache=cache, prewarm_s=0) as blue:
        await blue.store.set_default_backbone(await offered(replace(blue, run=green_run)), "someone")
        assert (await blue.replica.reader.backbone_record()).default != blue.replica.backbone_revision
    backend.away = True
    async with opened(random_run, on=backend, cache=cache, prewarm_s=0) as blue:
        assert (await blue.score(OTHER)).served.backbone == bundle_of(blue)
        backend.away = False
        await blue.replica.watcher.reconcile()
        assert_scored_by(replace(blue, run=green_run), await blue.score(OTHER), None)
