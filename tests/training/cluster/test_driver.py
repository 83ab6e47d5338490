"""Laws of the driver, on an engine in this process whose actors die when a test says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.cluster.tasks import Task, different, expected_entries, figures, on_cluster, task_of
from training.cluster.config import ClusterConfig
from training.cluster.engine import DirectEngine, ShardOf, WorkerOf
from training.cluster.errors import ActorLost, ClusterLost
from training.cluster.fit import ClusterFitted
from training.cluster.ledger import Ledger
from training.cluster.parts import Part, PartFolder
from training.dataset import EncodedDataset, Split
from training.errors import StateMismatch

Encoded = tuple[EncodedDataset, Split]
TINY: dict[str, Any] = {
    "inner": {"steps": 1},
    "batch_rows": 64,
    "epochs": 3,
    "regularization": {"others": 1, "packed": 1},
}


class Killed(BaseException):
    """The driver's own end, as SIGKILL would be: nothing catches it."""


class MortalEngine(DirectEngine):
    """Actors that die at some of the calls made to them, counted over all restarts.

    Args:
        deaths: numbers of the calls at which an actor dies.
        last: the call at which the driver itself dies; None is never.
    """

    def __init__(self, deaths: Sequence[int], last: int | None = None) -> None:
        super().__init__()
        self.calls = 0
        self._deaths = set(deaths)
        self._last = last

    def start(self, shards: int, shard_of: ShardOf, workers: int, worker_of: WorkerOf) -> list[dict[str, Any]]:
        self._live("a process that was starting")
        return super().start(shards, shard_of, workers, worker_of)

    def shards(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        answers = super().shards(method, arguments)
        self._live("a shard")  # after its work: what it did must not count either
        return answers

    def finished(self) -> tuple[int, Any]:
        self._live("a worker")
        return super().finished()

    def _live(self, who: str) -> None:
        self.calls += 1
        if self.calls == self._last:
            raise Killed
        if self.calls in self._deaths:
            raise ActorLost(f"{who} died")


@pytest.fixture(scope="module")
def task(rows: Encoded) -> Task:
    """One batch a visit, three epochs."""
    return task_of(*rows, **TINY)


@pytest.fixture(scope="module")
def undisturbed(task: Task, tmp_path_factory: pytest.TempPathFactory) -> ClusterFitted:
    """Two workers and two shards that live to the end."""
    return on_cluster(task, tmp_path_factory.mktemp("undisturbed"), workers=2, shards=2)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """Events of one name in a run's log."""
    lines = (folder / "cluster.log").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def assert_as(undisturbed: ClusterFitted, found: ClusterFitted, task: Task) -> None:
    """The same bits, the same history, and every phase of every domain exactly once."""
    assert different(undisturbed.fitted.state, found.fitted.state) == []
    assert figures(found.fitted.history) == figures(undisturbed.fitted.history)
    assert sorted(found.standing.ledger.entries) == expected_entries(task, len(found.fitted.history))
    assert found.standing.traffic == undisturbed.standing.traffic


@pytest.mark.parametrize("deaths", [[1, 3], [5, 6], [9, 20, 31], range(4, 100, 11)])
def test_a_training_whose_actors_die_ends_as_one_whose_do_not(
    task: Task, undisturbed: ClusterFitted, tmp_path: Path, deaths: Sequence[int]
) -> None:
    """Law: whichever calls actors die at, training goes back to the last checkpoint and ends with the same bits."""
    found = on_cluster(task, tmp_path, MortalEngine(deaths), workers=2, shards=2, restarts=5)
    assert len(events(tmp_path, "lost")) >= 1
    assert_as(undisturbed, found, task)


@pytest.mark.parametrize("last", [2, 7, 18, 24])
def test_a_killed_driver_is_resumed(task: Task, undisturbed: ClusterFitted, tmp_path: Path, last: int) -> None:
    """Law: a driver that dies anywhere is started again on its folder and ends with the same bits."""
    with pytest.raises(Killed):
        on_cluster(task, tmp_path, MortalEngine([], last), workers=2, shards=2)
    assert_as(undisturbed, on_cluster(task, tmp_path, workers=2, shards=2), task)


def test_what_is_trained_again_is_said(task: Task, tmp_path: Path) -> None:
    """Law: every phase that began and was thrown away stands in the log as done again; none is done again silently."""
    on_cluster(task, tmp_path, MortalEngine([9, 23]), workers=2, shards=2)
    began = [(e["epoch"], e["phase"], d) for e in events(tmp_path, "begin") for d in e["domains"]]
    again = [tuple(entry) for e in events(tmp_path, "again") for entry in e["entries"]]
    assert again
    assert sorted(began) == sorted(expected_entries(task, 3) + again)


def test_what_a_finished_training_left_in_flight_is_not_said_to_be_trained_again(rows: Encoded, tmp_path: Path) -> None:
    """Law: async, patience may end a training while workers are ahead; a second call trains and says nothing."""
    still = {"inner": {"optimizer": "sgd", "lr": 1e-12, "steps": 1}, "patience": 1, "epochs": 5}
    task = task_of(*rows, **{**TINY, **still})
    first = on_cluster(task, tmp_path, workers=3, mode="async")
    assert len(first.fitted.history) == 2
    assert len(events(tmp_path, "begin")) > len(events(tmp_path, "taken"))
    again = on_cluster(task, tmp_path, workers=3, mode="async")
    assert different(first.fitted.state, again.fitted.state) == []
    assert events(tmp_path, "again") == []


def test_processes_that_always_die_are_given_up(task: Task, tmp_path: Path) -> None:
    """Law: without one round completed in between, so many deaths in a row end the run, and it can be resumed."""
    with pytest.raises(ClusterLost, match="3th time"):
        on_cluster(task, tmp_path, MortalEngine(range(1, 1000)), workers=2, restarts=2)
    assert on_cluster(task, tmp_path, workers=2).fitted.epoch > 0


def test_a_damaged_part_is_refused(task: Task, tmp_path: Path) -> None:
    """Law: a checkpoint whose bytes changed is not trained on; the message names the file."""
    with pytest.raises(Killed):
        on_cluster(task, tmp_path, MortalEngine([], 12), workers=2)
    part = next((tmp_path / "state" / "cluster").glob("shard-0-*"))
    part.write_bytes(part.read_bytes()[:-1] + b"\x00")
    with pytest.raises(StateMismatch, match=part.name):
        on_cluster(task, tmp_path, workers=2)


def test_a_manifest_of_the_first_form_is_gone_on_with(task: Task, undisturbed: ClusterFitted, tmp_path: Path) -> None:
    """Law: one that holds every entry and every AUC itself is read, and the training ends with the same bits."""
    with pytest.raises(Killed):
        on_cluster(task, tmp_path, MortalEngine([], 18), workers=2, shards=2)
    path = tmp_path / "state" / "cluster.json"
    record = json.loads(path.read_text())
    assert record.pop("form") == 2
    ledger = Ledger.of(record["ledger"], task.setting.domains.names)
    record["ledger"] = [list(entry) for entry in ledger.entries]
    parts = PartFolder(tmp_path / "state" / "cluster")
    for entry, part in zip(record["history"], record.pop("aucs"), strict=True):
        entry["aucs"] = parts.read_aucs(Part(**part))
    assert len(record["ledger"]) > 0 < len(record["history"])
    path.write_text(json.dumps(record))
    assert_as(undisturbed, on_cluster(task, tmp_path, workers=2, shards=2), task)
    assert json.loads(path.read_text())["form"] == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form": 3}, "is of form 3, this release knows forms 1 and 2"),
        ({"ledger": {"domains": 4, "whole": {}, "open": []}}, "of 4 domains; this training has 3"),
        ({"ledger": 5}, "the ledger in"),
        ({"done": None}, "is no manifest"),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused(
    task: Task, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """Law: it is named with what is wrong, and nothing is trained anew over it."""
    with pytest.raises(Killed):
        on_cluster(task, tmp_path, MortalEngine([], 12), workers=2)
    path = tmp_path / "state" / "cluster.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    before = path.read_bytes()
    with pytest.raises(StateMismatch, match=said):
        on_cluster(task, tmp_path, workers=2)
    assert path.read_bytes() == before


def test_a_manifest_is_as_long_after_the_last_epoch_as_after_the_first(task: Task, tmp_path: Path) -> None:
    """Law: what grows with domains and epochs is not in it: no entry and no AUC of a domain."""
    found = on_cluster(task, tmp_path, workers=2)
    record = json.loads((tmp_path / "state" / "cluster.json").read_text())
    assert record["ledger"] == {"domains": 3, "whole": {"dn": 3, "dr": 3}, "open": []}
    assert all("aucs" not in entry for entry in record["history"])
    assert len(record["aucs"]) == len(found.standing.history) == 3
    assert [entry["aucs"] for entry in found.fitted.history] == [
        PartFolder(tmp_path / "state" / "cluster").read_aucs(part) for part in found.standing.aucs
    ]


def test_only_parts_that_are_named_stay(task: Task, tmp_path: Path) -> None:
    """Law: beside the manifest lie the parts of the last checkpoint and of the selected epoch, and nothing else."""
    found = on_cluster(task, tmp_path, MortalEngine([9, 23]), workers=2, shards=2)
    lying = {path.name for path in (tmp_path / "state" / "cluster").iterdir()}
    assert lying == {part.name for part in found.standing.parts()}


@settings(max_examples=5, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 2), min_size=60, max_size=60), st.integers(0, 2), st.lists(st.integers(8, 60), max_size=2)
)
def test_staleness_stays_within_its_bound(
    task: Task, tmp_path_factory: pytest.TempPathFactory, order: list[int], staleness: int, deaths: list[int]
) -> None:
    """Law: async, whoever answers when and dies when, no pseudo-gradient misses more commits than is stated."""

    class Shuffled(MortalEngine):
        def finished(self) -> tuple[int, Any]:
            self._next_of = lambda workers: order[self.calls % len(order)] % len(workers)
            return super().finished()

    cluster = ClusterConfig(workers=3, mode="async", staleness=staleness)
    folder = tmp_path_factory.mktemp("async")
    found = on_cluster(task, folder, Shuffled(deaths), workers=3, mode="async", staleness=staleness)
    assert found.standing.staleness.largest <= cluster.stale_commits == 2 * (2 * staleness + 1)
    done = found.standing.done
    assert max(done) - min(done) <= 3 * (staleness + 1)
    entries = found.standing.ledger.entries
    assert len(set(entries)) == len(entries)
    assert set(expected_entries(task, len(found.fitted.history))) <= set(entries)


def test_async_can_be_stale(task: Task, tmp_path: Path) -> None:
    """Law: what is measured is real: three workers that all pull before any of them commits miss commits."""
    found = on_cluster(task, tmp_path, workers=3, mode="async")
    assert found.standing.staleness.largest >= 2
    assert found.standing.staleness.mean > 0
