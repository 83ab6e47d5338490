"""One backbone as it serves: its bundle, its engine, itself prepared, and the feature tables of its vocabulary."""

from __future__ import annotations

from adapters_store.backbone import Backbone
from adapters_store.verification import verify_backbone
from service.engine import Engine, Prepared
from service.tables import CurrentTables, FeatureTables


class Serving:
    """Everything that belongs to one fingerprint. Whoever scores by it holds a reference to the last row.

    Its bundle may be replaced by another of the same fingerprint: weights, fields and vocabulary are the same then, so
    the engine and all adapters that it prepared stay. The calibration may be another.

    Args:
        backbone: verified with the engine.
        engine: of these weights.
        prepared: the backbone itself, by that engine.
        tables: swapped as the store's records move.
    """

    __slots__ = ("backbone", "engine", "prepared", "tables", "wanted")

    def __init__(self, backbone: Backbone, engine: Engine, prepared: Prepared, tables: CurrentTables) -> None:
        self.backbone = backbone
        self.engine = engine
        self.prepared = prepared
        self.tables = tables
        self.wanted = True  # asked for since this was last set to False

    @property
    def fingerprint(self) -> str:
        """Of its weights, vocabulary and fields."""
        return self.backbone.fingerprint

    @property
    def revision(self) -> str:
        """Of its bundle."""
        return self.backbone.revision

    def take(self, fresh: Serving) -> None:
        """Go on with another bundle of the same fingerprint, and its tables; what runs keeps what it took."""
        self.backbone = fresh.backbone
        self.prepared = fresh.prepared
        self.tables.swap(fresh.tables.current)


def verified_serving(backbone: Backbone, engine: Engine) -> Serving:
    """A backbone ready to serve; takes seconds for a large one.

    Raises:
        adapters_store.errors.ArtifactError: the bundle is refused, or the engine does not reproduce it.
        service.errors.EngineFailed: the engine failed.
        features.errors.FeatureError: its tables cannot be read.
    """
    folded = verify_backbone(backbone, engine.logits)
    return Serving(backbone, engine, engine.prepare(folded), CurrentTables(FeatureTables(backbone)))
