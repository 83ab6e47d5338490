"""Which engine serves: the configured one, or the portable one with a word about why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adapters_store.backbone import Backbone, read_bundle
from benchmarks.forge import Run
from service.engine import Engine
from service.engines.chosen import EngineName, Engines
from service.engines.native import EXTENSION, EngineAbsent, NativeEngine
from service.settings import load_settings


@pytest.fixture
def backbone(random_run: Run) -> Backbone:
    """A bundle."""
    return read_bundle(random_run.folder / "bundle")


def made(engines: Engines, name: EngineName, backbone: Backbone) -> Engine:
    """An engine with one thread."""
    return engines.make(name, backbone, threads=1, rows_per_run=64)


def test_the_portable_engine_serves_unless_another_is_asked_for(backbone: Backbone) -> None:
    """Law: without a setting nothing native is looked for, and nothing is told."""
    told: list[tuple[str, str]] = []
    assert load_settings({"store": "memory://"}, environ={}).replica.engine == "onnx"
    assert made(Engines(lambda *said: told.append(said)), "onnx", backbone).name == "onnx"
    assert told == []


def test_the_native_engine_serves_where_it_can(backbone: Backbone) -> None:
    """Law: asked for and able to run, it is what is made."""
    pytest.importorskip(EXTENSION, reason="the extension espalier-kernels is not installed")
    told: list[tuple[str, str]] = []
    assert made(Engines(lambda *said: told.append(said)), "native", backbone).name == "native"
    assert told == []


def test_without_the_extension_the_portable_engine_serves_and_says_so_once(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a missing extension costs a warning with its reason, once, and no start."""
    monkeypatch.setitem(sys.modules, EXTENSION, None)
    told: list[tuple[str, str]] = []
    engines = Engines(lambda *said: told.append(said))
    assert [made(engines, "native", backbone).name for _ in range(2)] == ["onnx", "onnx"]
    ((serving, reason),) = told
    assert serving == "onnx"
    assert "espalier-kernels is not installed" in reason


def test_the_native_engine_serves_in_float32_where_bfloat16_cannot(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a processor without bfloat16 products costs speed and a warning, not the native engine."""
    extension = pytest.importorskip(EXTENSION, reason="the extension espalier-kernels is not installed")
    network = extension.Network

    def without_half(*arguments: object, precision: str = "fp32", **options: object) -> object:
        if precision == "bf16":
            raise RuntimeError("this processor has no bfloat16 products")
        return network(*arguments, **options)

    monkeypatch.setattr(extension, "Network", without_half)
    told: list[tuple[str, str]] = []
    engines = Engines(lambda *said: told.append(said))
    engine = engines.make("native", backbone, threads=1, rows_per_run=64, precision="bf16")
    assert engine.name == "native"
    assert [serving for serving, _ in told] == ["native fp32"]


def test_a_missing_instruction_set_is_named(backbone: Backbone) -> None:
    """Law: what the processor lacks is said by name."""
    pytest.importorskip(EXTENSION, reason="the extension espalier-kernels is not installed")
    with pytest.raises(EngineAbsent, match="this processor has no sse9"):
        NativeEngine(backbone, isa="sse9")


def test_the_setting_is_read_from_a_file(tmp_path: Path) -> None:
    """Law: `engine: native` reaches the core."""
    (tmp_path / "espalier.yaml").write_text("store: memory://\nengine: native\n")
    assert load_settings({}, tmp_path / "espalier.yaml", environ={}).replica.engine == "native"
