"""Deltas and id overlays: folded as theta_S + theta_i, and refused by the name of the tensor that is at fault."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters_store.artifact import decode_adapter
from adapters_store.errors import ArtifactError, BadValue, DoesNotFit, LimitExceeded, MalformedArtifact, WrongDomain
from adapters_store.folding import Folded
from adapters_store.tensors import Array, Bfloat16, TensorLimits
from adapters_store.verification import verify_adapter
from features.lookup import EmbeddingLookup, OwnVectors
from features.overlay import CodedRows, read_ids
from features.rows import EncodedRows
from tests.adapters_store.world import FIELDS, World, literal_logits, raw

F32, F16 = np.float32, np.float16
Parts = tuple[dict[str, Any], dict[str, Array]]
Spoil = Callable[[dict[str, Any], dict[str, Any]], object]


class DenseWorld(World):
    """A world whose bundle has the graph of deltas."""

    def bundle_files(self) -> dict[str, bytes]:
        return super().bundle_files() | {"scoring_dense.onnx": b"no graph is run in these tests"}

    def delta_parts(self) -> Parts:
        """Manifest and tensors of a valid delta with an overlay of users 4 and 900."""
        tensors = {f"delta.{name}": 0.3 * self.normal(*own.shape) for name, own in self.backbone.weights.items()}
        for name in [name for name in tensors if name.endswith("norm.var")]:
            tensors[name] = (-0.5 * self.backbone.weights[name.removeprefix("delta.")]).astype(F32)
        tensors["delta.tower.0.weight"] = tensors["delta.tower.0.weight"].astype(F16)
        tensors |= self.golden()
        tensors |= {"overlay.user.ids": np.array([4, 900]), "overlay.user.rows": self.normal(2, 4).astype(F16)}
        tensors["golden.overlay.user"] = np.array([0, -1, 1] * 4, np.int32)
        tensors["golden.logits"] = self.literal_delta(tensors)
        return self.manifest("theme-1", "theme", kind="delta", ranks={}) | {"ranks": {}}, tensors

    def literal_delta(self, tensors: dict[str, Array]) -> Array:
        """theta_S + theta_i in float64; overlaid rows as rows of their own at the table's end."""
        own = {name: value.astype(np.float64) for name, value in self.backbone.weights.items()}
        whole = {name: value + tensors.get(f"delta.{name}", 0.0) for name, value in own.items()}
        table = whole["embedding.user_id"]
        rows = EncodedRows.from_tensors(tensors, "golden.inputs", FIELDS)
        overlaid = tensors.get("golden.overlay.user", np.full(rows.n, -1))
        known = overlaid >= 0
        if known.any():
            table = np.concatenate([table, tensors["overlay.user.rows"].astype(np.float64)])
            places = np.where(known, 11 + overlaid, rows.arrays["user_id"])
        else:
            places = rows.arrays["user_id"]
        return literal_by_tables(whole | {"embedding.user_id": table}, rows, places)


def literal_by_tables(weights: dict[str, Array], rows: EncodedRows, users: Array) -> Array:
    """As `literal_logits`, with user rows of one's own choice."""
    tags, offsets = rows.arrays["tags.values"], rows.arrays["tags.offsets"]
    lists = [weights["embedding.tags"][tags[a:b]] for a, b in itertools.pairwise(offsets)]
    means = np.stack([one.mean(0) if len(one) else np.zeros(3) for one in lists])
    x = np.concatenate([weights["embedding.user_id"][users], means, rows.arrays["price"][:, None]], axis=1)
    for i in range(2):
        mean, var, weight, bias = (weights[f"tower.{i}.norm.{p}"] for p in ("mean", "var", "weight", "bias"))
        h = x @ weights[f"tower.{i}.weight"].T + weights[f"tower.{i}.bias"]
        x = np.maximum((h - mean) / np.sqrt(var + 1e-3) * weight + bias, 0)
    return (x @ weights["output.weight"].T + weights["output.bias"])[:, 0]


