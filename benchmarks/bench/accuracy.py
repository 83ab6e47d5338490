"""What bfloat16 moves on labelled rows of a run: its AUC against that of float32, both by the native engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.artifact import decode_adapter, decode_fusion
from adapters_store.backbone import Backbone, read_bundle
from adapters_store.folding import Combination
from adapters_store.verification import verify_adapter
from benchmarks.bench.contender import PeerAbsent
from benchmarks.forge import Run
from service.engine import Segment
from service.engines.native import EngineAbsent, NativeEngine
from service.tables import FeatureTables
from training.metrics import auc

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """n rows whose outcome is known.

    Args:
        users: raw ids.
        items: raw ids.
        domains: natural ones.
        labels: 0 or 1.
    """

    users: Sequence[Any]
    items: Sequence[Any]
    domains: Sequence[str]
    labels: NDArray[Any]


@dataclass(frozen=True)
class Moved:
    """What bfloat16 does to a run's scores.

    Args:
        rows: how many.
        exact: AUC in float32.
        half: AUC in bfloat16.
        farthest: largest distance of a probability.
        isa: that bfloat16 was computed by.
    """

    rows: int
    exact: float
    half: float
    farthest: float
    isa: str

    @property
    def distance(self) -> float:
        """Of the AUCs."""
        return abs(self.half - self.exact)


def moved(run: Run, rows: Labelled) -> Moved:
    """Score the rows in both precisions.

    Raises:
        PeerAbsent: the native engine or bfloat16 is missing here.
    """
    backbone = read_bundle(run.folder / "bundle")
    try:
        fp32, bf16 = NativeEngine(backbone), NativeEngine(backbone, precision="bf16")
    except EngineAbsent as absent:
        raise PeerAbsent(str(absent)) from absent
    exact, half = (_scores(run, backbone, engine, rows) for engine in (fp32, bf16))
    aucs = [auc(rows.labels, found) for found in (exact, half)]
    first, second = (float("nan") if one is None else one for one in aucs)
    return Moved(len(rows.labels), first, second, float(np.abs(exact - half).max()), bf16.isa)


def _scores(run: Run, backbone: Backbone, engine: NativeEngine, rows: Labelled) -> Floats:
    """Probabilities in the order of the rows, a user and domain at a time."""
    tables = FeatureTables(backbone)
    found = np.full(len(rows.labels), np.nan)
    together: dict[tuple[str, Any], list[int]] = {}
    for i, key in enumerate(zip(rows.domains, rows.users, strict=True)):
        together.setdefault(key, []).append(i)
    prepared = {name: _prepared(run, backbone, engine, name) for name in dict.fromkeys(rows.domains)}
    for (name, user), positions in together.items():
        divisions, combinations = prepared[name]
        encoded = tables.encode(user, [rows.items[i] for i in positions], name, {})
        for part in tables.parts(encoded, divisions):
            chosen = np.arange(len(positions)) if part.positions is None else part.positions
            segment = Segment(encoded.rows.take(chosen), combinations[part.combination], engine)
            found[np.asarray(positions)[chosen]] = 1.0 / (1.0 + np.exp(-engine.run([segment])[0]))
    return found


def _prepared(
    run: Run, backbone: Backbone, engine: NativeEngine, name: str
) -> tuple[Sequence[str], dict[Combination, Any]]:
    """A domain's auxiliary divisions, and its combinations as the service prepares them."""
    adapter = decode_adapter(run.natural()[name].read_bytes())
    folder = run.folder / "adapters"
    pins = {pin: decode_adapter((folder / f"{pin}.safetensors").read_bytes()) for pin in adapter.manifest.fuses}
    path = run.folder / "fusion.safetensors"
    fusion = decode_fusion(path.read_bytes()) if adapter.manifest.fusion is not None else None
    # bfloat16's distance is what is measured here, so it refuses nothing
    folds = verify_adapter(adapter, backbone, pins, fusion, NativeEngine(backbone).logits)
    return tuple(adapter.manifest.auxiliary), {c: engine.prepare(fold) for c, fold in folds.items()}
