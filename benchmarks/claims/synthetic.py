"""Planted domains, where the best possible AUC is known: how much of the gap the adapters close."""

from __future__ import annotations

import json
from collections.abc import Iterator

from benchmarks.claims.line import Line, at_least
from benchmarks.claims.movielens import SEEDS, train
from benchmarks.claims.workplace import Workplace


def lines(work: Workplace) -> Iterator[Line]:
    """Three seeds; a seed draws the data set, the split and the training."""
    for seed in SEEDS:
        prepared = work.folder / f"synthetic-data-{seed}"
        if not (work.reuse and (prepared / "spec.json").exists()):
            work.espalier("data", "prepare", "synthetic", "--seed", str(seed), "--out", str(prepared))
        run, _ = train(work, "synthetic", seed, prepared, "synthetic")
        evaluation = json.loads((run / "report.json").read_text())["evaluation"]
        auc = {name: evaluation["methods"][name]["pooled"]["auc"] for name in ("backbone", "single_lora", "multi_lora")}
        bayes = evaluation["bayes"]["pooled"]["auc"]
        recovered = (auc["multi_lora"] - auc["backbone"]) / (bayes - auc["backbone"])
        yield at_least(
            f"synthetic seed {seed}: share of the gap to the Bayes AUC that MultiLoRA closes", recovered, 0.3
        )
        ordered = auc["multi_lora"] > auc["single_lora"] > auc["backbone"]
        figure = " > ".join(f"{name} {auc[name]:.4f}" for name in ("multi_lora", "single_lora", "backbone"))
        claim = f"synthetic seed {seed}: MultiLoRA > SingleLoRA > backbone (Bayes {bayes:.4f})"
        yield Line(claim, figure, "in this order", "holds" if ordered else "falls short")