def dense_logits(world: World) -> Callable[[EncodedRows, Folded], Array]:
    """Runs folded deltas: what an engine does, in ten lines."""

    def logits_of(rows: EncodedRows, folded: Folded) -> Array:
        assert folded.delta is not None
        vectors = EmbeddingLookup(FIELDS, world.backbone.weights).vectors(rows)
        OwnVectors(FIELDS, folded.delta.tables, folded.overlay).apply(vectors, rows)
        x, w = np.concatenate(list(vectors.values()), axis=1), folded.delta.weights
        for i in range(2):
            h = x @ w[f"tower.{i}.weight"].T + w[f"tower.{i}.bias"]
            x = np.maximum(h * w[f"tower.{i}.norm_scale"] + w[f"tower.{i}.norm_shift"], 0)
        return np.asarray((x @ w["output.weight"].T + w["output.bias"])[:, 0])

    return logits_of


@pytest.fixture
def dense(tmp_path: Path) -> DenseWorld:
    return DenseWorld(tmp_path)


def verify(world: World, parts: Parts) -> Folded:
    adapter = decode_adapter(raw(*parts))
    return verify_adapter(adapter, world.backbone, {}, None, dense_logits(world))[()]


def put(name: str, tensor: Array | Bfloat16) -> Spoil:
    return lambda manifest, tensors: tensors.update({name: tensor})


def drop(*names: str) -> Spoil:
    return lambda manifest, tensors: [tensors.pop(name) for name in names]


def at(name: str, place: Any, value: float) -> Spoil:
    def spoil(manifest: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][place] = value

    return spoil


def texts(*ids: bytes, offsets: list[int] | None = None) -> Spoil:
    ends = np.cumsum([0, *map(len, ids)]) if offsets is None else np.array(offsets)
    parts = {"overlay.user.ids": np.frombuffer(b"".join(ids), np.uint8), "overlay.user.offsets": ends.astype(np.int64)}
    return lambda manifest, tensors: tensors.update(parts)


def of(*spoils: Spoil) -> Spoil:
    return lambda manifest, tensors: [spoil(manifest, tensors) for spoil in spoils]


def coded(codes: Array, step: float = 0.25, width: int = 4) -> Spoil:
    parts = {"codes": codes, "start": np.zeros(width, F32), "step": np.full(width, step, F32)}
    return lambda manifest, tensors: tensors.update({f"overlay.user.{part}": value for part, value in parts.items()})


@pytest.mark.parametrize("ids", [np.int16, np.int32, np.int64])
def test_coded_rows_are_what_they_decode_to(dense: DenseWorld, ids: type[np.signedinteger[Any]]) -> None:
    """Law: an overlay in a few bits a coordinate folds to start + step * code, and golden rows are scored by that; ids
    may be of any integer type."""
    manifest, tensors = dense.delta_parts()
    codes = CodedRows.of(tensors.pop("overlay.user.rows").astype(F32), 6)
    decoded = codes.rows()
    tensors |= {f"overlay.user.{part}": value for part, value in codes.tensors().items()}
    tensors["overlay.user.ids"] = tensors["overlay.user.ids"].astype(ids)
    tensors["golden.logits"] = dense.literal_delta(tensors | {"overlay.user.rows": decoded})
    folded = verify(dense, (manifest, tensors))
    assert folded.overlay is not None
    user = folded.overlay.sides["user"]
    np.testing.assert_array_equal(user.rows, decoded)
    assert user.index.find(["4", "900", "5"]).tolist() == [0, 1, -1]


def test_a_delta_folds_to_the_sum_and_is_reproduced(dense: DenseWorld) -> None:
    """Law: what is folded and looked up is theta_S + theta_i, tables, norms and overlay included."""
    manifest, tensors = dense.delta_parts()
    folded = verify(dense, (manifest, tensors))
    assert folded.modules == {}
    assert folded.delta is not None
    assert folded.overlay is not None
    assert set(folded.delta.tables) == {"embedding.user_id", "embedding.tags"}
    assert not np.shares_memory(folded.delta.tables["embedding.tags"], tensors["delta.embedding.tags"])
    rounded = dense.backbone.weights["output.bias"] + tensors["delta.output.bias"]
    np.testing.assert_allclose(folded.delta.weights["output.bias"], rounded, rtol=1e-6)


