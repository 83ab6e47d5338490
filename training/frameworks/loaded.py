"""A prepared data set as a run reads it: split and encoded. Nothing that trains changes it, so runs may share one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.arrays import arrays_in
from training.batches import RowTensors
from training.dataset import EncodedDataset, Split, encode, split_of
from training.errors import ConfigError
from training.frameworks.config import MamdrConfig
from training.frameworks.domains import DomainRows
from training.prepared import Prepared, prepared_in
from training.stages import folder_digest


@dataclass(frozen=True)
class Loaded:
    """The rows of one data set, for every configuration that asks for the same ones.

    Args:
        asked: what of a configuration decides them (`decisive`).
        digest: of the prepared folder.
        split: of all rows.
        dataset: encoded by the training rows that anything may be learned from.
        rows: the same as tensors.
        domains: which rows belong to which natural domain, those that are left out among them.
    """

    asked: tuple[Path, int, int, tuple[str, ...]]
    digest: str
    split: Split
    dataset: EncodedDataset
    rows: RowTensors
    domains: DomainRows

    @classmethod
    def of(cls, config: MamdrConfig, folder: Path) -> Loaded:
        """Read, split and encode the data that a configuration names.

        Args:
            config: names the data.
            folder: on whose disk encoded rows lie where the configuration has them there.

        Raises:
            ConfigError: it names none, or leaves every domain out.
            PreparedError: the folder is no prepared data, or a column does not fit its field.
        """
        asked = decisive(config)
        prepared = prepared_in(config.rows, asked[0])
        split = split_of(prepared, config.seed)
        learned, arrays = learned_from(prepared, split, config.left_out), arrays_in(config.rows, folder)
        dataset = encode(prepared, learned, config.network.width, arrays)
        rows = RowTensors(dataset, arrays)
        return cls(asked, folder_digest(asked[0]), split, dataset, rows, DomainRows.of(rows, split))


def decisive(config: MamdrConfig) -> tuple[Path, int, int, tuple[str, ...]]:
    """Return what of a configuration decides which rows there are and how they are encoded.

    Raises:
        ConfigError: it names no data.
    """
    if config.data is None:
        raise ConfigError(
            "no data: set `data` in the configuration, or give --data DIR (`espalier data prepare` makes it)"
        )
    return config.data, config.seed, config.network.width, config.left_out


def learned_from(prepared: Prepared, split: Split, left_out: Collection[str]) -> NDArray[np.int64]:
    """Return the training rows (n,) that anything is fitted on, the constants of the encoding too.

    Args:
        prepared: the data set.
        split: of its rows.
        left_out: natural domains whose rows are not among them.

    Raises:
        ConfigError: no row is left.
    """
    if not left_out:
        return split.train
    left = np.zeros(len(prepared.rows), np.bool_)
    for start, part in prepared.rows.parts("domain_id"):
        left[start : start + len(part)] = part["domain_id"].cast(pl.String).is_in(list(left_out)).to_numpy()
    rows: NDArray[np.int64] = split.train[~left[split.train]]
    if len(rows) == 0:
        raise ConfigError("left_out names every domain that has training rows: leave one to learn theta_S from")
    return rows
