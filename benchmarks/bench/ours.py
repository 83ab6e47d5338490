"""Espalier's engines as contenders."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from adapters_store.folding import Folded
from benchmarks.bench.contender import Contender, PeerAbsent, Score
from benchmarks.bench.world import World
from service.engine import Engine, Segment
from service.engines.native import EXTENSION, EngineAbsent, NativeEngine
from service.engines.onnx import OnnxEngine

MULTI, SINGLE, ALONE = "native fp32, MultiLoRA", "native fp32, SingleLoRA", "native fp32, backbone alone"
UNSHARED = "native fp32, MultiLoRA, nothing shared"
MULTI_BF16, SINGLE_BF16 = "native bf16, MultiLoRA", "native bf16, SingleLoRA"
ONNX = "onnx engine, MultiLoRA"
AMX = "amx_bf16"
HALVES = frozenset({AMX, "avx512_bf16"})


def instruction_sets() -> list[str]:
    """What the extension has here; none without it."""
    try:
        return list(importlib.import_module(EXTENSION).instruction_sets())
    except ImportError:
        return []


def lacking(precision: str) -> str:
    """What keeps the native engine from this precision here; empty where nothing does.

    A server would go on with another engine or precision, and its figures would be of that one.
    """
    here = set(instruction_sets())
    if not here:
        return "the extension espalier-kernels is not installed, or this processor has none of its instruction sets"
    return "" if precision == "fp32" or here & HALVES else "this processor has no bfloat16 products"


def native_engine(world: World, threads: int = 1, precision: str = "fp32", **options: Any) -> NativeEngine:
    """The native engine, on the best instruction set that the processor has.

    Raises:
        PeerAbsent: it cannot run here.
    """
    try:
        return NativeEngine(world.backbone, threads, precision=precision, **options)  # type: ignore[arg-type]
    except EngineAbsent as absent:
        raise PeerAbsent(str(absent)) from absent


def scoring(engine: Engine, world: World, folds: Sequence[Folded]) -> Score:
    """All requests in one call, each by its own fold."""
    prepared = {id(fold): engine.prepare(fold) for fold in folds}
    segments = [Segment(rows, prepared[id(fold)], engine) for rows, fold in zip(world.requests, folds, strict=True)]
    return lambda: np.concatenate(engine.run(segments))


def contenders(world: World, threads: int) -> tuple[list[Contender], dict[str, str]]:
    """Ours, and why others of ours are absent, by name."""
    found, absent = list[Contender](), dict[str, str]()
    for name, precision, form, options in (
        (MULTI, "fp32", "multi", {}),
        (UNSHARED, "fp32", "multi", {"share": False}),
        (SINGLE, "fp32", "single", {}),
        (ALONE, "fp32", "plain", {}),
        (MULTI_BF16, "bf16", "multi", {}),
        (SINGLE_BF16, "bf16", "single", {}),
    ):
        folds = {"multi": world.multi, "single": world.single, "plain": world.alone}[form]
        try:
            engine = native_engine(world, threads, precision, **options)
        except PeerAbsent as why:
            absent[name] = str(why)
        else:
            found.append(Contender(name, scoring(engine, world, folds), form))  # type: ignore[arg-type]
    portable = OnnxEngine(world.with_graph, threads)
    found.append(Contender(ONNX, scoring(portable, world, world.multi), "multi"))
    return found, absent
