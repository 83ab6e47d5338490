"""Which engine a replica scores with: the configured one, or `onnx` where that cannot run, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from adapters_store.backbone import Backbone
from service.engine import Engine
from service.engines.native import FP32, EngineAbsent, NativeEngine, Precision
from service.engines.onnx import OnnxEngine
from service.engines.torch_engine import TorchEngine

EngineName = Literal["onnx", "native", "torch"]
"""What the setting may say."""


class Engines:
    """Makes the engine of each backbone.

    Args:
        told: called once, with what serves instead and the reason, when the engine that is asked for cannot run as
            asked: the native one in float32 where bfloat16 cannot, and the portable one, which every machine has,
            where neither can, or where the torch engine finds no device.
    """

    def __init__(self, told: Callable[[str, str], None]) -> None:
        self._told = told
        self._silent = False

    def make(
        self,
        name: EngineName,
        backbone: Backbone,
        *,
        threads: int,
        rows_per_run: int,
        precision: Precision = "fp32",
    ) -> Engine:
        """An engine for a bundle.

        Args:
            name: the one to use where it can run.
            backbone: the bundle.
            threads: inside one run.
            rows_per_run: of the portable engine.
            precision: of the native engine.

        Raises:
            EngineFailed: the bundle's graph is refused.
        """
        portable = OnnxEngine(backbone, threads, rows_per_run)
        if name == "onnx":
            return portable
        if name == "torch":
            return self._on_device(backbone, portable)
        reasons = []
        for form in dict.fromkeys((precision, FP32)):
            try:
                engine = NativeEngine(backbone, threads, precision=form, dense=portable)
            except EngineAbsent as absent:
                reasons.append(str(absent))
            else:
                self._tell(f"native {form}", reasons)
                return engine
        self._tell("onnx", reasons)
        return portable

    def _on_device(self, backbone: Backbone, portable: Engine) -> Engine:
        try:
            return TorchEngine(backbone, portable)
        except EngineAbsent as absent:
            self._tell("onnx", [str(absent)])
            return portable

    def _tell(self, serving: str, reasons: Sequence[str]) -> None:
        if reasons and not self._silent:
            self._silent = True
            self._told(serving, reasons[0])
