"""Deltas and id overlays in the engine: every kind equals the float64 oracle, alone and in one mixed batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters_store.artifact import decode_adapter, decode_fusion
from adapters_store.backbone import Backbone, read_bundle
from adapters_store.errors import GoldenMismatch
from adapters_store.verification import verify_adapter
from benchmarks.forge import Run, pins_of
from benchmarks.oracle_files import AdapterFile
from features.overlay import Overlay
from features.rows import EncodedRows
from service.engine import Engine, Segment
from service.engines.native import NativeEngine
from service.engines.onnx import OnnxEngine
from service.errors import EngineFailed
from service.segments import scored_by, split
from service.serving import Serving
from service.slots import Slot
from service.tables import CurrentTables, FeatureTables
from tests.deltas import ITEMS, USERS, make_delta, make_overlaid_lora, random_deltas, random_overlay, with_overlay
from tests.factory import THEMES

TOLERANCE = 2e-6
TABLES = ("user_id", "item_id", "tags", "theme", "segment")


@pytest.fixture(scope="module")
def bodies(dense_run: Run) -> dict[str, bytes]:
    """Each form of an adapter that changes more than low-rank matrices."""
    rng, oracle = np.random.default_rng(0), dense_run.oracle
    plain = (dense_run.folder / "adapters" / f"{THEMES[0]}.safetensors").read_bytes()

    def delta(dtype: type[np.floating], *, tables: tuple[str, ...] = (), overlay: bool = False) -> bytes:
        tensors = random_deltas(oracle, rng, dtype, tables=tables)
        said = {"calibration": {"slope": 0.9, "intercept": 0.3}}
        return make_delta(dense_run, rng, THEMES[1], tensors | (random_overlay(oracle, rng) if overlay else {}), **said)

    return {
        "delta fp32": delta(np.float32),
        "delta fp16": delta(np.float16),
        "delta fp32 with tables": delta(np.float32, tables=TABLES),
        "delta fp16 with tables": delta(np.float16, tables=TABLES),
        "delta with tables and overlay": delta(np.float32, tables=TABLES, overlay=True),
        "overlay alone": make_delta(dense_run, rng, THEMES[1], random_overlay(oracle, rng)),
        "lora with overlay": make_overlaid_lora(dense_run, rng, THEMES[2], random_overlay(oracle, rng, np.float32)),
        "lora with users": make_overlaid_lora(
            dense_run, rng, THEMES[2], random_overlay(oracle, rng, sides={"user": USERS})
        ),
        "fused with overlay": with_overlay(dense_run, rng, plain, random_overlay(oracle, rng)),
        "fused without": plain,
    }


FORMS = (
    "delta fp32", "delta fp16", "delta fp32 with tables", "delta fp16 with tables", "delta with tables and overlay",
    "overlay alone", "lora with overlay", "lora with users", "fused with overlay", "fused without",
)  # fmt: skip


class World:
    """A backbone as it serves, its engine, and slots made as the loader makes them."""

    def __init__(self, run: Run, backbone: Backbone, engine: Engine) -> None:
        self.run, self.oracle = run, run.oracle
        self.engine = engine
        tables = CurrentTables(FeatureTables(backbone))
        self.serving = Serving(backbone, self.engine, None, tables)  # type: ignore[arg-type] # nothing scores by it
        self.fused = {
            domain: decode_adapter((run.folder / "adapters" / f"{domain}.safetensors").read_bytes())
            for domain in run.auxiliaries()
        }
        self.fusion = decode_fusion((run.folder / "fusion.safetensors").read_bytes())

    def slot(self, body: bytes) -> Slot:
        adapter = decode_adapter(body)
        folds = verify_adapter(adapter, self.serving.backbone, self.fused, self.fusion, self.engine.logits)
        prepared = {combination: self.engine.prepare(fold) for combination, fold in folds.items()}
        overlay = next(iter(folds.values())).overlay
        manifest = adapter.manifest
        return Slot("r", tuple(manifest.auxiliary), prepared, manifest.fuses, self.serving, None, overlay)

    def asked(self, slot: Slot, domain: str, user: str | int, items: list[str | int]) -> list[Segment]:
        encoded = self.serving.tables.current.encode(user, items, domain, {"hour": 5})
        segments, places = split(self.serving.tables.current, scored_by(encoded, slot), slot)
        self.places = [np.arange(len(items)) if place is None else place for place in places]
        return segments

    def expected(self, body: bytes, domain: str, user: str | int, items: list[str | int]) -> NDArray[np.float64]:
        file, pins = AdapterFile(body), self.run.auxiliaries()
        fusion = self.run.fusion() if file.manifest.get("fusion") else None
        names = [str(item) for item in items]
        scores = self.oracle.score(str(user), domain, names, file, pins_of(file, pins), fusion, {"hour": 5})
        return np.asarray(scores)


@pytest.fixture(scope="module", params=["onnx", "native"])
def world(dense_run: Run, request: pytest.FixtureRequest) -> World:
    backbone = read_bundle(dense_run.folder / "bundle")
    portable = OnnxEngine(backbone, rows_per_run=64)
    if request.param == "onnx":
        return World(dense_run, backbone, portable)
    pytest.importorskip("espalier_kernels", reason="the extension espalier-kernels is not installed")
    return World(dense_run, backbone, NativeEngine(backbone, dense=portable))


def probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-logits))


def draw(rng: np.random.Generator, run: Run) -> tuple[str | int, list[str | int]]:
    """A user and items: known everywhere, in the overlay alone, or nowhere."""
    users = [*USERS, "stranger", *range(1, 41)]
    items = [*ITEMS, "unheard of", *run.oracle.index["item"]]
    return users[rng.integers(len(users))], [items[i] for i in rng.integers(0, len(items), 9)]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_the_oracle(world: World, bodies: Mapping[str, bytes], form: str) -> None:
    """Law: verified, folded in float32 and scored, each form has the oracle's probabilities within 2e-6."""
    rng = np.random.default_rng(1)
    body = bodies[form]
    slot, domain = world.slot(body), AdapterFile(body).manifest["domain"]
    for _ in range(20):
        user, items = draw(rng, world.run)
        segments = world.asked(slot, domain, user, items)
        scores, places = probability(np.concatenate(world.engine.run(segments))), np.concatenate(world.places)
        wanted = world.expected(body, domain, user, items)[places]
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=TOLERANCE)


