"""Where the rows of a data set are laid out as arrays: in memory, or in files that memory maps."""

from __future__ import annotations

import os
import tempfile
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from training.errors import PreparedError

RowsIn = Literal["memory", "disk"]


class Arrays(Protocol):
    """Makes arrays as large as the data has rows."""

    def new(self, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
        """Return an array of any content.

        Raises:
            PreparedError: there is no room for it.
        """
        ...


class InMemory:
    """Arrays as numpy makes them."""

    def new(self, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
        """Return an array; see `Arrays.new`."""
        return np.empty(shape, dtype)


class OnDisk:
    """Arrays in files without a name, which are gone with the last array of them, however the process ends.

    Their pages are the system's cache, which it writes out and takes back where memory is short.

    Args:
        folder: on whose disk; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
        """Return an array whose room on the disk is taken now, so that a full disk is an error here and not later.

        Raises:
            PreparedError: the disk has no room for it, or the folder takes no files.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return np.empty(shape, dtype)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)
                mapped = np.memmap(file, dtype, "r+", shape=shape)  # holds a descriptor of its own
        except OSError as error:
            raise PreparedError(
                f"cannot lay {size / 2**20:,.0f} MiB of encoded rows out in {self._folder}: {error.strerror}; "
                "choose another --out, or set rows: memory"
            ) from None
        return mapped.view(np.ndarray)  # slices of the subclass cost more


def arrays_in(where: RowsIn, folder: Path) -> Arrays:
    """Return what lays rows out.

    Args:
        where: as a configuration has it.
        folder: for files.
    """
    return OnDisk(folder) if where == "disk" else InMemory()
