"""New artifacts from trained ones: other domains, dyes, faults. The golden rows are the oracle's, not the engine's."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters_store.artifact import encode_adapter
from adapters_store.manifest import AdapterManifest
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile, Array, read_safetensors

Edit = Callable[[dict[str, Array], dict[str, Any]], None]


def digest(body: bytes) -> str:
    """The revision that these bytes are."""
    return hashlib.sha256(body).hexdigest()


@dataclass(frozen=True)
class Run:
    """The artifacts of one training run, as the oracle reads them."""

    folder: Path

    @property
    def oracle(self) -> Oracle:
        return Oracle(self.folder / "bundle")

    def fusion(self) -> AdapterFile | None:
        """The run's fusion, where it has one."""
        path = self.folder / "fusion.safetensors"
        return AdapterFile(path) if path.exists() else None

    def auxiliaries(self) -> dict[str, AdapterFile]:
        """Auxiliary adapters by domain."""
        files = [AdapterFile(path) for path in sorted((self.folder / "adapters").glob("*.safetensors"))]
        natural = self.natural_division
        return {f.manifest["domain"]: f for f in files if f.manifest["division"] != natural}

    @property
    def natural_division(self) -> str:
        return str(next(d["name"] for d in self.oracle.manifest["divisions"] if d["natural"]))

    @property
    def domains(self) -> list[str]:
        """Natural domains."""
        return list(next(d["domains"] for d in self.oracle.manifest["divisions"] if d["natural"]))

    def natural(self, mode: str | None = None) -> dict[str, Path]:
        """Files of natural adapters by domain: the published ones, or those of one mode."""
        folder = self.folder / "adapters" if mode is None else self.folder / "ablations" / mode
        paths = {path: read_safetensors(path)[1] for path in sorted(folder.glob("*.safetensors"))}
        return {m["domain"]: path for path, m in paths.items() if m["division"] == self.natural_division}


def pins_of(adapter: AdapterFile, auxiliaries: Mapping[str, AdapterFile]) -> dict[str, AdapterFile]:
    """Those auxiliaries that the adapter fuses."""
    return {domain: auxiliaries[domain] for domain in adapter.manifest.get("fuses") or {}}


def forge(
    source: bytes, edit: Edit, oracle: Oracle, auxiliaries: Mapping[str, AdapterFile], fusion: AdapterFile | None
) -> bytes:
    """A valid artifact made from `source` by `edit(tensors, manifest)`, with golden logits that fit it."""
    raw, manifest = read_safetensors(source)
    tensors, manifest = {name: np.array(value) for name, value in raw.items()}, copy.deepcopy(manifest)
    edit(tensors, manifest)
    draft = encode_adapter(AdapterManifest.model_validate(manifest), tensors)
    adapter = AdapterFile(draft)
    tensors["golden.logits"] = oracle.golden_logits(adapter, pins_of(adapter, auxiliaries), fusion)
    return encode_adapter(AdapterManifest.model_validate(manifest), tensors)
