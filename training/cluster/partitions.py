"""The encoded rows as parquet, one file a domain, so that a worker reads its own domains and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters_store.durable import write_durably
from network.inputs import Batch
from training.cluster.errors import PartitionError
from training.dataset import EncodedDataset
from training.frameworks.domains import DomainRows

PARTS = ("train", "stop", "gate", "test")
SUMMARY = "partitions.json"


@dataclass(frozen=True)
class Partition:
    """The rows of one domain, or of several side by side, in the order of the data set.

    Args:
        sparse: int32 (n, Fs), rows of each field's vocabulary.
        dense: float32 (n, Fd).
        lists: multi-hot field -> int32 (n, L), padded with -1.
        label: float32 (n,).
        row: int64 (n,), position of each row in the data set.
        part: int8 (n,), position in `PARTS`.
    """

    sparse: Tensor
    dense: Tensor
    lists: Mapping[str, Tensor]
    label: Tensor
    row: Tensor
    part: Tensor

    def batch(self, rows: Tensor) -> Batch:
        """Return the encoded rows at these positions (n,) int64."""
        lists = {name: values.index_select(0, rows) for name, values in self.lists.items()}
        return Batch(self.sparse.index_select(0, rows), self.dense.index_select(0, rows), lists)

    def of(self, part: str) -> Tensor:
        """Return the positions (n,) int64 of the rows of one part of the split, in order."""
        return torch.nonzero(self.part == PARTS.index(part)).flatten()


@dataclass(frozen=True)
class PartitionFolder:
    """Partitions of one data set.

    Args:
        folder: holds `domain=<position>/rows.parquet` and, written last, the summary.
        fields: (name, kind) of the network's fields, in their order.
        domains: ids of the natural domains, in the order of their positions.
    """

    folder: Path
    fields: tuple[tuple[str, str], ...]
    domains: tuple[str, ...]

    def write(self, dataset: EncodedDataset, domains: DomainRows, identity: Mapping[str, Any]) -> None:
        """Write every domain, unless the folder already holds the same.

        Args:
            dataset: all rows.
            domains: whose they are and what they serve; rows of none are left out.
            identity: what the encoded rows depend on, as JSON values.

        Raises:
            PartitionError: the folder cannot be written.
        """
        summary = {"identity": dict(identity), "fields": [list(f) for f in self.fields], "domains": list(self.domains)}
        if self._summary() == json.loads(json.dumps(summary)):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / SUMMARY).unlink(missing_ok=True)
            for position in range(len(self.domains)):
                rows, part = _rows_of(domains, position)
                path = self._path(position)
                path.parent.mkdir(exist_ok=True)
                self._frame(dataset, rows, part).write_parquet(path)
            write_durably(self.folder / SUMMARY, json.dumps(summary).encode())
        except OSError as error:
            raise PartitionError(f"cannot write partitions to {self.folder}: {error.strerror}") from None

    def read(self, domain: int, parts: tuple[str, ...] = PARTS) -> Partition:
        """Read one domain.

        Args:
            domain: its position.
            parts: of the split, those rows only.

        Raises:
            PartitionError: the file is missing or unreadable.
        """
        path = self._path(domain)
        try:
            frame = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise PartitionError(
                f"{path} cannot be read ({error}): the run folder must lie where every worker sees it; "
                f"delete {self.folder} to have the partitions written again"
            ) from None
        return self._partition(frame.filter(pl.col("part").is_in([PARTS.index(part) for part in parts])))

    def _path(self, position: int) -> Path:
        return self.folder / f"domain={position}" / "rows.parquet"

    def _summary(self) -> Any:
        try:
            return json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _frame(self, dataset: EncodedDataset, rows: NDArray[np.int64], part: NDArray[np.int8]) -> pl.DataFrame:
        columns: dict[str, Any] = {"row": rows, "part": part, "label": dataset.label[rows]}
        columns |= {f"sparse.{i}": column for i, column in enumerate(dataset.sparse[rows].T)}
        columns |= {f"dense.{i}": column for i, column in enumerate(dataset.dense[rows].T)}
        for name, (lists, entity) in dataset.multi_hot.items():
            # the padding stays: a mean over lists of another width would add up in another order
            padded = lists[entity[rows]]
            columns[f"list.{name}"] = pl.Series(padded, dtype=pl.Array(pl.Int32, padded.shape[1]))
        return pl.DataFrame(columns)

    def _partition(self, frame: pl.DataFrame) -> Partition:
        def stacked(kind: str, dtype: type[Any]) -> Tensor:
            count = sum(1 for _, of in self.fields if of == kind)
            columns = [frame[f"{kind}.{i}"].to_numpy() for i in range(count)]
            found = np.empty((len(frame), count), dtype)
            for i, column in enumerate(columns):
                found[:, i] = column
            return torch.from_numpy(found)

        return Partition(
            sparse=stacked("sparse", np.int32),
            dense=stacked("dense", np.float32),
            lists={
                name: torch.tensor(frame[f"list.{name}"].to_numpy())
                for name, kind in self.fields
                if kind == "multi_hot"
            },
            label=torch.tensor(frame["label"].to_numpy()),
            row=torch.tensor(frame["row"].to_numpy()),
            part=torch.tensor(frame["part"].to_numpy()),
        )


def _rows_of(domains: DomainRows, domain: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """A domain's rows in the order of the data set, and the part of the split that each belongs to."""
    parts = [getattr(domains, name)[domain].numpy() for name in PARTS]
    rows = np.concatenate(parts)
    part = np.repeat(np.arange(len(PARTS), dtype=np.int8), [len(own) for own in parts])
    order = np.argsort(rows)
    return rows[order], part[order]