def test_a_weight_without_a_delta_is_the_backbones_own(dense: DenseWorld) -> None:
    """Law: what a delta leaves alone costs no memory: the arrays are shared, and only the others are counted."""
    manifest, tensors = dense.delta_parts()
    for name in [name for name in tensors if name.startswith("delta.") and name != "delta.tower.1.bias"]:
        del tensors[name]
    tensors["golden.logits"] = dense.literal_delta(tensors)
    delta = verify(dense, (manifest, tensors)).delta
    assert delta is not None
    assert delta.weights["tower.0.weight"] is dense.backbone.weights["tower.0.weight"]
    norms = 2 * 4 * (6 + 5)  # scale and shift of both layers, which no adapter shares
    assert delta.nbytes == 4 * 5 + norms


def test_bfloat16_deltas_and_text_ids_are_read(dense: DenseWorld) -> None:
    """Law: every form that the format has is taken: BF16 by our own decoding, ids as UTF-8 with offsets."""
    manifest, tensors = dense.delta_parts()
    half = Bfloat16.of(np.full((6, 8), 0.25, F32))
    texts(b"4", "é".encode())(manifest, tensors)
    tensors["delta.tower.0.weight"] = np.full((6, 8), 0.25, F32)
    tensors["golden.logits"] = dense.literal_delta(tensors)
    stored: dict[str, Any] = {**tensors, "delta.tower.0.weight": half}
    overlay = verify(dense, (manifest, stored)).overlay
    assert overlay is not None
    found = overlay.find("user", [4, "4", "é", "e", 900])
    assert found is not None
    assert found.tolist() == [0, 0, 1, -1, -1]
    assert overlay.find("item", ["x"]) is None


