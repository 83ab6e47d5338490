"""The pool: what a combination takes comes back when nobody refers to it any more, and not before."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adapters_store.folding import FoldedModule
from service.engines.gpu.packing import BLOCK, PackedLayer, pack_layer
from service.engines.gpu.pool import HEAD, Pool

WIDTHS = (5, 7, 3)


def drawn(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Normal numbers."""
    return rng.normal(0, 1, shape).astype(np.float32)


def module(
    rng: np.random.Generator, k: int, d: int, ranks: tuple[int, ...] = (4, 3), fusion_rank: int = 3
) -> FoldedModule:
    """A fold of one layer; without a fusion rank, one of constant weights."""
    m, r, rf = len(ranks), sum(ranks), max(fusion_rank, 1)
    key, key_shift = drawn(rng, rf, r), drawn(rng, m, rf)
    return FoldedModule(
        down=drawn(rng, r, k),
        up=drawn(rng, d, r),
        shift=drawn(rng, m, d),
        query=drawn(rng, rf, k),
        query_shift=drawn(rng, rf),
        key=key if fusion_rank else 0 * key,
        key_shift=key_shift if fusion_rank else 0 * key_shift,
        group=np.repeat(np.eye(m, dtype=np.float32), ranks, axis=1),
        norm_scale=drawn(rng, d),
        norm_shift=drawn(rng, d),
    )


def packed(rng: np.random.Generator, ranks: tuple[int, ...] = (4, 3), fusion_rank: int = 3) -> list[PackedLayer]:
    """A combination of all layers."""
    pairs = pairwise(WIDTHS)
    return [pack_layer(module(rng, k, d, ranks, fusion_rank), drawn(rng, d)) for k, d in pairs]


def pool(pool_bytes: int = 1 << 20) -> Pool:
    """On the CPU."""
    return Pool(torch, torch.device("cpu"), WIDTHS, 3, pool_bytes)


def test_constant_weights_are_packed_away() -> None:
    """Law: without attention there are no queries, and what adds nothing takes no place."""
    rng = np.random.default_rng(0)
    own = module(rng, 5, 7, (4, 3), 0)
    bias = drawn(rng, 7)
    layer = pack_layer(own, bias)
    assert (len(layer.query), len(layer.shift), len(layer.down)) == (0, 0, 1)
    np.testing.assert_allclose(layer.up[0, :7], own.up.T / 2, rtol=1e-6)
    wanted = (bias + own.shift.astype(np.float64).mean(0)) * own.norm_scale + own.norm_shift
    np.testing.assert_allclose(layer.offset, wanted, rtol=1e-6)
    assert len(pack_layer(replace(own, down=0 * own.down), bias).down) == 0


def test_ranks_are_rounded_to_blocks_and_no_further() -> None:
    """Law: places follow a combination's own ranks, not those of the largest one."""
    rng, made = np.random.default_rng(1), pool()
    before = made.free[1]
    small, large = made.take(packed(rng, (4, 3), 0)), made.take(packed(rng, (30, 20), 0))
    assert small is not None
    assert large is not None
    assert [a - b for a, b in zip(before, made.free[1], strict=True)] == [1 + 4] * 2
    assert small.nbytes < large.nbytes


def test_places_come_back_with_the_last_reference() -> None:
    """Law: dropped, a combination's slot and places are free again; held by anyone, they are not."""
    rng, made = np.random.default_rng(2), pool()
    before = made.free
    held = made.take(packed(rng))
    other_hold = held
    del held
    assert made.free[0] == before[0] - 1
    del other_hold
    assert made.free == before


def test_a_fusion_s_queries_are_kept_once_and_as_long_as_anyone_has_them() -> None:
    """Law: combinations of one fusion share the places of its queries."""
    rng, made = np.random.default_rng(3), pool()
    one = packed(rng)
    other = [replace(layer, query=first.query) for layer, first in zip(packed(rng), one, strict=True)]
    before = made.free[1]
    first = made.take(one)
    alone = [a - b for a, b in zip(before, made.free[1], strict=True)]
    second = made.take(other)
    both = [a - b for a, b in zip(before, made.free[1], strict=True)]
    assert (alone, both) == ([2, 2], [3, 3])
    assert first is not None
    assert second is not None
    places = made.host_table[[first.slot, second.slot], 0, HEAD + 1]
    assert places[0] == places[1]
    del first
    assert [a - b for a, b in zip(before, made.free[1], strict=True)] == [2, 2]
    np.testing.assert_array_equal(made.layers[0].inner[int(places[0])].numpy(), other[0].query[0])
    del second
    assert made.free[1] == before


def test_a_reused_place_holds_what_was_written_last() -> None:
    """Law: nothing is left of what lay there before: padding is zero, the table is the new one's."""
    rng, made = np.random.default_rng(4), pool(1)
    assert made.slots == 1
    wide = made.take(packed(rng, (16,), 0))
    assert wide is not None
    slot = wide.slot
    del wide
    layers = packed(rng, (2,), 0)
    narrow = made.take(layers)
    assert narrow is not None
    assert narrow.slot == slot
    place = int(made.host_table[slot, 0, HEAD])
    np.testing.assert_array_equal(made.layers[0].inner[place].numpy(), layers[0].down[0])
    assert not made.layers[0].inner[place, 2:].any()
    assert torch.equal(made.table, torch.from_numpy(made.host_table))


@pytest.mark.parametrize("ranks", [(129,), (4, 3), (1, 1, 1, 1)])
def test_what_does_not_fit_is_not_taken(ranks: tuple[int, ...]) -> None:
    """Law: no free slot, ranks over the table's or too many divisions give None, and cost nothing."""
    rng, made = np.random.default_rng(5), pool(1)
    held = made.take(packed(rng, (BLOCK,), 0)) if ranks == (4, 3) else None
    before = made.free
    assert made.take(packed(rng, ranks)) is None
    assert made.free == before
    del held
