"""The native engine passes the contract on every instruction set that this machine has, and bits are as promised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters_store.backbone import Backbone, read_bundle
from adapters_store.folding import fold_backbone
from benchmarks.forge import Run
from features.index import RawIndex
from features.overlay import IdOverlay, Overlay
from features.rows import EncodedRows
from service.engine import Engine, Segment
from service.engines.native import NativeEngine
from service.engines.onnx import OnnxEngine
from service.errors import EngineFailed
from tests.service.engine_contract import MODES, EngineContract, World, probability

kernels = pytest.importorskip("espalier_kernels", reason="the extension espalier-kernels is not installed")
HERE = kernels.instruction_sets()
avx512 = pytest.mark.skipif("avx512" not in HERE, reason="this processor has no AVX-512")
avx2 = pytest.mark.skipif("avx2" not in HERE, reason="this processor has no AVX2")
bf16 = pytest.mark.skipif("avx512_bf16" not in HERE, reason="this processor has no bfloat16 products")
amx = pytest.mark.skipif("amx_bf16" not in HERE, reason="this processor has no AMX")
EVERY = [
    pytest.param({"isa": "avx512"}, marks=avx512, id="avx512"),
    pytest.param({"isa": "avx2"}, marks=avx2, id="avx2"),
    pytest.param({"precision": "bf16"}, marks=bf16, id="bf16"),
]


@avx512
class TestNativeEngineAvx512(EngineContract):
    """AVX-512."""

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """One thread."""
        return NativeEngine(backbone, isa="avx512")


@avx2
class TestNativeEngineAvx2(EngineContract):
    """AVX2."""

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """Two threads."""
        return NativeEngine(backbone, threads=2, isa="avx2", tile_rows=rows_per_run)


@bf16
class TestNativeEngineBf16(EngineContract):
    """bfloat16 in vectors."""

    tolerance = 2e-2
    raw_tolerance = 5e-2

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """One thread."""
        return NativeEngine(backbone, isa="avx512_bf16", precision="bf16")


@amx
class TestNativeEngineAmx(EngineContract):
    """bfloat16 in tiles, which are taken where the processor has them."""

    tolerance = 2e-2
    raw_tolerance = 5e-2

    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """One thread."""
        engine = NativeEngine(backbone, precision="bf16")
        assert engine.isa == "amx_bf16"
        return engine


def mixed(world: World, rng: np.random.Generator, requests: int) -> list[Segment]:
    """Segments of several modes, domains and sizes."""
    segments: list[Segment] = []
    for i in range(requests):
        mode, domain = MODES[i % len(MODES)], f"theme-{1 + i % 4}"
        own, _ = world.segments(rng, mode, domain, world.prepared(mode, domain), int(rng.integers(1, 40)))
        segments += own
    return segments


def bits(logits: list[NDArray[np.float64]]) -> list[bytes]:
    """What must not change."""
    return [part.tobytes() for part in logits]


@pytest.mark.parametrize("options", EVERY)
def test_a_row_has_the_same_bits_in_every_company(three_way_run: Run, options: dict[str, Any]) -> None:
    """Law: whatever stands beside a segment, in whatever order and tile, its logits are the same bit for bit."""
    backbone = read_bundle(three_way_run.folder / "bundle")
    rng = np.random.default_rng(11)
    engine = NativeEngine(backbone, **options)
    segments = mixed(World(three_way_run, backbone, engine), rng, 8)
    alone = [engine.run([segment])[0].tobytes() for segment in segments]
    for _ in range(100):
        chosen = rng.integers(0, len(segments), int(rng.integers(1, 30)))
        assert bits(engine.run([segments[i] for i in chosen])) == [alone[i] for i in chosen]


@pytest.mark.parametrize("options", EVERY)
def test_a_row_has_the_same_bits_in_every_tile_and_on_every_thread(three_way_run: Run, options: dict[str, Any]) -> None:
    """Law: tile, number of threads and what is computed once for a request change no bit."""
    backbone = read_bundle(three_way_run.folder / "bundle")
    found = []
    for form in ({}, {"tile_rows": 5}, {"tile_rows": 33, "threads": 3}, {"share": False}, {"threads": 2, "cpus": [0]}):
        engine = NativeEngine(backbone, **options, **form)
        segments = mixed(World(three_way_run, backbone, engine), np.random.default_rng(12), 4)
        found.append(bits(engine.run(segments)))
    assert all(one == found[0] for one in found)


@avx2
@avx512
def test_float32_has_the_same_bits_on_every_instruction_set(three_way_run: Run) -> None:
    """Law: AVX2 and AVX-512 agree bit for bit, so a fleet of both gives one answer."""
    backbone = read_bundle(three_way_run.folder / "bundle")
    found = []
    for isa in ("avx2", "avx512"):
        engine = NativeEngine(backbone, isa=isa)
        segments = mixed(World(three_way_run, backbone, engine), np.random.default_rng(13), 4)
        found.append(bits(engine.run(segments)))
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shared", [False, True])
def test_an_id_overlay_replaces_the_rows_of_its_ids(random_run: Run, dtype: Any, shared: bool) -> None:
    """Law: with an overlay the scores are those of the portable engine; rows it does not have keep the backbone's."""
    backbone = read_bundle(random_run.folder / "bundle")
    rng = np.random.default_rng(14)
    width = next(field.width for field in backbone.manifest.fields if field.name == "item_id")
    sides = {
        side: IdOverlay(field, RawIndex.from_values(range(3)), rng.normal(0, 1, (3, width)).astype(dtype))
        for side, field in (("user", "user_id"), ("item", "item_id"))
    }
    fold = replace(fold_backbone(backbone), overlay=Overlay(sides))  # type: ignore[arg-type]
    native, portable = NativeEngine(backbone), OnnxEngine(backbone)
    plain = World(random_run, backbone, native).draw(rng, "theme-1", 30)[2]
    positions = {"user": np.full(30, 1) if shared else rng.integers(-1, 3, 30), "item": rng.integers(-1, 3, 30)}
    rows = replace(plain, overlaid=positions)
    (scored,) = native.run([Segment(rows, native.prepare(fold), native)])
    np.testing.assert_allclose(probability(scored), probability(portable.logits(rows, fold)), rtol=0, atol=2e-6)
    assert np.abs(scored - native.logits(plain, fold)).max() > 1e-3


