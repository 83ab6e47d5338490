"""The journal: what is drawn, what is kept, and what a kill must not change of either."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from training.errors import StateMismatch
from training.search.errors import JournalBroken
from training.search.found import Told
from training.search.journal import FOR_IMPORTANCE, RANDOM_TRIALS, Journal
from training.search.judging import Judged
from training.search.space import Parameter, Point, Range, Times, Values
from training.seeds import Stream

SPACE: dict[str, Parameter] = {
    "x": Range(low=0.0, high=1.0),
    "rate": Range(low=1e-4, high=1.0, log=True),
    "whole": Range(low=1, high=9, integer=True),
    "kind": Values(values=(None, "a", 3)),
    "ranks": Times(times=(0.5, 1.0)),
}


def opened(folder: Path, seed: int = 0, space: dict[str, Parameter] | None = None, lr: float = 0.1) -> Journal:
    stream = Stream(seed, ("search", "test"))
    return Journal(folder / "journal.log", "test", space or SPACE, stream, {"config": {"lr": lr}})


def worth(point: Point) -> Judged:
    """Best at x = 0.3; nothing else counts."""
    x = point["x"]
    assert isinstance(x, float)
    return Judged(0.9 - (x - 0.3) ** 2, 0.5)


def searched(folder: Path, trials: int, *, reopened: bool = False, seed: int = 0) -> list[Told]:
    journal = opened(folder, seed)
    for _ in range(trials):
        journal = opened(folder, seed) if reopened else journal
        point = journal.draw()
        journal.tell(point, worth(point), 1.25, "c1")
    return journal.told()


def test_a_search_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """Law: a journal that is opened anew for each trial draws what one that stays open draws; another seed does not."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "opened").mkdir()
    (tmp_path / "other").mkdir()
    trials = RANDOM_TRIALS + 4
    kept = searched(tmp_path / "kept", trials)
    assert searched(tmp_path / "opened", trials, reopened=True) == kept
    assert [told.point for told in searched(tmp_path / "other", 3, seed=1)] != [told.point for told in kept[:3]]


def test_what_is_drawn_but_not_told_leaves_no_trace(tmp_path: Path) -> None:
    """Law: a draw is the same until it is told, and the file holds finished trials alone."""
    journal = opened(tmp_path)
    size = (tmp_path / "journal.log").stat().st_size
    assert journal.draw() == journal.draw()
    assert (tmp_path / "journal.log").stat().st_size == size
    assert opened(tmp_path).told() == []


def test_draws_lie_in_the_space(tmp_path: Path) -> None:
    """Law: every value is one that its parameter allows, of few digits, and drawn ones differ."""
    points = [told.point for told in searched(tmp_path, RANDOM_TRIALS + 4)]
    for point in points:
        assert list(point) == list(SPACE)
        x, rate, whole = (point[key] for key in ("x", "rate", "whole"))
        assert isinstance(x, float)
        assert isinstance(rate, float)
        assert isinstance(whole, int)
        assert 0.0 <= x <= 1.0
        assert 1e-4 <= rate <= 1.0
        assert 1 <= whole <= 9
        assert f"{rate:.4g}" == f"{rate:g}" or rate == float(f"{rate:.4g}")
        assert point["kind"] in (None, "a", 3)
        assert point["ranks"] in (0.5, 1.0)
    assert len({point["x"] for point in points}) == len(points)


def test_later_draws_follow_what_was_found(tmp_path: Path) -> None:
    """Law: after the even draws the sampler comes closer to the best value than they did."""
    distances = [abs(float(str(told.point["x"])) - 0.3) for told in searched(tmp_path, 3 * RANDOM_TRIALS)]
    assert statistics.median(distances[-RANDOM_TRIALS:]) < 0.6 * statistics.median(distances[:RANDOM_TRIALS])


def test_a_torn_line_and_a_lock_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    """Law: whatever part of its last line a kill left, the trials before it are there, and the search goes on."""
    before = searched(tmp_path, 3)
    path = tmp_path / "journal.log"
    content = path.read_bytes()
    journal = opened(tmp_path)
    journal.tell(journal.draw(), Judged(0.9, 0.1), 1.0, "c1")
    line = path.read_bytes()[len(content) :]
    for cut in (1, len(line) // 2, len(line) - 1):
        path.write_bytes(content + line[:cut])
        (tmp_path / "journal.log.lock").symlink_to(path)
        again = opened(tmp_path)
        assert again.told() == before
        again.tell(again.draw(), Judged(0.9, 0.1), 1.0, "c1")
        assert len(opened(tmp_path).told()) == 4


def test_a_trial_is_kept_whole(tmp_path: Path) -> None:
    """Law: what was told is read back as it was, one without a value too."""
    journal = opened(tmp_path)
    first, second = journal.draw(), {"x": 0.3, "rate": 0.01, "whole": 4, "kind": None, "ranks": 0.5}
    told = [
        journal.tell(first, Judged(0.75, 0.5), 1.25, "c1"),
        journal.tell(second, Judged(None, None), 0.0, "c2"),
    ]
    assert told == [Told(0, first, Judged(0.75, 0.5), 1.2, "c1"), Told(1, second, Judged(None, None), 0.0, "c2")]
    assert opened(tmp_path).told() == told


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    """Law: a journal of other settings, or of another space, is not gone on with; the message names what differs."""
    opened(tmp_path)
    with pytest.raises(StateMismatch, match=r"config\.lr was 0\.1, is now 0\.2"):
        opened(tmp_path, lr=0.2)


def test_a_broken_journal_is_refused_by_path(tmp_path: Path) -> None:
    """Law: a file that is no journal is named, with what to do; it is left as it was."""
    path = tmp_path / "journal.log"
    for content in (b"{no json}\n{}\n", json.dumps({"op_code": 4}).encode() + b"\n"):
        path.write_bytes(content)
        with pytest.raises(JournalBroken, match=r"journal\.log.*move it away"):
            opened(tmp_path)
        assert path.read_bytes() == content


def test_importance_finds_what_counts(tmp_path: Path) -> None:
    """Law: of many trials the key that decides has the largest share, shares sum to one; of few there are none."""
    journal = opened(tmp_path)
    for number in range(FOR_IMPORTANCE + 10):
        if number == FOR_IMPORTANCE - 1:
            assert journal.importance() == {}
        x = (number * 37 % 101) / 101
        point: Point = {"x": x, "rate": 10.0 ** -(number % 4), "whole": 1 + number % 9, "kind": "a", "ranks": 1.0}
        journal.tell(point, worth(point), 1.0, "c1")
    shares = journal.importance()
    assert next(iter(shares)) == "x"
    assert sum(shares.values()) == pytest.approx(1.0)
