"""A mixed batch of 32 domains x 100 items on one core, against the plain backbone and against peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.bench import ours, peers_onnx, peers_openvino, peers_peft
from benchmarks.bench.batches import LITERAL, Batch
from benchmarks.bench.part import Asked, measured
from benchmarks.bench.shapes import MAIN, Batching
from benchmarks.claims.engine_lines import absent, on_amx, reaches, told
from benchmarks.claims.line import Line
from benchmarks.claims.workplace import Workplace

PLAIN, OPENVINO = peers_onnx.PLAIN, peers_openvino.NAMES
LAYERS = 4  # up to so many the error has a fixed bound
FIXED_ERROR = 2e-6


@dataclass(frozen=True)
class Bounds:
    """What one network's figures must reach.

    Args:
        multi: MultiLoRA in fp32 against the plain backbone.
        half: in bf16 against the same.
        openvino: in bf16 against the plain backbone in OpenVINO bf16.
    """

    multi: float
    half: float
    openvino: float


BOUNDS = {
    "MovieLens": Bounds(0.80, 3.3, 0.80),
    "Amazon": Bounds(0.85, 4.5, 0.55),
    "Ali-CCP": Bounds(0.76, 4.1, 0.50),
}


def lines(work: Workplace) -> Iterator[Line]:
    """Each network in a process of its own."""
    for shape in BOUNDS:
        asked = Asked("batch", shape, Batching(4, 5) if work.quick else MAIN, quick=work.quick)
        yield from judged(measured(asked, Batch, work.folder / "bench"))


def judged(batch: Batch) -> Iterator[Line]:
    """The lines of one network."""
    bounds, name = BOUNDS[batch.shape], f"{batch.shape} {batch.batching}"
    yield _against(batch, f"{name}: MultiLoRA fp32", ours.MULTI, PLAIN, bounds.multi, 1.0)
    yield _against(batch, f"{name}: SingleLoRA fp32", ours.SINGLE, PLAIN, 0.95, 1.05)
    yield error(batch)
    yield on_amx(_against(batch, f"{name}: MultiLoRA bf16", ours.MULTI_BF16, PLAIN, bounds.half, 5))
    claim = f"{name}: MultiLoRA bf16 against OpenVINO bf16 plain"
    yield on_amx(_against(batch, claim, ours.MULTI_BF16, OPENVINO["bf16"], bounds.openvino, 0.75))
    for precision, multi, single, session, peft in (
        ("fp32", ours.MULTI, ours.SINGLE, 1.6, 2),
        ("bf16", ours.MULTI_BF16, ours.SINGLE_BF16, 8, 10),
    ):
        pair = _against(
            batch, f"{name}: MultiLoRA {precision} against a session a pair", multi, peers_onnx.LITERAL, session
        )
        mixed = _against(
            batch, f"{name}: SingleLoRA {precision} against PEFT's mixed batch", single, peers_peft.NAME, peft
        )
        yield from (pair, mixed) if precision == "fp32" else (on_amx(pair), on_amx(mixed))
    yield from others(batch, name)


def error(batch: Batch) -> Line:
    """The largest distance of a probability from float64, in fp32."""
    literal = batch.errors[LITERAL]
    bound = FIXED_ERROR if batch.layers <= LAYERS else max(FIXED_ERROR, 2 * literal)
    claim = f"{batch.shape} {batch.batching}: max |dp| of MultiLoRA fp32 against float64"
    if ours.MULTI not in batch.errors:
        return absent(claim, f"<= {bound:.1e}", batch.absent[ours.MULTI])
    found = batch.errors[ours.MULTI]
    figure = f"{found:.2e} (literal torch fp32: {literal:.2e})"
    return Line(claim, figure, f"<= {bound:.2e}", "holds" if found <= bound else "falls short")


def others(batch: Batch, name: str) -> Iterator[Line]:
    """Figures without a bound, all against the plain backbone in ONNX Runtime."""
    for one in (ours.UNSHARED, ours.ALONE, ours.ONNX, OPENVINO["fp32"], OPENVINO["bf16"]):
        yield _told(batch, name, one)
    for one in (peers_onnx.LITERAL, peers_onnx.FOLDED, peers_onnx.ADAPTERS, peers_peft.NAME):
        yield _told(batch, name, one)


def _told(batch: Batch, name: str, one: str) -> Line:
    if one in batch.absent:
        return absent(f"{name}: {one}", "", batch.absent[one])
    return told(f"{name}: {one}", batch.trial, one, PLAIN)


def _against(batch: Batch, claim: str, one: str, base: str, bound: float, aim: float | None = None) -> Line:
    for side in (one, base):
        if side in batch.absent:
            return absent(claim, f">= {bound:g}x", batch.absent[side])
    return reaches(claim, batch.trial, one, base, bound, aim)
