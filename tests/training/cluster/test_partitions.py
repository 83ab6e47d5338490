"""Laws of the rows that workers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from network.embeddings import FieldEmbeddings
from tests.training.cluster.tasks import Task, task_of
from training.batches import RowTensors
from training.cluster.errors import PartitionError
from training.cluster.local import LocalView
from training.cluster.partitions import PartitionFolder
from training.cluster.scene import PartitionRows
from training.dataset import EncodedDataset, Split

Encoded = tuple[EncodedDataset, Split]


@pytest.fixture(scope="module")
def task(rows: Encoded) -> Task:
    """The small task."""
    return task_of(*rows)


@pytest.fixture
def folder(rows: Encoded, task: Task, tmp_path: Path) -> PartitionFolder:
    """The small task's partitions."""
    shape = task.setting.structure.embeddings.shape
    made = PartitionFolder(tmp_path, tuple((f.name, f.kind) for f in shape.fields), task.setting.domains.names)
    made.write(rows[0], task.setting.domains, {"data": "a"})
    return made


def test_a_partition_holds_its_domains_rows_in_their_order(rows: Encoded, task: Task, folder: PartitionFolder) -> None:
    """Law: what a worker reads of a domain is what one process has of it: values, labels, order, part of the split."""
    whole, domains = RowTensors(rows[0]), task.setting.domains
    for domain in range(len(domains)):
        found = folder.read(domain)
        for part in ("train", "stop", "gate", "test"):
            positions = getattr(domains, part)[domain]
            assert torch.equal(found.row[found.of(part)], positions)
            mine, theirs = found.batch(found.of(part)), whole.batch(positions)
            assert torch.equal(mine.sparse, theirs.sparse)
            assert torch.equal(mine.dense, theirs.dense)
            assert mine.multi_hot.keys() == theirs.multi_hot.keys()
            assert all(torch.equal(values, theirs.multi_hot[name]) for name, values in mine.multi_hot.items())
            assert torch.equal(found.label[found.of(part)], whole.label[positions])


def test_training_rows_alone_can_be_read(folder: PartitionFolder) -> None:
    """Law: a helper domain gives its training rows, no others, in the same order."""
    everything, train = folder.read(1), folder.read(1, ("train",))
    assert torch.equal(train.row, everything.row[everything.of("train")])


def test_partitions_are_written_again_only_for_other_data(rows: Encoded, task: Task, folder: PartitionFolder) -> None:
    """Law: the same data leaves the files alone; other data replaces them."""
    path = folder.folder / "domain=0" / "rows.parquet"
    before = path.stat().st_mtime_ns
    folder.write(rows[0], task.setting.domains, {"data": "a"})
    assert path.stat().st_mtime_ns == before
    folder.write(rows[0], task.setting.domains, {"data": "b"})
    assert path.stat().st_mtime_ns > before


def test_a_partition_that_is_not_there_is_named(folder: PartitionFolder) -> None:
    """Law: a worker that cannot read a domain says which file, and what to do."""
    (folder.folder / "domain=2" / "rows.parquet").write_bytes(b"cut")
    with pytest.raises(PartitionError, match=r"domain=2.*where every worker sees it"):
        folder.read(2)


def test_the_small_table_gives_the_same_vectors_bit_for_bit(rows: Encoded, task: Task, folder: PartitionFolder) -> None:
    """Law: some domains' rows through their own part of the table are the same inputs, lists and padding included."""
    shape = task.setting.structure.embeddings.shape
    partitions = {domain: folder.read(domain) for domain in (0, 2)}
    view = LocalView.of(shape, list(partitions.values()))
    small, large = FieldEmbeddings(view.shape), task.setting.structure.embeddings
    small.table.data.copy_(large.table.data[torch.from_numpy(view.ids)])
    mine = PartitionRows({domain: view.localized(part) for domain, part in partitions.items()})
    positions = torch.cat([part.row for part in partitions.values()])
    everything = torch.arange(len(positions))
    assert len(view.ids) < len(large.table)
    assert torch.equal(small(mine.batch(everything)), large(RowTensors(rows[0]).batch(positions)))
    assert torch.equal(mine.label, RowTensors(rows[0]).label[positions])
    np.testing.assert_array_equal(view.places(view.ids), np.arange(len(view.ids)))
    starts = np.array(list(large.starts.values()))
    np.testing.assert_array_equal(view.ids[view.padding], starts)
