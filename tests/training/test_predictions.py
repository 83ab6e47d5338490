"""Predictions: what is written is read back; what cannot be evaluated is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.scored import scored_rows
from training.errors import PredictionsError
from training.predictions import PREDICTIONS_FILE, read_predictions, write_predictions


@pytest.mark.parametrize("synthetic", [True, False])
def test_round_trip_keeps_everything(tmp_path: Path, synthetic: bool) -> None:
    """Law: reading gives what was written: logits to the bit, rows without domain, domains without rows."""
    written = scored_rows(synthetic=synthetic)
    write_predictions(tmp_path, written)
    found = read_predictions(tmp_path)
    assert list(found.logits) == list(written.logits)
    assert found.domains == written.domains
    for name in written.logits:
        np.testing.assert_array_equal(found.logits[name], written.logits[name])
    for name in ("label", "domain", "user", "probability"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": {}}, "no method"),
        ({"logits": {"backbone": np.zeros(7)}}, r"backbone has shape \(7,\)"),
        ({"user": np.zeros(7)}, "user has shape"),
        ({"logits": {"single_lora": np.full(3000, np.nan)}}, "single_lora has .* not finite"),
        ({"label": np.full(3000, 2.0)}, "labels must be 0 or 1"),
        ({"domain": np.full(3000, 4)}, "outside the 4 domains"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change: dict[str, Any], message: str) -> None:
    """Law: a fault in the predictions is named when they are made, not when a figure comes out odd."""
    with pytest.raises(PredictionsError, match=message):
        replace(scored_rows(), **change)


def test_missing_file_says_what_writes_it(tmp_path: Path) -> None:
    """Law: a run folder without predictions is refused with the command that makes them."""
    with pytest.raises(PredictionsError, match="espalier train"):
        read_predictions(tmp_path)


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    """Law: a broken file is our error, naming the file, not a library's."""
    (tmp_path / PREDICTIONS_FILE).write_bytes(b"not parquet")
    with pytest.raises(PredictionsError, match=PREDICTIONS_FILE):
        read_predictions(tmp_path)
