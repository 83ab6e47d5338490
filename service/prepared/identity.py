"""What a prepared blob is of: everything that its content, and the right to use it unverified, depends on."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters_store import folding
from adapters_store.canonical import canonical_json, digest
from adapters_store.tensors import TensorLimits
from features import overlay
from service.engine import EngineForm

SCHEMA = 2
"""Of the blob's own layout."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One adapter as one engine accepted it. The adapter's revision pins its fusion and its auxiliary adapters.

    Args:
        domain: that it was asked for.
        revision: of the adapter.
        bundle: revision of the backbone that it was verified with; a fingerprint says nothing of divisions.
        fingerprint: of that backbone.
        form: of the engine that reproduced its golden rows.
        limits: that it was held to.
        code: digest of the sources that verify and fold.
    """

    domain: str
    revision: str
    bundle: str
    fingerprint: str
    form: EngineForm
    limits: TensorLimits
    code: str

    def written(self) -> dict[str, object]:
        """As JSON."""
        return {"schema": SCHEMA, **asdict(self)}

    @property
    def key(self) -> str:
        """Of the record in the disk cache that names the blob."""
        return f"prepared/{digest(canonical_json(self.written()))}"


def sources() -> list[Path]:
    """All sources that decide what is accepted, what it becomes and how that is read back.

    That is whatever is verified by (`adapters_store`, the engines), found by (`features`: an overlay's index is kept
    with the hash that it was made by) and kept by (this package).
    """
    here = Path(__file__).parent
    beside = [Path(inspect.getfile(module)).parent for module in (folding, overlay)]
    folders = (*beside, here.parent / "engines", here)
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def digest_of_code() -> str:
    """Digest of those sources: another release begins afresh."""
    return digest(canonical_json([digest(path.read_bytes()) for path in sources()]))
