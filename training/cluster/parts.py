"""Files of a checkpoint: one for each shard and each worker, named by content, and the manifest that names them all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters_store.canonical import digest
from adapters_store.durable import write_durably
from adapters_store.errors import StoreError
from adapters_store.tensors import read_tensors, write_tensors
from training.checkpoint import OWN_LIMITS
from training.errors import StateMismatch

Record = dict[str, Any]

MANIFEST = "cluster.json"


@dataclass(frozen=True)
class Part:
    """A file of tensors.

    Args:
        name: relative to the folder of parts.
        sha256: of its bytes.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class PartFolder:
    """Where shards and workers leave their parts; every machine of the cluster must see it.

    Args:
        folder: RUN/state/cluster.
    """

    folder: Path

    def write(self, owner: str, tensors: Mapping[str, Tensor]) -> Part:
        """Write a part; its name holds its digest, so no later part ever takes its place.

        Args:
            owner: such as `shard-0`.
            tensors: by name.
        """
        content = write_tensors({name: value.detach().numpy() for name, value in tensors.items()}, {"owner": owner})
        sha256 = digest(content)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / f"{owner}-{sha256[:16]}.safetensors", content)
        return Part(f"{owner}-{sha256[:16]}.safetensors", sha256)

    def read(self, part: Part) -> dict[str, Tensor]:
        """Read a part.

        Raises:
            StateMismatch: it is missing, or its bytes are not those that were written.
        """
        path = self.folder / part.name
        try:
            whole = digest(path.read_bytes()) == part.sha256
            found = read_tensors(path, OWN_LIMITS) if whole else None
        except (OSError, StoreError) as error:
            raise StateMismatch(f"{path} cannot be read ({error}); train into another folder") from None
        if found is None:
            raise StateMismatch(f"{path} is not what was written there; train into another folder")
        return {name: torch.tensor(value) for name, value in found.tensors.items()}

    def write_aucs(self, epoch: int, aucs: Sequence[float | None]) -> Part:
        """Write what each domain came to in an epoch; None is a domain of one class only."""
        known = torch.tensor([value is not None for value in aucs], dtype=torch.uint8)
        values = torch.tensor([0.0 if value is None else value for value in aucs], dtype=torch.float64)
        return self.write(f"judged-{epoch}", {"known": known, "aucs": values})

    def read_aucs(self, part: Part) -> list[float | None]:
        """Read what `write_aucs` wrote.

        Raises:
            StateMismatch: as `read`.
        """
        found = self.read(part)
        pairs = zip(found["known"].tolist(), found["aucs"].tolist(), strict=True)
        return [float(value) if known else None for known, value in pairs]

    def drop(self, parts: Iterable[Part]) -> None:
        """Delete these parts, which no manifest names any more."""
        for part in parts:
            (self.folder / part.name).unlink(missing_ok=True)

    def keep(self, parts: Iterable[Part]) -> None:
        """Delete every part but these; only while nobody writes, for a part is there before it is named."""
        names = {part.name for part in parts}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in names:
                path.unlink(missing_ok=True)


def write_manifest(path: Path, record: Mapping[str, Any]) -> None:
    """Put a manifest in place of the one before; whoever reads sees either, never a part of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(record, separators=(",", ":")).encode())


def read_manifest(path: Path) -> Record | None:
    """Return the manifest; None if there is none.

    Raises:
        StateMismatch: it is not a manifest.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateMismatch(f"{path} cannot be read ({error}); train into another folder") from None
    if not isinstance(found, dict):
        raise StateMismatch(f"{path} is no manifest; train into another folder")
    return found


def part_record(part: Part) -> Record:
    """Return a part as JSON values; `Part(**record)` takes them back."""
    return asdict(part)
