"""Laws of the files of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from adapters_store.tensors import BUNDLE_LIMITS
from training.cluster.parts import PartFolder


def test_a_worker_of_many_domains_is_brought_back(tmp_path: Path) -> None:
    """Law: a part of more tensors than an artifact may hold is read back as it was written."""
    count = BUNDLE_LIMITS.tensors + 1
    folder, values = PartFolder(tmp_path), torch.arange(count, dtype=torch.float32)
    part = folder.write("worker-0", {f"{domain}/rows": values[domain : domain + 1] for domain in range(count)})
    found = folder.read(part)
    assert len(found) == count
    assert float(found[f"{count - 1}/rows"]) == count - 1


def test_aucs_come_back_to_the_last_bit(tmp_path: Path) -> None:
    """Law: an epoch's AUC are read as they were written, and a domain of one class only has none."""
    aucs = [0.1 + 0.2, None, 1.0, 0.5]
    folder = PartFolder(tmp_path)
    assert folder.read_aucs(folder.write_aucs(7, aucs)) == aucs
