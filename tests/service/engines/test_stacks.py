"""Entries of whole networks: taken, written and given back beside the backbone's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.engines.gpu.stacks import BACKBONE, Stacks

INPUTS, PADDED = 5, 8


def network(rng: np.random.Generator, inputs: int) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Two layers and an output."""
    first, second, output = rng.normal(0, 1, (7, inputs)), rng.normal(0, 1, (3, 7)), rng.normal(0, 1, 3)
    return [first.astype(np.float32), second.astype(np.float32)], output.astype(np.float32)


def stacks(rng: np.random.Generator, entries: int) -> Stacks:
    """On the CPU, with room for so many networks beside the backbone."""
    layers, output = network(rng, PADDED)
    room_bytes = entries * (sum(layer.nbytes for layer in layers) + output.nbytes)
    return Stacks(torch, torch.device("cpu"), layers, output, room_bytes)


def test_the_backbone_s_own_entry_is_never_given_away() -> None:
    """Law: entry 0 has the backbone's weights whatever comes beside it, and with no room nothing does."""
    rng = np.random.default_rng(0)
    made, none = stacks(rng, 2), stacks(rng, 0)
    before = [layer[BACKBONE].clone() for layer in (*made.layers, made.output)]
    held = [made.take(*network(rng, INPUTS)) for _ in range(3)]
    assert sorted(entry.number for entry in held if entry is not None) == [1, 2]
    assert held[2] is None
    assert none.take(*network(rng, INPUTS)) is None
    assert all(torch.equal(a, b[BACKBONE]) for a, b in zip(before, (*made.layers, made.output), strict=True))


def test_an_entry_comes_back_with_the_last_reference() -> None:
    """Law: dropped, it is free and holds what is written next; inputs that are padding stay zero."""
    rng = np.random.default_rng(1)
    made = stacks(rng, 1)
    held = made.take(*network(rng, INPUTS))
    other_hold = held
    del held
    assert made.free == 0
    del other_hold
    assert made.free == 1
    layers, output = network(rng, INPUTS)
    again = made.take(layers, output)
    assert again is not None
    assert again.nbytes == 4 * (7 * PADDED + 3 * 7 + 3)
    np.testing.assert_array_equal(made.layers[0][again.number, :, :INPUTS].numpy(), layers[0])
    assert not made.layers[0][again.number, :, INPUTS:].any()
    np.testing.assert_array_equal(made.output[again.number].numpy(), output)


def test_a_network_of_another_shape_costs_no_entry() -> None:
    """Law: what cannot be written takes nothing."""
    rng = np.random.default_rng(2)
    made = stacks(rng, 1)
    layers, output = network(rng, PADDED)
    with pytest.raises(RuntimeError):
        made.take([layers[0][:-1], layers[1]], output)
    assert made.free == 1
