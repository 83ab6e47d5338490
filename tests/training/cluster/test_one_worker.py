"""Shards, caches and workers against one process, without the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.cluster.tasks import different, expected_entries, figures, in_one_process, on_cluster, task_of
from training.cluster.fit import dealt
from training.dataset import EncodedDataset, Split
from training.errors import ConfigError, StateMismatch

Encoded = tuple[EncodedDataset, Split]


@pytest.mark.parametrize(
    ("changes", "shards"),
    [
        ({"framework": "dn"}, 1),
        ({"framework": "dn", "outer": {"optimizer": "adam", "lr": 0.01}}, 3),
        ({}, 1),
        ({"regularization": {"others": 2, "packed": 1, "include_target": True}}, 2),
        ({"embeddings": "deltas", "inner": {"steps": 3}}, 2),
        ({"embeddings": "frozen", "epochs": 1}, 1),
    ],
)
def test_one_worker_in_step_is_one_process_bit_for_bit(
    rows: Encoded, tmp_path: Path, changes: dict[str, Any], shards: int
) -> None:
    """Law: sync with one worker learns the single process's theta_S and theta_i, the same bits, at any shard count."""
    task = task_of(*rows, **changes)
    alone = in_one_process(task, tmp_path / "alone")
    spread = on_cluster(task, tmp_path / "spread", workers=1, shards=shards)
    assert different(alone.state, spread.fitted.state) == []
    assert figures(spread.fitted.history) == figures(alone.history)
    assert spread.fitted.epoch == alone.epoch
    entries = spread.standing.ledger.entries
    assert sorted(entries) == expected_entries(task, len(alone.history))


def test_workers_share_the_work_and_learn(rows: Encoded, tmp_path: Path) -> None:
    """Law: with several workers every domain is trained once an epoch, and validation comes near one process's."""
    task = task_of(*rows)
    alone = in_one_process(task, tmp_path / "alone")
    spread = on_cluster(task, tmp_path / "spread", workers=3, shards=2)
    assert sorted(spread.standing.ledger.entries) == expected_entries(task, 2)
    assert len(spread.fitted.history) == len(alone.history)
    assert abs(spread.fitted.auc - alone.auc) < 0.05
    assert spread.standing.staleness.largest == 0


def test_caches_move_fewer_bytes_than_minibatches_would(rows: Encoded, tmp_path: Path) -> None:
    """Law: Domain Negotiation pulls and pushes each touched row once; regularization pulls and pushes no row back."""
    task = task_of(*rows, epochs=1)
    traffic = on_cluster(task, tmp_path, workers=1).standing.by_phase
    assert traffic["dn"].rows_pulled == traffic["dn"].rows_pushed > 0
    assert traffic["dr"].rows_pulled > traffic["dr"].rows_pushed == 0
    assert traffic["dn"].uncached_pulled == traffic["dn"].uncached_pushed > 2 * traffic["dn"].rows_pulled
    assert traffic["dr"].uncached_pushed == 0 < traffic["dr"].uncached_pushed_frozen
    touched = sum(
        len(task.setting.structure.touched(task.setting.rows.batch(batch)))
        for domain in range(3)
        for batch in task.setting.visit(domain, task.setting.stream.of("visits", 1, task.setting.domains.names[domain]))
    )
    assert traffic["dn"].uncached_pulled == touched * (4 * 4 + 8)


def test_what_cannot_be_spread_is_refused(rows: Encoded, tmp_path: Path) -> None:
    """Law: settings that need the whole network or all domains in one place are refused, with the key to change."""
    for changes, key in (
        ({"framework": "pcgrad"}, "framework"),
        ({"preset": "parity"}, "inner.reset"),
        ({"embeddings": "copies"}, "embeddings"),
        ({"regularization": {"start": "random"}}, "regularization.start"),
        ({"network": {"width": 4, "tower": [8], "norm": True}}, "network.norm"),
    ):
        with pytest.raises(ConfigError, match=key):
            on_cluster(task_of(*rows, **changes), tmp_path)
    with pytest.raises(ConfigError, match="workers lower"):
        on_cluster(task_of(*rows), tmp_path, workers=4)
    assert not (tmp_path / "state").exists()


def test_a_finished_run_is_not_trained_again_and_another_is_refused(rows: Encoded, tmp_path: Path) -> None:
    """Law: a second call on a finished folder gives the same; other settings or other workers are a mismatch."""
    first = on_cluster(task_of(*rows, epochs=1), tmp_path, workers=2)
    events = (tmp_path / "cluster.log").read_text()
    again = on_cluster(task_of(*rows, epochs=1), tmp_path, workers=2)
    assert different(first.fitted.state, again.fitted.state) == []
    assert (tmp_path / "cluster.log").read_text() == events
    with pytest.raises(StateMismatch, match=r"cluster\.workers was 2, is now 1"):
        on_cluster(task_of(*rows, epochs=1), tmp_path, workers=1)


def test_domains_are_dealt_out_evenly() -> None:
    """Law: every domain has one worker, and no worker has much more to do than another if it can be helped."""
    assert dealt([5, 100, 60, 40, 5], 2) == [(0, 1), (2, 3, 4)]
    assert dealt([1, 1, 1], 3) == [(0,), (1,), (2,)]
    assert dealt([0, 0, 7], 2) == [(2,), (0, 1)]


def test_many_workers_do_not_overshoot(rows: Encoded, tmp_path: Path) -> None:
    """Law: with outer lr times workers well above 1, three workers learn as well as one; plain sums overshoot."""
    task = task_of(*rows, framework="dn", outer={"lr": 1.0}, inner={"lr": 0.02}, epochs=4, patience=4)

    def loss(combine: str, workers: int) -> float:
        found = on_cluster(task, tmp_path / f"{combine}-{workers}", workers=workers, combine=combine)
        return float(found.fitted.history[-1]["loss"])

    alone, bounded = loss("bounded", 1), loss("bounded", 3)
    assert bounded < alone + 0.05
    assert loss("sum", 3) > bounded
