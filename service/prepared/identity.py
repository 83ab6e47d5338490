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

SCHEMA = 1
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


def digest_of_code() -> str:
    """Digest of all sources that decide what is accepted and what it folds into; another release begins afresh."""
    sources = sorted(Path(inspect.getfile(folding)).parent.glob("*.py"))
    content = [path.read_bytes() for path in (*sources, Path(inspect.getfile(overlay)))]
    return digest(canonical_json([digest(each) for each in content]))
