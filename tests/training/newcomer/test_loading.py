"""A bundle as a network that adapters can be trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters_store.manifest import BackboneManifest
from benchmarks.oracle import Oracle
from tests.factory import Sizes, make_divisions, make_fields
from tests.kinds import KINDS
from tests.training.newcomer.world import DOMAIN, frame_of, ground_of, make_bundle, rows_of
from training.batches import RowTensors
from training.export import form_of
from training.newcomer.encoding import encode_rows
from training.newcomer.loading import network_of, shape_of_bundle


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_shape_of_a_manifest_is_the_one_it_was_written_from(kind: str) -> None:
    """Law: what `form_of` says of a network is read back, of every kind; dropout apart, which no bundle tells."""
    sizes = KINDS[kind]
    fields = make_fields(sizes)
    shape = sizes.shape(fields)
    manifest = BackboneManifest(**form_of(shape), fields=fields, divisions=make_divisions(sizes))
    found = shape_of_bundle(manifest)
    assert replace(found, dropout=shape.dropout) == replace(
        shape,
        cross_layers=found.cross_layers if shape.kind not in ("dcn", "dcn_v2") else shape.cross_layers,
        attention_layers=found.attention_layers if shape.kind != "autoint" else shape.attention_layers,
        heads=found.heads if shape.kind != "autoint" else shape.heads,
        head_width=found.head_width if shape.kind != "autoint" else shape.head_width,
    )


@pytest.mark.parametrize("sizes", [Sizes(), KINDS["deepfm"]], ids=lambda each: each.kind)
def test_the_network_of_a_bundle_scores_as_the_oracle_and_is_frozen(sizes: Sizes, tmp_path: Path) -> None:
    """Law: logits of encoded rows are the oracle's of the same ids; nothing of the network can be trained."""
    ground = ground_of(make_bundle(tmp_path / "bundle", sizes))
    frame = frame_of(20)
    network = network_of(ground.bundle)
    with torch.no_grad():
        logits = network(RowTensors(encode_rows(rows_of(frame), ground).dataset).batch(torch.arange(20))).numpy()
    oracle = Oracle(tmp_path / "bundle")
    for row, logit in zip(frame.iter_rows(named=True), logits, strict=True):
        context = {name: row[name] for name in ("hour", "age_days") if row[name] is not None}
        (expected,) = oracle.logits(oracle.vectors(row["user_id"], [row["item_id"]], DOMAIN, context))
        np.testing.assert_allclose(logit, expected, atol=2e-5)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
