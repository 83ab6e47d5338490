"""Publishing a run: verified first, repeatable, auxiliaries before those that pin them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import Backbone
from adapters_store.errors import DigestMismatch, GoldenMismatch, MalformedArtifact, MissingPin
from adapters_store.memory import MemoryBackend
from adapters_store.publishing import find_run, publish_run, verify_run
from adapters_store.store import AdapterStore
from adapters_store.verification import LogitsOf
from tests.adapters_store.world import FoldEngine, World, encoded, write_run


def engine_of(backbone: Backbone) -> LogitsOf:
    return FoldEngine(backbone).logits


@pytest.fixture
def run(world: World) -> Path:
    """A finished run: two gender adapters, a fusion, two fused theme adapters."""
    return write_run(world, world.folder / "run")


@pytest.fixture
def store() -> AdapterStore:
    """An empty store."""
    return AdapterStore(MemoryBackend(), lambda: 0.0)


async def test_run_is_published_and_a_second_time_changes_nothing(run: Path, store: AdapterStore) -> None:
    """Law: after publishing every artifact serves; publishing again leaves every generation as it is."""
    seen: list[str] = []
    files = find_run(run)
    verified = verify_run(files, engine_of, seen.append)
    assert len(seen) == len(files) == 6
    steps = Counter[str]()
    first = await publish_run(verified, store, "me", lambda what, more: steps.update({what: more}))
    assert steps == {"stored": 6, "activated": 4}
    assert [one.status for one in first] == ["created"] * 6
    assert [one.name for one in first] == ["bundle", "fusion", "gender-f", "gender-m", "theme-1", "theme-2"]
    assert (await store.backbone_record()).default == first[0].revision
    for one in first[2:]:
        record = await store.domain(one.name)
        assert record is not None
        assert record.live is not None
        assert record.live.revision == one.revision
        adapter = decode_adapter(await store.get(one.revision))
        for pin in [*adapter.manifest.fuses.values(), adapter.manifest.fusion]:
            assert pin is None or await store.has(pin)
    again = await publish_run(verify_run(find_run(run), engine_of), store, "you")
    assert [one.status for one in again] == ["unchanged"] * 6
    generations = {record.domain: record.generation for record in await store.domains()}
    assert generations == dict.fromkeys(["gender-f", "gender-m", "theme-1", "theme-2"], 1)


async def test_only_what_changed_is_published(run: Path, world: World, store: AdapterStore) -> None:
    """Law: a run with one new adapter changes that domain alone."""
    await publish_run(verify_run(find_run(run), engine_of), store, "me")
    (run / "adapters" / "theme-2.safetensors").write_bytes(encoded(*world.lora_parts("theme-2", "theme")))
    again = await publish_run(verify_run(find_run(run), engine_of), store, "me")
    assert {one.name for one in again if one.status == "created"} == {"theme-2"}


def test_fault_is_named_with_its_file(run: Path, world: World) -> None:
    """Law: one bad artifact refuses the run before anything is written, and its file is named."""
    path = run / "adapters" / "theme-2.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(MalformedArtifact, match=r"theme-2\.safetensors: truncated"):
        verify_run(find_run(run), engine_of)
    path.write_bytes(encoded(*world.lora_parts("theme-1", "theme")))
    with pytest.raises(
        MalformedArtifact, match=r"theme-2\.safetensors: theme-1\.safetensors is of domain 'theme-1' too"
    ):
        verify_run(find_run(run), engine_of)
    path.write_bytes(good)
    (run / "adapters" / "gender-m.safetensors").unlink()
    with pytest.raises(MissingPin, match=r"theme-1\.safetensors: the pinned adapter of domain 'gender-m'"):
        verify_run(find_run(run), engine_of)


def test_engine_that_disagrees_stops_the_run(run: Path) -> None:
    """Law: what the engine does not reproduce is not published."""
    with pytest.raises(GoldenMismatch, match="bundle: golden row"):
        verify_run(find_run(run), lambda backbone: lambda rows, folded: engine_of(backbone)(rows, folded) + 1)


async def test_file_that_changes_after_verification_is_not_published(run: Path, store: AdapterStore) -> None:
    """Law: what is published is what was verified."""
    verified = verify_run(find_run(run), engine_of)
    path = run / "adapters" / "theme-1.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DigestMismatch, match=r"theme-1\.safetensors changed after it was verified"):
        await publish_run(verified, store, "me")
    assert await store.versions() == {}


def test_folder_that_is_no_run_is_refused_with_advice(tmp_path: Path, run: Path) -> None:
    """Law: a wrong or unfinished folder is named, with what should have been given."""
    with pytest.raises(MalformedArtifact, match=r"has no bundle/manifest\.json: name the folder that"):
        find_run(tmp_path / "absent")
    for path in (run / "adapters").iterdir():
        path.unlink()
    with pytest.raises(MalformedArtifact, match=r"has no adapters/\*\.safetensors"):
        find_run(run)