REFUSED: list[tuple[str, Spoil, type[ArtifactError], str]] = [
    (
        "unknown",
        put("delta.tower.9.weight", np.zeros((2, 2), F32)),
        DoesNotFit,
        r"'delta\.tower\.9\.weight' is the delta of no",
    ),
    (
        "shape",
        put("delta.tower.1.bias", np.zeros(6, F32)),
        DoesNotFit,
        r"'delta\.tower\.1\.bias' has shape \(6,\).*\(5,\)",
    ),
    (
        "norm fp16",
        put("delta.tower.0.norm.mean", np.zeros(6, F16)),
        MalformedArtifact,
        r"norm\.mean' has dtype F16; it must be F32",
    ),
    (
        "dtype",
        put("delta.output.bias", np.zeros(1, np.int32)),
        MalformedArtifact,
        r"'delta\.output\.bias' has dtype I32",
    ),
    ("NaN", at("delta.tower.1.weight", (3, 2), np.nan), BadValue, r"'delta\.tower\.1\.weight': the value at \[3, 2\]"),
    (
        "variance",
        at("delta.tower.1.norm.var", 2, -50.0),
        BadValue,
        r"'delta\.tower\.1\.norm\.var'.*at \[2\] is negative",
    ),
    ("weight", at("delta.tower.1.norm.weight", 2, 3.4e38), BadValue, r"delta\.tower\.1\.norm_scale is not finite"),
    ("LoRA", put("tower.0.down", np.zeros((1, 8), F32)), MalformedArtifact, r"'tower\.0\.down' has no place"),
    (
        "width",
        put("overlay.user.rows", np.zeros((2, 5), F32)),
        DoesNotFit,
        r"'overlay\.user\.rows' has width 5; field 'user_id' has 4",
    ),
    (
        "rows",
        put("overlay.user.rows", np.zeros((3, 4), F32)),
        MalformedArtifact,
        r"'overlay\.user\.ids' has shape \(2,\).*\(3,\)",
    ),
    ("row", at("overlay.user.rows", (1, 3), np.inf), BadValue, r"'overlay\.user\.rows': the value at \[1, 3\]"),
    (
        "dtype of rows",
        put("overlay.user.rows", np.zeros((2, 4))),
        MalformedArtifact,
        r"'overlay\.user\.rows' has dtype F64",
    ),
    (
        "unsorted",
        put("overlay.user.ids", np.array([9, 4])),
        MalformedArtifact,
        r"overlay\.user\.ids must be strictly increasing",
    ),
    (
        "twice",
        put("overlay.user.ids", np.array([4, 4])),
        MalformedArtifact,
        r"overlay\.user\.ids must be strictly increasing",
    ),
    (
        "dtype of ids",
        put("overlay.user.ids", np.array([4.0, 9.0], np.float32)),
        MalformedArtifact,
        r"'overlay\.user\.ids' has dtype F32",
    ),
    (
        "coded and not",
        coded(np.zeros((2, 6, 1), np.uint8)),
        MalformedArtifact,
        r"'overlay\.user\.rows' has no place",
    ),
    (
        "too few bits",
        of(drop("overlay.user.rows"), coded(np.zeros((2, 3, 1), np.uint8))),
        MalformedArtifact,
        r"'overlay\.user\.codes' has shape \(2, 3, 1\); with .* it must have 4 to 8 bits of 1 byte",
    ),
    (
        "wider codes",
        of(drop("overlay.user.rows"), coded(np.zeros((2, 6, 2), np.uint8))),
        MalformedArtifact,
        r"'overlay\.user\.codes' has shape \(2, 6, 2\)",
    ),
    (
        "steps",
        of(drop("overlay.user.rows"), coded(np.zeros((2, 6, 1), np.uint8)), put("overlay.user.step", np.ones(3, F32))),
        MalformedArtifact,
        r"'overlay\.user\.step' has shape \(3,\).*\(4,\)",
    ),
    (
        "no start",
        of(drop("overlay.user.rows"), coded(np.zeros((2, 6, 1), np.uint8)), drop("overlay.user.start")),
        MalformedArtifact,
        r"'overlay\.user\.start' is missing",
    ),
    (
        "coded beyond",
        of(drop("overlay.user.rows"), coded(np.full((2, 6, 1), 255, np.uint8), 2e3)),
        BadValue,
        r"'overlay\.user\.codes': the value at \[0, 0\] is outside of float16",
    ),
    (
        "width of codes",
        of(drop("overlay.user.rows"), coded(np.zeros((2, 6, 1), np.uint8), width=5)),
        DoesNotFit,
        r"'overlay\.user\.start' has width 5; field 'user_id' has 4",
    ),
    ("no rows", drop("overlay.user.rows"), MalformedArtifact, r"'overlay\.user\.rows' is missing"),
    ("no ids", drop("overlay.user.ids"), MalformedArtifact, r"'overlay\.user\.ids' is missing"),
    ("unsorted texts", texts(b"b", b"a"), MalformedArtifact, r"overlay\.user\.ids: .*sorted"),
    ("cut text", texts(b"\xc3", b"\xa9"), MalformedArtifact, r"overlay\.user\.ids: .*UTF-8"),
    ("offsets", texts(b"a", b"b", offsets=[0, 2, 1]), MalformedArtifact, r"overlay\.user\.offsets must rise"),
    ("more offsets", texts(b"a", b"b", b"c"), MalformedArtifact, r"'overlay\.user\.offsets' has shape \(4,\).*\(3,\)"),
    ("no golden", drop("golden.overlay.user"), MalformedArtifact, r"'golden\.overlay\.user' is missing"),
    (
        "golden row",
        put("golden.overlay.user", np.full(12, 2, np.int32)),
        MalformedArtifact,
        "names a row outside the 2",
    ),
    ("no golden row", put("golden.overlay.user", np.full(12, -1, np.int32)), MalformedArtifact, "names no row of"),
    (
        "golden rows",
        put("golden.overlay.user", np.zeros(5, np.int32)),
        MalformedArtifact,
        r"'golden\.overlay\.user' has shape \(5,\)",
    ),
    (
        "no side",
        put("overlay.shop.ids", np.zeros(1, np.int64)),
        MalformedArtifact,
        r"'overlay\.shop\.ids' has no place",
    ),
    (
        "no id field",
        lambda manifest, tensors: tensors.update(
            {name.replace("user", "item"): tensors.pop(name) for name in [n for n in tensors if "overlay.user" in n]}
        ),
        DoesNotFit,
        r"'overlay\.item\.rows': the backbone has 0 id fields of item",
    ),
]


