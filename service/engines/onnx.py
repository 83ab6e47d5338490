"""The portable engine: the bundle's `scoring.onnx` in ONNX Runtime on the CPU, and `scoring_dense.onnx` for deltas."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from adapters_store.backbone import Backbone
from adapters_store.canonical import digest
from adapters_store.dense import DENSE_GRAPH
from adapters_store.folding import Folded
from features.lookup import EmbeddingLookup, OwnVectors
from features.rows import EncodedRows
from service.engine import EngineForm, Segment
from service.engines.graph import check_graph
from service.errors import EngineFailed

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class OnnxPrepared:
    """Graph inputs of one combination.

    Args:
        session: of the graph that takes these inputs.
        feeds: its input -> float32 array; arrays may be shared with other combinations, or with the backbone.
        slope: calibrated logit = slope * logit + intercept.
        intercept: see slope.
        nbytes: of the arrays.
        own: what the domain changes of its rows' vectors; None for most.
    """

    session: onnxruntime.InferenceSession
    feeds: dict[str, NDArray[np.float32]]
    slope: float
    intercept: float
    nbytes: int
    own: OwnVectors | None = None


class OnnxEngine:
    """Scores with one ONNX Runtime session, and one more for deltas where the bundle has their graph.

    Adapters are inputs of each run.

    Args:
        backbone: the bundle whose graph and embeddings are used.
        threads: threads inside one run.
        rows_per_run: rows of one run at most, so that activations stay in the cache and memory is bounded.

    Raises:
        EngineFailed: the graph is not what a bundle's may be, or ONNX Runtime does not accept it.
    """

    name = "onnx"

    def __init__(self, backbone: Backbone, threads: int = 1, rows_per_run: int = 1024) -> None:
        self._session = _session(backbone, "scoring.onnx", threads)
        self._dense = _session(backbone, DENSE_GRAPH, threads) if DENSE_GRAPH in backbone.files else None
        self._lookup = EmbeddingLookup(backbone.manifest.fields, backbone.weights)
        self._rows_per_run = rows_per_run
        build = f"onnxruntime {onnxruntime.__version__} {digest(backbone.file('scoring.onnx'))}"
        self._form = EngineForm(self.name, "fp32", platform.machine(), build, in_place=True)

    @property
    def form(self) -> EngineForm:
        """ONNX Runtime's version and the graph; what it prepares are the fold's own arrays."""
        return self._form

    def prepare(self, folded: Folded) -> OnnxPrepared:
        """Name a fold's arrays as the graph names its inputs; nothing is copied.

        Raises:
            EngineFailed: it is a delta, and the bundle that this engine was made from has no graph for deltas.
        """
        own = self._own_vectors(folded)
        if folded.delta is not None:
            if self._dense is None:
                raise EngineFailed(
                    f"the bundle that this engine was made from has no {DENSE_GRAPH}, by which kind 'delta' is scored: "
                    "restart the replica on a bundle that has it"
                )
            return OnnxPrepared(self._dense, folded.delta.weights, folded.slope, folded.intercept, folded.nbytes, own)
        feeds = {
            f"{module}.{name}": array
            for module, parts in folded.modules.items()
            for name, array in parts.arrays().items()
        }
        return OnnxPrepared(self._session, feeds, folded.slope, folded.intercept, folded.nbytes, own)

    def run(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """Score segments; those of the same prepared combination share a run.

        Raises:
            EngineFailed: ONNX Runtime failed.
        """
        groups: dict[int, list[int]] = {}
        for position, segment in enumerate(segments):
            groups.setdefault(id(segment.prepared), []).append(position)
        order = [position for group in groups.values() for position in group]
        vectors = self._lookup.vectors(EncodedRows.concatenate([segments[position].rows for position in order]))
        logits: list[NDArray[np.float64]] = [np.empty(0)] * len(segments)
        start = 0
        for group in groups.values():
            prepared: OnnxPrepared = segments[group[0]].prepared
            sizes = [segments[position].rows.n for position in group]
            stop = start + sum(sizes)
            if prepared.own is not None:
                _change(vectors, start, [segments[position].rows for position in group], prepared.own)
            raw = self._run(_rows(vectors, start, stop), prepared, stop - start)
            with np.errstate(over="ignore", invalid="ignore"):  # the scorer looks for what is not finite
                calibrated = prepared.slope * raw + prepared.intercept
            for position, own in zip(group, np.split(calibrated, np.cumsum(sizes[:-1])), strict=True):
                logits[position] = own
            start = stop
        return logits

    def logits(self, rows: EncodedRows, folded: Folded) -> NDArray[np.float64]:
        """Logits before calibration, float64 (n,).

        Raises:
            EngineFailed: ONNX Runtime failed.
        """
        prepared, vectors = self.prepare(folded), self._lookup.vectors(rows)
        if prepared.own is not None:
            prepared.own.apply(vectors, rows)
        return self._run(vectors, prepared, rows.n)

    def _own_vectors(self, folded: Folded) -> OwnVectors | None:
        deltas = {} if folded.delta is None else folded.delta.tables
        if not deltas and folded.overlay is None:
            return None
        return self._lookup.own_vectors(deltas, folded.overlay)

    def _run(self, vectors: Vectors, prepared: OnnxPrepared, n: int) -> NDArray[np.float64]:
        """One run for each `rows_per_run` rows; raw logits, float64 (n,)."""
        logits = np.empty(n)
        try:
            for start, stop in self._spans(n):
                part = _rows(vectors, start, stop)
                (logits[start:stop],) = prepared.session.run(["logit"], {**part, **prepared.feeds})
        except Exception as error:  # the runtime's own exceptions share no base below this
            raise EngineFailed(f"ONNX Runtime failed on {n} rows: {error}") from error
        return logits

    def _spans(self, n: int) -> Iterator[tuple[int, int]]:
        for start in range(0, n, self._rows_per_run):
            yield start, min(n, start + self._rows_per_run)


def _session(backbone: Backbone, name: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # a spinning worker would take the other core from the event loop
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = backbone.file(name)
    check_graph(graph, name)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no base below this
        raise EngineFailed(f"{name} is not accepted by ONNX Runtime: {error}") from error


def _change(vectors: Vectors, start: int, parts: Sequence[EncodedRows], own: OwnVectors) -> None:
    """Change the vectors of the rows that one adapter scores, which lie side by side from `start`."""
    for rows in parts:
        own.apply(_rows(vectors, start, start + rows.n), rows)
        start += rows.n


def _rows(vectors: Vectors, start: int, stop: int) -> dict[str, Any]:
    return {name: array[start:stop] for name, array in vectors.items()}
