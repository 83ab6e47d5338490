"""Which engine a replica scores with: the configured one, or `onnx` where that cannot run, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from adapters_store.backbone import Backbone
from service.engine import Engine
from service.engines.native import EngineAbsent, NativeEngine
from service.engines.onnx import OnnxEngine

EngineName = Literal["onnx", "native"]


class Engines:
    """Makes the engine of each backbone.

    Args:
        told: called once, with the reason, when the native engine is asked for and cannot run; the portable one, which
            every machine has, serves then.
    """

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._silent = False

    def make(
        self, name: EngineName, backbone: Backbone, *, threads: int, rows_per_run: int, cpus: Sequence[int] = ()
    ) -> Engine:
        """An engine for a bundle.

        Args:
            name: the one to use where it can run.
            backbone: the bundle.
            threads: inside one run.
            rows_per_run: of the portable engine.
            cpus: cores that the native engine's threads beside the caller's are bound to.

        Raises:
            EngineFailed: the bundle's graph is refused.
        """
        portable = OnnxEngine(backbone, threads, rows_per_run)
        if name == "onnx":
            return portable
        try:
            return NativeEngine(backbone, threads, cpus=cpus, dense=portable)
        except EngineAbsent as absent:
            if not self._silent:
                self._silent = True
                self._told(str(absent))
            return portable