@pytest.mark.parametrize(("spoil", "error", "message"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED])
def test_a_faulty_delta_or_overlay_is_refused_by_name(
    dense: DenseWorld, spoil: Spoil, error: type[ArtifactError], message: str
) -> None:
    """Law: each refusal names the tensor, the row or the field."""
    parts = dense.delta_parts()
    spoil(*parts)
    with pytest.raises(error, match=message):
        verify(dense, parts)


def test_a_table_that_overflows_with_its_delta_is_refused(dense: DenseWorld) -> None:
    """Law: tables are not summed, and held to be finite with their deltas all the same."""
    manifest, tensors = dense.delta_parts()
    place = (1, 1)
    at("delta.embedding.tags", place, 3.4e38)(manifest, tensors)
    large = dense.backbone.weights["embedding.tags"].copy()
    large[place] = 1e38
    dense.backbone.weights["embedding.tags"] = large
    with pytest.raises(BadValue, match=r"'delta\.embedding\.tags': with the backbone's table a value is not finite"):
        verify(dense, (manifest, tensors))


def test_a_bundle_without_the_dense_graph_takes_no_delta(world: World, dense: DenseWorld) -> None:
    """Law: an older bundle still loads and still takes LoRAs; a delta is refused with what to do."""
    manifest, tensors = dense.delta_parts()
    with pytest.raises(DoesNotFit, match=r"has no scoring_dense\.onnx.*export and publish the bundle again"):
        verify(world, (manifest | {"fingerprint": world.backbone.fingerprint}, tensors))
    decode_adapter(world.lora("theme-1", "theme"))


def test_a_delta_is_of_a_natural_division(dense: DenseWorld) -> None:
    """Law: an auxiliary domain has LoRAs, which can be fused and averaged; a delta cannot."""
    manifest, tensors = dense.delta_parts()
    with pytest.raises(WrongDomain, match="'gender' is auxiliary"):
        verify(dense, (manifest | {"domain": "gender-f", "division": "gender"}, tensors))


@pytest.mark.parametrize("limits", [TensorLimits(bytes=1000), TensorLimits(tensors=10)])
def test_caps_hold_for_deltas_too(dense: DenseWorld, limits: TensorLimits) -> None:
    """Law: size and number of tensors are looked at before anything is read."""
    with pytest.raises(LimitExceeded):
        decode_adapter(raw(*dense.delta_parts()), limits)


def test_the_cap_on_bytes_holds_for_what_codes_decode_to(dense: DenseWorld) -> None:
    """Law: four bits a coordinate must not ask for four times the limit."""
    manifest, tensors = dense.delta_parts()
    many = 3_000
    of(
        drop("overlay.user.rows"),
        coded(np.zeros((many, 4, 2), np.uint8), width=16),
        put("overlay.user.ids", np.arange(many, dtype=np.int16)),
    )(manifest, tensors)
    content = raw(manifest, tensors)
    assert len(content) < 2 * many * 16
    decode_adapter(content, TensorLimits(bytes=2 * many * 16))
    with pytest.raises(LimitExceeded, match=r"'overlay\.user\.codes' decodes to 96000 bytes"):
        decode_adapter(content, TensorLimits(bytes=2 * many * 16 - 1))


def test_long_ids_cost_no_more_than_their_bytes() -> None:
    """Law: many short ids beside one of 255 bytes are not all padded to it: a small file cannot ask for much memory."""
    ids = sorted({b"%06d" % i for i in range(70_000)} | {b"9" * 255})
    joined, offsets = np.frombuffer(b"".join(ids), np.uint8), np.cumsum([0, *map(len, ids)]).astype(np.int64)
    index = read_ids(joined, offsets, "overlay.user.ids")
    assert index.nbytes < 40 * len(ids)
    assert index.find(["000007", "9" * 255, "no"]).tolist() == [7, 70_000, -1]


def test_the_literal_form_of_these_tests_is_the_worlds(dense: DenseWorld) -> None:
    """Law: without deltas and overlay both literal forms agree."""
    rows = dense.rows(20)
    weights = {name: value.astype(np.float64) for name, value in dense.backbone.weights.items()}
    np.testing.assert_allclose(
        literal_by_tables(weights, rows, rows.arrays["user_id"]),
        literal_logits(dense.backbone.weights, rows),
        atol=1e-6,
    )
