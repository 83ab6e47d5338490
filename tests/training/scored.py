"""Test rows as if a run had scored them: five methods of known order, uneven domains, some odd ones."""

from __future__ import annotations

import numpy as np

from training.predictions import Predictions

NOISE = {"backbone": 1.0, "single_lora": 0.7, "multi_lora": 0.4, "multi_lora_avg": 0.7, "multi_lora_add": 1.0}
DOMAINS = ("large", "small", "clicks-only", "empty")


def scored_rows(n: int = 3000, seed: int = 0, synthetic: bool = True) -> Predictions:
    """Predictions of n rows: half of them large, some in no domain, none in `empty`, only clicks in `clicks-only`."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=n)
    probability = 1 / (1 + np.exp(-truth))
    label = (generator.random(n) < probability).astype(np.float32)
    domain = generator.choice([0, 1, 2, -1], p=[0.5, 0.3, 0.1, 0.1], size=n).astype(np.int32)
    label[domain == 2] = 1.0
    logits = {name: truth + noise * generator.normal(size=n) for name, noise in NOISE.items()}
    user = generator.integers(0, n // 20, size=n).astype(np.int32)
    return Predictions(logits, label, domain, DOMAINS, user, probability if synthetic else None)
