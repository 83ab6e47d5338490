"""Laws of who is compared: everyone computes the papers' equations of the same world."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.bench import ours, peers_onnx
from benchmarks.bench.batches import LITERAL, check
from benchmarks.bench.contender import Contender, PeerAbsent
from benchmarks.bench.graphs import plain_graph
from benchmarks.bench.literal import probabilities
from benchmarks.bench.peers_openvino import forms
from benchmarks.bench.peers_web import mosec
from benchmarks.bench.shapes import SHAPES, SMALL
from benchmarks.bench.world import World, make_world
from benchmarks.engine_ratio import exact_probabilities


@pytest.fixture(scope="module")
def world() -> World:
    """Three domains, four items each, seven layers."""
    return make_world(SMALL[-1], 3, 4)


def test_the_literal_equations_are_those_that_folding_folds(world: World) -> None:
    """Law: the papers' equations in torch and the folded ones in numpy, written apart, agree within float32's fold."""
    for form, folds in (("multi", world.multi), ("single", world.single), ("plain", world.alone)):
        np.testing.assert_allclose(probabilities(world, form), exact_probabilities(world, folds), rtol=0, atol=1e-6)


def test_forms_and_domains_differ(world: World) -> None:
    """Law: what is compared is worth telling apart: scores move with the form and with the domain."""
    multi, single, plain = (probabilities(world, form) for form in ("multi", "single", "plain"))
    assert min(np.abs(multi - single).max(), np.abs(single - plain).max()) > 1e-2
    assert np.ptp(multi) > 0.05


def test_every_form_of_onnx_runtime_scores_the_same_world(world: World, tmp_path: Path) -> None:
    """Law: plain backbone, session a pair and LoraAdapter give the literal scores of their form within 2e-6."""
    found = [
        *peers_onnx.plain_forms(world, 1),
        peers_onnx.session_per_pair(world, 1),
        peers_onnx.lora_adapters(world, 1, tmp_path),
    ]
    errors = check(world, found)
    assert set(errors) == {LITERAL, *(contender.name for contender in found)}
    assert max(errors.values()) < 2e-6


def test_ours_score_the_same_world_in_each_precision(world: World) -> None:
    """Law: the native engine gives the literal scores: fp32 within 2e-6, bf16 within its own bound."""
    pytest.importorskip("espalier_kernels", reason="the extension espalier-kernels is not installed")
    engine = ours.native_engine(world)
    found = [Contender(ours.MULTI, ours.scoring(engine, world, world.multi), "multi")]
    assert check(world, found)[ours.MULTI] < 2e-6


def test_who_computes_something_else_is_refused(world: World) -> None:
    """Law: a contender whose scores are those of another form is not timed."""
    (plain, *_) = peers_onnx.plain_forms(world, 1)
    with pytest.raises(RuntimeError, match="computes something else"):
        check(world, [Contender("impostor", plain.score, "multi")])
    with pytest.raises(RuntimeError, match="computes something else"):
        check(world, [Contender("broken", lambda: np.full(world.rows, np.nan), "plain")])


def test_the_plain_graph_passes_over_what_an_adapter_would_give(world: World) -> None:
    """Law: inputs that are passed over are taken by a run and change nothing."""
    shapes = {"tower.0.down": ("r", "k"), "tower.0.group": ("m", "r")}
    session = peers_onnx.session(plain_graph(world.backbone, shapes), 1)
    vectors = world.vectors()
    given = {name: np.ones((2, 3), np.float32) for name in shapes}
    (logits,) = session.run(["logit"], {**vectors, **given})
    (expected,) = peers_onnx.session(plain_graph(world.backbone), 1).run(["logit"], vectors)
    assert logits.tobytes() == expected.tobytes()


def test_the_literal_network_in_float32_is_near_but_not_exact(world: World) -> None:
    """Law: the float32 network that errors are compared with has an error of its own."""
    off = np.abs(probabilities(world, "multi", torch.float32) - probabilities(world, "multi")).max()
    assert 0 < off < 2e-6


def test_an_absent_peer_says_how_to_get_it(world: World, tmp_path: Path) -> None:
    """Law: a peer that is not installed is a reason in words, not a failure."""
    for package, start in (
        ("openvino", lambda: forms(world, 1, "fp32")),
        ("mosec", lambda: mosec(tmp_path, tmp_path, [b""]).__enter__()),
    ):
        if importlib.util.find_spec(package) is None:
            with pytest.raises(PeerAbsent, match=f"{package} is not installed"):
                start()


def test_shapes_are_those_of_the_papers() -> None:
    """Law: input widths, towers and ranks are the papers', and the small ones have as many layers and sides."""
    assert [(shape.inputs, len(shape.tower), shape.ranks) for shape in SHAPES] == [
        (113, 2, (8, 8)),
        (32, 4, (16, 16, 8, 8)),
        (408, 7, (32, 32, 32, 16, 16, 8, 8)),
    ]
    for shape, small in zip(SHAPES, SMALL, strict=True):
        assert (shape.name, len(shape.tower), len(shape.ranks)) == (small.name, len(small.tower), len(small.ranks))
