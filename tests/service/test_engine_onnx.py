"""The onnx engine passes the contract, and refuses a graph that is none."""

from __future__ import annotations

import pytest

from adapters_store.backbone import Backbone, read_bundle
from benchmarks.forge import Run
from service.engine import Engine
from service.engines.onnx import OnnxEngine
from service.errors import EngineFailed
from tests.service.engine_contract import EngineContract


class TestOnnxEngine(EngineContract):
    """One ONNX Runtime session, adapters as inputs."""

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """One thread, as the service uses it."""
        return OnnxEngine(backbone, threads=1, rows_per_run=rows_per_run)


def test_a_graph_that_the_runtime_cannot_read_is_an_engine_error(random_run: Run) -> None:
    """ONNX Runtime's own exceptions stay inside the engine's file."""
    backbone = read_bundle(random_run.folder / "bundle")
    for content, refused in ((b"no graph", "is no ONNX file"), (b"", "is not accepted")):
        backbone.files["scoring.onnx"] = content
        with pytest.raises(EngineFailed, match=rf"scoring\.onnx {refused}"):
            OnnxEngine(backbone)
