"""Laws of shipping, with a real S3 endpoint: whole, once for each segment, nothing lost while the store is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from adapters_store.errors import StoreUnavailable
from adapters_store.feedback_objects import FeedbackObjects, open_feedback_objects
from service.aggregation import Registry, exposition
from service.errors import StartError
from service.feedback.folder import SegmentFolder, locked
from service.feedback.room import open_feedback
from service.feedback.shipping import EVERY_S, Shipper
from service.settings import load_settings
from tests.servers.ports import free_port
from tests.servers.s3 import S3Server, serve_s3
from tests.service.clockwork import ManualClock, turns_until
from tests.service.feedback.parts import event, silent

NAME = "20251121T172000000Z-replica-1-0000000{}"


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    """One endpoint for this file."""
    with serve_s3() as server:
        yield server


@pytest.fixture
async def objects(moto: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[FeedbackObjects]:
    """The segments of a store of the test's own."""
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    opened = open_feedback_objects(moto.url(f"stores/{tmp_path.name}"), timeout_s=5)
    assert opened is not None
    yield opened
    await opened.close()


def folder_with(path: Path, *numbers: int, suffix: str = "") -> SegmentFolder:
    folder = SegmentFolder(path / "feedback")
    folder.prepare()
    for number in numbers:
        day = folder.path / "2025-11-21"
        day.mkdir(exist_ok=True)
        (day / f"{NAME.format(number)}{suffix}.ndjson").write_bytes(f"line {number}\n".encode())
    return folder


def shipper_of(
    folder: SegmentFolder, objects: FeedbackObjects, clock: ManualClock | None = None
) -> tuple[Shipper, list[int]]:
    count: list[int] = []
    shipper = Shipper(folder, objects, clock or ManualClock(), silent(), shipped=lambda: count.append(1))
    return shipper, count


async def test_closed_segments_come_to_the_store_as_they_are(tmp_path: Path, objects: FeedbackObjects) -> None:
    """Law: each closed segment lies under its day with the same bytes, is marked locally, and is shipped once."""
    folder = folder_with(tmp_path, 1, 2)
    folder_with(tmp_path, 3, suffix=".open")
    shipper, count = shipper_of(folder, objects)
    assert await shipper.ship() == 2
    assert await shipper.ship() == 0
    assert await objects.keys() == [f"2025-11-21/{NAME.format(number)}.ndjson" for number in (1, 2)]
    assert await objects.get(f"2025-11-21/{NAME.format(2)}.ndjson") == b"line 2\n"
    assert [segment.named.state for segment in folder.segments()] == ["shipped", "shipped", "open"]
    assert len(count) == 2


async def test_workers_do_not_ship_the_same_segment(tmp_path: Path, objects: FeedbackObjects) -> None:
    """Law: a segment that another worker holds is left to it."""
    folder = folder_with(tmp_path, 1, 2)
    shippers = [shipper_of(folder, objects) for _ in range(3)]
    with locked(folder.path / "2025-11-21" / f"{NAME.format(1)}.ndjson") as held:
        assert held is not None
        assert await shippers[0][0].ship() == 1
    folder_with(tmp_path, *range(3, 9))
    await asyncio.gather(*(shipper.ship() for shipper, _ in shippers))
    assert sum(len(count) for _, count in shippers) == 8
    assert {segment.named.state for segment in folder.segments()} == {"shipped"}


async def test_a_store_that_is_away_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what the store does not take stays closed on this disk."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    url = f"s3://bucket/store?endpoint=http%3A%2F%2F127.0.0.1%3A{free_port()}&region=us-east-1"
    nowhere = open_feedback_objects(url, timeout_s=0.3)
    assert nowhere is not None
    folder = folder_with(tmp_path, 1)
    with pytest.raises(StoreUnavailable, match="PUT"):
        await shipper_of(folder, nowhere)[0].ship()
    assert [segment.named.state for segment in folder.segments()] == ["closed"]
    await nowhere.close()


async def test_shipping_goes_on_after_a_failure(tmp_path: Path, objects: FeedbackObjects) -> None:
    """Law: the loop outlives failures, waits longer after each, and ships when it can again."""
    clock, folder = ManualClock(), folder_with(tmp_path, 1)
    hidden = folder.path.with_name("hidden")
    folder.path.rename(hidden)  # the disk refuses
    shipped = asyncio.Event()
    shipper = Shipper(folder, objects, clock, silent(), shipped=shipped.set)
    running = asyncio.create_task(shipper.run())
    for waits in range(3):
        await turns_until(lambda: clock.waiting == 1)
        await clock.advance(EVERY_S * 2 ** (waits + 1))
    await turns_until(lambda: clock.waiting == 1)
    hidden.rename(folder.path)
    await clock.advance(EVERY_S * 16)
    await shipped.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert await objects.keys() == [f"2025-11-21/{NAME.format(1)}.ndjson"]


async def test_what_a_service_took_is_in_the_store_when_it_ends(
    tmp_path: Path, objects: FeedbackObjects, moto: S3Server
) -> None:
    """Law: at its end a service closes its segment and ships it; its metric counts it."""
    url, registry = moto.url(f"stores/{tmp_path.name}"), Registry()
    settings = load_settings({"store": url, "feedback_dir": tmp_path / "f"}, environ={})
    async with open_feedback(settings, registry, silent()) as feedback:
        await feedback.take([event("a", user_id=1, domain_id="d")], "app")
        assert await objects.keys() == []
    (key,) = await objects.keys()
    assert json.loads(await objects.get(key))["item_id"] == "a"
    assert key.endswith(".ndjson")
    assert [path.name.endswith(".shipped.ndjson") for path in (tmp_path / "f").rglob("*.ndjson")] == [True]
    assert "espalier_feedback_shipped_segments_total 1.0" in exposition(registry.families()).decode()


async def test_a_folder_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """Law: a feedback_dir that is no folder is told at the start, with what to do."""
    (tmp_path / "f").write_text("")
    settings = load_settings({"store": "file:///store", "feedback_dir": tmp_path / "f"}, environ={})
    with pytest.raises(StartError, match=r"feedback_dir .* cannot be used: File exists; choose another"):
        async with open_feedback(settings, Registry(), silent()):
            pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+s3://bucket/a/b?redis=redis%3A%2F%2Fuser%3Asecret%40host&region=us-east-1", "s3://bucket/a/b/feedback"),
        ("s3://bucket?region=us-east-1", "s3://bucket/feedback"),
        ("file:///folder", None),
        ("redis://host", None),
    ],
)
def test_segments_lie_in_the_object_store_of_a_store(url: str, shown: str | None) -> None:
    """Law: a Redis before the object store plays no part, and a store without objects has no place for segments."""
    opened = open_feedback_objects(url, timeout_s=1)
    assert (None if opened is None else str(opened)) == shown
