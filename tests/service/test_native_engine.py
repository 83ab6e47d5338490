"""The native engine passes the contract on every instruction set that this machine has."""

from __future__ import annotations

import pytest

from adapters_store.backbone import Backbone
from service.engine import Engine
from service.engines.native import NativeEngine
from tests.service.engine_contract import EngineContract

kernels = pytest.importorskip("espalier_kernels", reason="the extension espalier-kernels is not installed")


@pytest.mark.skipif("avx512" not in kernels.instruction_sets(), reason="this processor has no AVX-512")
class TestNativeEngineAvx512(EngineContract):
    """AVX-512."""

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """One thread."""
        return NativeEngine(backbone, isa="avx512")


@pytest.mark.skipif("avx2" not in kernels.instruction_sets(), reason="this processor has no AVX2")
class TestNativeEngineAvx2(EngineContract):
    """AVX2."""

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """Two threads."""
        return NativeEngine(backbone, threads=2, isa="avx2")
