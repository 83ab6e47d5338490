"""A configuration that trains in a second or two, and how to compare what runs leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.config import TrainingConfig

SETTINGS: dict[str, Any] = {
    "threads": 1,
    "backbone": {"width": 4, "tower": [16, 8]},
    "pretrain": {"lr": 5e-3, "batch_rows": 512, "epochs": 3, "dropout": 0.1},
    "adapter": {"ranks": [2, 2]},
    "adapters": {"lr": 5e-3, "batch_rows": 512, "epochs": 2, "dropout": 0.1},
    "fuse": {"lr": 5e-3, "batch_rows": 1024, "epochs": 2, "dropout": 0.1},
    "fusion": {"min_tuple_rows": 50},
    "gate": {"policy": "record"},
    "export_ablations": True,
    "bootstrap_draws": 100,
}


def small_config(data: Path | None, **changes: Any) -> TrainingConfig:
    """The small settings, with some top-level keys replaced."""
    return TrainingConfig.model_validate({"data": data, **SETTINGS, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    """Every tensor file and manifest below a folder, by relative path; reports and locks left out."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".onnx") or is_manifest(path))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if "state" not in path.parts}


def is_manifest(path: Path) -> bool:
    """Whether this is a bundle's manifest."""
    return path.name == "manifest.json"
