"""RUN/state: what a run has learned so far, one file for each piece of training, replaced atomically.

A file is a tensor file of `adapters_store` with a JSON record: nothing is pickled. A kill leaves the old file or
the new one, never a part of one.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters_store.durable import TEMPORARY, write_durably
from adapters_store.errors import StoreError
from adapters_store.tensors import TensorLimits, read_tensors, write_tensors
from training.errors import RunExists, StateMismatch

Record = dict[str, Any]

_SUFFIX = ".safetensors"
_LOCK = ".lock"
OWN_LIMITS = TensorLimits(bytes=2**44, tensors=2**24, header_bytes=2**32)
"""Of files that our own trainings wrote: tens of thousands of domains have tens of tensors each."""


@dataclass(frozen=True)
class Saved:
    """One file of the state.

    Args:
        tensors: by name.
        record: JSON values.
    """

    tensors: dict[str, Tensor]
    record: Record


class StateFolder:
    """The state of one run.

    Args:
        folder: RUN/state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, tensors: Mapping[str, Tensor], record: Record) -> None:
        """Put a file in place of the one of this name."""
        content = write_tensors({key: value.detach().numpy() for key, value in tensors.items()}, record)
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)

    def read(self, name: str) -> Saved | None:
        """Read a file; None if there is none.

        Raises:
            StateMismatch: it is not a file that this class wrote.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            found = read_tensors(path, OWN_LIMITS)
        except StoreError as error:
            raise StateMismatch(
                f"{path} cannot be read ({error}): delete it, and --resume trains this part again"
            ) from None
        if not isinstance(found.metadata, dict):
            raise StateMismatch(f"{path} has no record: delete it, and --resume trains this part again")
        # copies: torch wants to own memory that it may write to
        return Saved({key: torch.tensor(value) for key, value in found.tensors.items()}, found.metadata)

    def holds(self, name: str) -> bool:
        """Whether there is a file, or a folder of files, of this name."""
        return self._path(name).exists() or (self.folder / name).is_dir()

    def empty(self) -> bool:
        """Whether nothing was ever saved here."""
        return all(path.name == _LOCK for path in self.folder.iterdir())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other training process out of this run while the block runs; a killed process keeps nobody out.

        Raises:
            RunExists: another process trains here now.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunExists(f"another process is training in {self.folder.parent}: wait for it to end") from None
            for left_over in self.folder.rglob(f"{TEMPORARY}*"):  # of a process that was killed while it wrote
                left_over.unlink()
            yield

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"


@dataclass(frozen=True)
class Memory:
    """One piece of training's place in the state, and the configuration that its content must come from.

    Args:
        state: the run's state.
        name: of the piece, such as `adapters/age-25`.
        identity: every setting that its result depends on, as JSON values.
    """

    state: StateFolder
    name: str
    identity: Record

    def save(self, tensors: Mapping[str, Tensor], record: Record) -> None:
        """Remember this instead of what was remembered before."""
        self.state.write(self.name, tensors, {**record, "identity": self.identity})

    def load(self) -> Saved | None:
        """Return what is remembered, None if nothing is.

        Raises:
            StateMismatch: it was written by another configuration or from other data.
        """
        saved = self.state.read(self.name)
        if saved is None:
            return None
        changes = differences(saved.record.get("identity", {}), self.identity)
        if changes:
            raise StateMismatch(
                f"{self.name} in {self.state.folder} was trained with other settings: {'; '.join(changes)}. "
                "Put the settings back, or train into another folder"
            )
        return saved


def differences(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name every key whose value differs, in full: `pretrain.lr was 0.001, is now 0.01`."""
    found: list[str] = []
    for key in sorted(was.keys() | now.keys()):
        old, new = was.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old}, is now {new}")
    return found
