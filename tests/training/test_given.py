"""Fields that bring their own vectors: laid out by vocabulary row, never trained, exported as they came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from adapters_store.backbone import read_bundle
from adapters_store.verification import verify_backbone
from service.engines.onnx import OnnxEngine
from tests.training.pictures import PICTURE, with_pictures
from tests.training.small import small_config
from training.dataset import encode, split_rows
from training.errors import PreparedError
from training.pipeline import train_all
from training.prepared import FieldSpec, PreparedDataset


def test_vectors_are_laid_out_by_vocabulary_row(small_world: Path) -> None:
    """Law: row i + 1 is the vector of value i; row 0, for what is unknown, their mean over the training rows."""
    prepared = with_pictures(small_world)
    train = split_rows(len(prepared.interactions), 0).train
    dataset = encode(prepared, train, 4)
    field = dataset.fields[-1]
    assert (field.name, field.frozen, field.width) == ("picture", True, 3)
    given = dataset.given["picture"]
    assert given.shape == (field.vocabulary_size, 3)
    by_id = dict(zip(prepared.items["item_id"].to_list(), prepared.items["pixels"].to_list(), strict=True))
    index = dataset.vocabulary["picture"]
    for i in range(len(index)):
        np.testing.assert_allclose(given[i + 1], by_id[int(index.raw(i))], rtol=1e-6)
    shown = np.array([by_id[item] for item in prepared.interactions["item_id"].gather(train).to_list()])
    np.testing.assert_allclose(given[0], shown.mean(0), atol=1e-6)


@pytest.mark.parametrize("kind", ["deepfm"])
def test_given_vectors_are_exported_as_they_came(small_world: Path, tmp_path: Path, kind: str) -> None:
    """Law: training changes no given vector, the bundle carries them, and the service reproduces its golden rows."""
    with_pictures(small_world).write(tmp_path / "data")
    config = small_config(tmp_path / "data", backbone={"width": 4, "tower": [16, 8], "kind": kind})
    train_all(config, tmp_path / "run")
    bundle = read_bundle(tmp_path / "run" / "bundle")
    dataset = encode(with_pictures(small_world), split_rows(9_000, 0).train, 4)
    assert np.array_equal(bundle.weights["embedding.picture"], dataset.given["picture"])
    assert bundle.weights["factor.picture"].shape == (3, 4)
    verify_backbone(bundle, OnnxEngine(bundle).logits)


@pytest.mark.parametrize(
    ("pixels", "fault"),
    [
        ([[1.0, 2.0]] * 59 + [[1.0]], "differ in length"),
        ([[1.0]] * 59 + [None], "with 1 empty"),
        ([1.0] * 60, "holds Float64"),
        ([[1.0]] * 59 + [[float("inf")]], "not finite"),
    ],
)
def test_faulty_vectors_are_refused(small_world: Path, pixels: Any, fault: str) -> None:
    """Law: vectors of different lengths, missing, infinite, or no lists at all are refused by field and column."""
    with pytest.raises(PreparedError, match=f"'picture'.*{fault}"):
        encode(with_pictures(small_world, pixels), np.arange(8_000), 4)


def test_two_vectors_of_one_value_are_refused(small_world: Path) -> None:
    """Law: what has one row in the vocabulary has one vector."""
    prepared = with_pictures(small_world)
    fields = (*prepared.spec.fields[:-1], PICTURE.model_copy(update={"column": "brand"}))
    with pytest.raises(PreparedError, match="different vectors of one value"):
        encode(replace(prepared, spec=prepared.spec.model_copy(update={"fields": fields})), np.arange(8_000), 4)


def test_vectors_belong_to_sparse_fields_of_users_and_items() -> None:
    """Law: a dense field, or one of the context, cannot bring vectors; a spec without any is written as ever."""
    for changes in ({"kind": "dense"}, {"of": "context"}):
        with pytest.raises(ValidationError, match="given vectors belong to a sparse field"):
            FieldSpec.model_validate({**PICTURE.model_dump(), **changes})
    assert "vectors" not in PICTURE.model_copy(update={"vectors": None}).model_dump()


def test_a_hashed_field_lists_nothing(small_world: Path) -> None:
    """Law: with `buckets` a field's rows are its values' hashes, missing ones row 0, and the vocabulary stays small."""
    prepared = PreparedDataset.load(small_world)
    fields = tuple(
        field.model_copy(update={"buckets": 5}) if field.name in ("brand", "tags", "hour") else field
        for field in prepared.spec.fields
    )
    dataset = encode(replace(prepared, spec=prepared.spec.model_copy(update={"fields": fields})), np.arange(8_000), 4)
    sizes = {field.name: field.vocabulary_size for field in dataset.fields}
    assert (sizes["brand"], sizes["tags"], sizes["hour"]) == (6, 6, 6)
    assert dataset.vocabulary.to_tensors()["brand.buckets"].tolist() == [5]
    names = [field.name for field in dataset.fields if field.kind == "sparse"]
    hours = prepared.interactions["hour"].to_list()
    assert dataset.sparse[:, names.index("hour")].tolist() == dataset.vocabulary.rows("hour", hours).tolist()
    lists, _ = dataset.multi_hot["tags"]
    assert lists.max() <= 5
    with pytest.raises(ValidationError, match="buckets belong to"):
        FieldSpec.model_validate({**PICTURE.model_dump(), "buckets": 5})
