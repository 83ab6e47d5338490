"""Which engine a replica scores with: the configured one, or `onnx` where that cannot run, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

from adapters_store.backbone import Backbone
from service.cores import bind
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
        self._maker = ThreadPoolExecutor(1, "espalier-maker")

    def make(
        self,
        name: EngineName,
        backbone: Backbone,
        *,
        threads: int,
        rows_per_run: int,
        precision: Precision = "fp32",
        cpus: Sequence[int] = (),
    ) -> Engine:
        """An engine for a bundle.

        Threads take priority and cores from whoever starts them. So an engine that has some is made on a thread that
        the first caller starts, of its own priority, and not on the later caller's, whose priority is low.

        Args:
            name: the one to use where it can run.
            backbone: the bundle.
            threads: inside one run.
            rows_per_run: of the portable engine.
            precision: of the native engine.
            cpus: cores of these threads, that of the one which calls the engine first, left to the caller to bind; the
                native engine binds one to each, others keep theirs on the rest of them. None leaves them unbound.

        Raises:
            EngineFailed: the bundle's graph is refused, or threads cannot be bound to these cores.
        """
        made = partial(self._made, name, backbone, threads, rows_per_run, precision, cpus[1:])
        if threads == 1:
            return made()

        def apart() -> Engine:
            bind(cpus[1:])
            return made()

        return self._maker.submit(apart).result()

    def _made(
        self,
        name: EngineName,
        backbone: Backbone,
        threads: int,
        rows_per_run: int,
        precision: Precision,
        cpus: Sequence[int],
    ) -> Engine:
        portable = OnnxEngine(backbone, threads, rows_per_run)
        if name == "onnx":
            return portable
        if name == "torch":
            return self._on_device(backbone, portable)
        reasons = []
        for form in dict.fromkeys((precision, FP32)):
            try:
                engine = NativeEngine(backbone, threads, cpus=cpus, precision=form, dense=portable)
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
