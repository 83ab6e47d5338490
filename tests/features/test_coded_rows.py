"""Embeddings in a few bits a coordinate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from features.errors import InvalidValue
from features.index import RawIndex
from features.overlay import FEWEST_BITS, MOST_BITS, CodedRows, id_tensors, read_ids

Rows = NDArray[np.float32]
BITS = st.integers(FEWEST_BITS, MOST_BITS)
SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 19))
ROWS = SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-50, 50, width=32)))


@given(ROWS, BITS)
def test_a_coordinate_moves_by_half_a_step_at_most(rows: Rows, bits: int) -> None:
    """Law: the grid spans the rows, its step is the widest coordinate's span in so many bits, up to a factor of two and
    the two ends; what float16 rounds besides is its own."""
    coded = CodedRows.of(rows, bits)
    assert coded.codes.shape == (len(rows), bits, -(-rows.shape[1] // 8))
    step = coded.step.astype(np.float64)
    span = rows.max(0).astype(np.float64) - rows.min(0)
    own = np.maximum(np.abs(rows).max(0).astype(np.float64) * 2.0**-10, 2.0**-24)  # what float16 tells apart there
    assert (step <= np.maximum(4 * span / (2**bits - 1), own)).all()
    assert (np.exp2(np.rint(np.log2(step))) == step).all()
    found = coded.rows().astype(np.float64)
    assert (np.abs(found - rows) <= step / 2).all()


@given(ROWS, BITS, ROWS)
@example(np.array([[31.25], [31.265625], [32.234375]], np.float32), 6, np.array([[31.3]], np.float32))
@example(np.array([[-32.0], [-31.99]], np.float32), 8, np.array([[1e-9]], np.float32))
def test_what_was_coded_is_coded_without_a_loss(rows: Rows, bits: int, others: Rows) -> None:
    """Law: once more gives the same rows, and so it does beside others that stay within the span."""
    first = CodedRows.of(rows, bits).rows().astype(np.float32)
    np.testing.assert_array_equal(CodedRows.of(first, bits).rows(), first)
    width = min(first.shape[1], others.shape[1])
    inside = np.clip(others[:, :width], first[:, :width].min(0), first[:, :width].max(0))
    both = CodedRows.of(np.concatenate([first[:, :width], inside]), bits).rows()
    np.testing.assert_array_equal(both[: len(first)], first[:, :width])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    """Law: it would be coded as some other number."""
    rows = np.zeros((3, 4), np.float32)
    rows[1, 2] = value
    with pytest.raises(InvalidValue, match="not finite"), np.errstate(invalid="ignore"):
        CodedRows.of(rows, 6)


def test_many_rows_are_decoded_in_parts() -> None:
    """Law: where the parts meet nothing is lost."""
    rows = np.arange(70_000, dtype=np.float32)[:, None] % np.array([16, 13], np.float32)
    np.testing.assert_array_equal(CodedRows.of(rows, 4).rows(), rows)


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [([0, 127], "int8"), ([-129, 5], "int16"), ([6040], "int16"), ([3, 40_000], "int32"), ([-(2**31) - 1, 0], "int64")],
)
def test_ids_take_the_narrowest_type_that_holds_them(ids: list[int], dtype: str) -> None:
    """Law: the file holds them in as few bytes as they need, and they are found as before."""
    stored = id_tensors(RawIndex.from_values(ids), "overlay.user")["overlay.user.ids"]
    assert stored.dtype == dtype
    assert read_ids(stored, None, "overlay.user.ids").find([*ids, 1]).tolist() == [*range(len(ids)), -1]
