"""Laws of several workers: an event that reaches another one than its response is completed, once, and counted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.feedback.siblings import SiblingLines
from tests.service.feedback.parts import REVISION, desk, event, lines_of, result


async def test_the_worker_that_scored_completes_an_event(tmp_path: Path) -> None:
    """Law: an event that another worker stored unmatched gets a completing line of its time and sender, and counts."""
    with desk(tmp_path / "f", name="replica-1") as one, desk(tmp_path / "f", name="replica-2") as two:
        siblings = SiblingLines(one.folder, one.writer.name)
        assert siblings.look() == []
        one.recent.remember(result("r", [0.25, 0.75]), 42, ["a", "b"], {"hour": 3}, 100)
        taken = await two.journal.append(
            [event("b", request_id="r"), event("a", request_id="unheard"), event("a", user_id=1, domain_id="d")], "app"
        )
        assert taken.matched == 0
        two.now[0] += 60
        one.now[0] += 60
        one.journal.complete(siblings.look())
        one.journal.complete(siblings.look())
        two.journal.complete(SiblingLines(two.folder, two.writer.name).look())
        lines = lines_of(tmp_path / "f")
        completing = [line for line in lines if line.get("completes")]
        original = next(line for line in lines if line["item_id"] == "b" and not line.get("matched"))
        assert len(lines) == 4
        assert len(completing) == 1
        assert completing[0].items() >= {
            **original,
            "user_id": "42",
            "domain_id": "women",
            "score": 0.75,
            "revision": REVISION,
            "matched": True,
        }.items() - {"context"}
        assert one.metric('espalier_feedback_events_total{outcome="completed"}') == "1.0"
        assert two.metric('espalier_feedback_events_total{outcome="unmatched"}') == "3.0"


async def test_lines_are_seen_once_through_every_state_of_a_segment(tmp_path: Path) -> None:
    """Law: rotation and shipping by others neither hide a line nor show it twice; a half-written one is waited for."""
    with desk(tmp_path / "f", name="replica-2", segment_bytes=400) as two:
        siblings, seen = SiblingLines(two.folder, "replica-1", look_bytes=300), []
        assert siblings.look() == []
        for number in range(30):
            await two.journal.append([event(number, request_id="r")], "app")
            if number % 4 == 0:
                seen += siblings.look()
            closed = [one for one in two.folder.segments() if one.named.state == "closed"]
            if closed and number % 7 == 0:
                two.folder.mark_shipped(closed[0])
        for _ in range(10):
            seen += siblings.look()
        assert sorted(int(line.item_id) for line in seen) == list(range(30))
        with two.folder.segments()[-1].path.open("ab") as file:
            file.write(b'{"schema":1,"at":0,"item_id":"late","label":1,')
            file.flush()
            assert siblings.look() == []
            file.write(b'"request_id":"r"}\n')
        assert [line.item_id for line in siblings.look()] == ["late"]


async def test_what_was_there_before_is_not_looked_at(tmp_path: Path) -> None:
    """Law: a process that begins takes stock; old feedback is not of its responses."""
    with desk(tmp_path / "f", name="replica-2") as two:
        await two.journal.append([event("old", request_id="r")], "app")
        siblings = SiblingLines(two.folder, "replica-1")
        assert siblings.look() == []
        await two.journal.append([event("new", request_id="r")], "app")
        assert [line.item_id for line in siblings.look()] == ["new"]


async def test_completing_takes_no_room_that_is_not_there(tmp_path: Path) -> None:
    """Law: in a full folder nothing is completed, and nothing fails."""
    with desk(tmp_path / "f", name="replica-2") as two:
        await two.journal.append([event("a", request_id="r")], "app")
    with desk(tmp_path / "f", name="replica-1", keep_bytes=150) as one:
        siblings = SiblingLines(one.folder, "replica-1")
        siblings._read = {}
        one.recent.remember(result("r", [0.5]), 42, ["a"], None, 100)
        one.journal.complete(siblings.look())
        assert len(lines_of(tmp_path / "f")) == 1


@pytest.mark.parametrize("bad", [b"{\n", b'{"schema":9,"at":0,"item_id":"a","label":1,"request_id":"r"}\n'])
async def test_a_line_that_cannot_be_read_is_passed_over(tmp_path: Path, bad: bytes) -> None:
    """Law: what is broken in another's segment stops nothing."""
    with desk(tmp_path / "f", name="replica-2") as two:
        siblings = SiblingLines(two.folder, "replica-1")
        siblings.look()
        await two.journal.append([event("a", request_id="r")], "app")
        with two.folder.segments()[0].path.open("ab") as file:
            file.write(bad)
        await two.journal.append([event("b", request_id="r")], "app")
        assert [line.item_id for line in siblings.look()] == ["a", "b"]