def test_a_mixed_batch_of_all_forms_equals_the_oracle(world: World, bodies: Mapping[str, bytes]) -> None:
    """Law: adapters with and without overlays and deltas, users known and not, in any order, keep their own scores."""
    rng = np.random.default_rng(2)
    slots = {form: world.slot(body) for form, body in bodies.items()}
    segments, expected = [], []
    for form in rng.permutation([*slots] * 4):
        body = bodies[str(form)]
        user, items = draw(rng, world.run)
        domain = AdapterFile(body).manifest["domain"]
        segments += world.asked(slots[str(form)], domain, user, items)
        expected.append(world.expected(body, domain, user, items)[np.concatenate(world.places)])
    together = world.engine.run(segments)
    np.testing.assert_allclose(probability(np.concatenate(together)), np.concatenate(expected), rtol=0, atol=TOLERANCE)


def test_an_overlay_moves_its_own_ids_and_no_other(world: World, bodies: Mapping[str, bytes]) -> None:
    """Law: rows of ids outside the overlay have the same bits as by the same adapter without it."""
    with_it, without = world.slot(bodies["fused with overlay"]), world.slot(bodies["fused without"])
    items: list[str | int] = ["item-2", "item-7", "brand new", "item-9"]
    for user, user_moves in (("4000000", True), (5, False)):
        parts = [world.engine.run(world.asked(slot, THEMES[0], user, items)) for slot in (with_it, without)]
        moved, left = np.concatenate(parts[0]), np.concatenate(parts[1])
        changed = np.empty(len(items), bool)
        changed[np.concatenate(world.places)] = moved != left
        assert changed.tolist() == ([True] * 4 if user_moves else [True, False, True, False])


def test_an_adapter_without_overlay_asks_for_nothing(world: World, bodies: Mapping[str, bytes]) -> None:
    """Law: without an overlay a request's rows are the very ones that were encoded, and nothing changes its vectors."""
    slot = world.slot(bodies["fused without"])
    encoded = world.serving.tables.current.encode(1, ["item-1"], THEMES[0], {})
    assert scored_by(encoded, slot) is encoded
    assert encoded.rows.overlaid is None
    assert all(getattr(prepared, "own", None) is None for prepared in slot.combinations.values())


def test_memory_counts_deltas_and_the_overlay_once(world: World, bodies: Mapping[str, bytes]) -> None:
    """Law: a slot counts what its adapter alone keeps: sums, table deltas as stored, and one overlay for all folds."""
    with_it, without = world.slot(bodies["fused with overlay"]), world.slot(bodies["fused without"])
    overlay = with_it.overlay
    assert isinstance(overlay, Overlay)
    assert len(with_it.combinations) > 1
    assert with_it.nbytes == without.nbytes + overlay.nbytes
    assert overlay.nbytes >= (len(USERS) + len(ITEMS)) * 4 * 2
    sizes = {form: world.slot(bodies[form]).nbytes for form in ("delta fp32 with tables", "delta fp16 with tables")}
    weights = world.oracle.weights
    table_values = sum(weights[f"embedding.{name}"].size for name in TABLES)
    assert sizes["delta fp32 with tables"] - sizes["delta fp16 with tables"] == 2 * table_values
    assert world.slot(bodies["overlay alone"]).nbytes < 4 * weights["tower.0.weight"].size  # W0 stays shared


def test_an_engine_that_ignores_the_overlay_is_found_out(world: World, bodies: Mapping[str, bytes]) -> None:
    """Law: golden rows hold the overlay too, so an engine that scores the backbone's own rows is refused."""

    def deaf(rows: EncodedRows, folded: object) -> NDArray[np.float64]:
        return world.engine.logits(EncodedRows(rows.n, rows.arrays), folded)  # type: ignore[arg-type]

    adapter = decode_adapter(bodies["lora with overlay"])
    with pytest.raises(GoldenMismatch, match="golden row"):
        verify_adapter(adapter, world.serving.backbone, {}, None, deaf)


def test_an_engine_of_a_bundle_without_the_dense_graph_says_so(
    dense_run: Run, world: World, bodies: Mapping[str, bytes], tmp_path: Path
) -> None:
    """Law: what an engine cannot score it refuses when it is asked to prepare it, and says what would help."""
    backbone = read_bundle(dense_run.folder / "bundle")
    del backbone.files["scoring_dense.onnx"]
    adapter = decode_adapter(bodies["delta fp32"])
    folds = verify_adapter(adapter, world.serving.backbone, {}, None, world.engine.logits)
    with pytest.raises(EngineFailed, match=r"no scoring_dense\.onnx.*restart"):
        OnnxEngine(backbone).prepare(folds[()])


def test_a_dense_graph_that_is_none_is_refused(dense_run: Run) -> None:
    """Law: the second graph is looked at as the first one is."""
    backbone = read_bundle(dense_run.folder / "bundle")
    backbone.files["scoring_dense.onnx"] = b"no graph"
    with pytest.raises(EngineFailed, match=r"scoring_dense\.onnx is no ONNX file"):
        OnnxEngine(backbone)
