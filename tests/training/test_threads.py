"""How torch computes while something is trained."""

from __future__ import annotations

import threading

import torch

from training.threads import flushes_denormals, threads, use_threads


def test_denormals_are_zero_inside_the_block_and_numbers_again_after_it() -> None:
    torch.set_flush_denormal(False)
    cores = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
        assert flushes_denormals()
        assert float(torch.tensor(1e-30) * 1e-10) == 0.0
    assert torch.get_num_threads() == cores
    assert not flushes_denormals()
    assert float(torch.tensor(1e-30) * 1e-10) > 0.0


def test_a_block_inside_another_leaves_the_outer_ones_way() -> None:
    with threads(1):
        with threads(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
        assert flushes_denormals()


def test_a_worker_flushes_for_good() -> None:
    found = []

    def work() -> None:  # a thread of its own: the way of computing is a thread's
        use_threads(torch.get_num_threads())
        found.append(flushes_denormals())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert found == [True]


def test_moments_of_rows_that_nobody_names_end_at_zero() -> None:
    """What it is for: Adam's moments of such rows decay until they are denormal, and stay zero from there on."""
    with threads(1):
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer = torch.optim.Adam([weight], 1e-3, fused=True)
        weight.grad = torch.ones(4)
        optimizer.step()
        for _ in range(1_200):
            weight.grad = torch.zeros(4)
            optimizer.step()
        moment = optimizer.state[weight]["exp_avg"]
    assert float(moment.abs().max()) == 0.0