def rows_with(rows: EncodedRows, name: str, array: NDArray[Any]) -> EncodedRows:
    """The rows with one array replaced."""
    return replace(rows, arrays={**rows.arrays, name: array})


def test_rows_that_are_not_of_the_backbone_are_refused_by_field(random_run: Run) -> None:
    """Law: a missing, misshapen, mistyped or out-of-range array is an engine error that names its field."""
    backbone = read_bundle(random_run.folder / "bundle")
    engine = NativeEngine(backbone)
    rows = World(random_run, backbone, engine).draw(np.random.default_rng(15), "theme-1", 5)[2]
    fold = fold_backbone(backbone)
    hour, offsets = rows.arrays["hour"], rows.arrays["tags.offsets"]
    for broken, named in [
        (replace(rows, arrays={k: v for k, v in rows.arrays.items() if k != "hour"}), "hour is missing"),
        (rows_with(rows, "hour", hour[:-1].copy()), "hour has a wrong number of rows"),
        (rows_with(rows, "hour", hour.astype(np.int64)), "hour is an array of a wrong type"),
        (rows_with(rows, "hour", hour.astype(np.float32)), "hour is an array of a wrong type"),
        (rows_with(rows, "price", np.zeros(5, np.int32)), "price is an array of a wrong type"),
        (rows_with(rows, "hour", np.repeat(hour, 2)[::2]), "hour is no contiguous array"),
        (rows_with(rows, "hour", np.full(5, 25, np.int32)), "hour holds a row outside its table of 25"),
        (rows_with(rows, "hour", np.full(5, -1, np.int32)), "hour holds a row outside"),
        (rows_with(rows, "tags.offsets", offsets + 1_000), "tags has offsets that leave its values"),
        (rows_with(rows, "tags.offsets", offsets[::-1].copy()), "tags has offsets that leave its values"),
    ]:
        with pytest.raises(EngineFailed, match=named):
            engine.logits(broken, fold)


def test_an_empty_batch_and_an_empty_segment_have_no_logits(random_run: Run) -> None:
    """Law: nothing to score is no error."""
    backbone = read_bundle(random_run.folder / "bundle")
    engine = NativeEngine(backbone)
    rows = World(random_run, backbone, engine).draw(np.random.default_rng(16), "theme-1", 3)[2]
    prepared = engine.prepare(fold_backbone(backbone))
    assert engine.run([]) == []
    none, some = engine.run(
        [Segment(rows.take(np.empty(0, np.int64)), prepared, engine), Segment(rows, prepared, engine)]
    )
    assert (len(none), len(some)) == (0, 3)


@bf16
def test_an_adapter_that_bfloat16_moves_too_far_is_refused(random_run: Run) -> None:
    """Law: verification holds bfloat16 to float32 within 2e-2 of a probability, 2e-3 on average."""
    backbone = read_bundle(random_run.folder / "bundle")
    engine = NativeEngine(backbone, precision="bf16")
    rows = World(random_run, backbone, engine).draw(np.random.default_rng(17), "theme-1", 40)[2]
    fold = fold_backbone(backbone)
    engine.logits(rows, fold)
    name, last = list(fold.modules.items())[-1]
    steep = {**fold.modules, name: replace(last, norm_scale=last.norm_scale * 100)}
    with pytest.raises(EngineFailed, match="in bfloat16 probabilities move by up to"):
        engine.logits(rows, replace(fold, modules=steep))
