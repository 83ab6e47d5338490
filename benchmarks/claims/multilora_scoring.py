"""What an id overlay costs while scoring: the same adapter with and without it, lookups included."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import Backbone as Bundle
from adapters_store.folding import fold_adapter
from adapters_store.overlays import read_overlay
from service.engine import Segment
from service.engines.chosen import Engines
from service.tables import FeatureTables

ROUNDS, BATCH = 15, 8


def overlay_speed(bundle: Bundle, content: bytes, requests: Sequence[tuple[str, Sequence[str]]]) -> float:
    """Rows/s of an adapter over those of the same without its overlay; median of alternating rounds, one thread.

    The native engine where it is built, else the portable one.

    Args:
        bundle: the backbone.
        content: the adapter's file, with an overlay.
        requests: users, each with items.
    """
    engine = Engines(lambda name, why: None).make("native", bundle, threads=1, rows_per_run=1024)
    tables, adapter = FeatureTables(bundle), decode_adapter(content)
    overlay, domain = read_overlay(bundle, adapter), adapter.manifest.domain
    assert overlay is not None
    plain = engine.prepare(fold_adapter(bundle, adapter, {}, None, ()))
    own = engine.prepare(fold_adapter(bundle, adapter, {}, None, (), overlay=overlay))

    def without() -> None:
        for batch in _batches(requests):
            engine.run([Segment(tables.encode(u, i, domain, None).rows, plain, engine) for u, i in batch])

    def with_overlay() -> None:
        for batch in _batches(requests):
            rows = [tables.encode(u, i, domain, None).overlaid_by(overlay).rows for u, i in batch]
            engine.run([Segment(each, own, engine) for each in rows])

    without()
    with_overlay()
    return statistics.median(_seconds(without) / _seconds(with_overlay) for _ in range(ROUNDS))


def _batches(requests: Sequence[tuple[str, Sequence[str]]]) -> list[Sequence[tuple[str, Sequence[str]]]]:
    return [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]


def _seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
