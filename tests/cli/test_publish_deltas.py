"""`espalier publish` takes a run whose adapters are deltas, or carry id overlays, as it takes any run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import typer
from typer.testing import CliRunner

from adapters_store.artifact import encode_adapter
from adapters_store.manifest import AdapterManifest
from benchmarks.forge import Run
from benchmarks.oracle_files import read_safetensors
from cli.publish import publish
from tests.deltas import make_delta, make_overlaid_lora, random_deltas, random_overlay
from tests.factory import THEMES

app = typer.Typer()
app.command()(publish)


def test_a_run_of_deltas_and_overlays_is_published_unchanged(dense_run: Run, tmp_path: Path) -> None:
    """Law: the command verifies every kind with the onnx engine, publishes it, and refuses a broken one by its name."""
    run, rng = tmp_path / "run", np.random.default_rng(0)
    shutil.copytree(dense_run.folder / "bundle", run / "bundle")
    (run / "adapters").mkdir()
    oracle = dense_run.oracle
    bodies = {
        THEMES[0]: make_delta(dense_run, rng, THEMES[0], random_deltas(oracle, rng, np.float16, tables=("tags",))),
        THEMES[1]: make_delta(dense_run, rng, THEMES[1], random_deltas(oracle, rng) | random_overlay(oracle, rng)),
        THEMES[2]: make_overlaid_lora(dense_run, rng, THEMES[2], random_overlay(oracle, rng)),
    }
    for domain, body in bodies.items():
        (run / "adapters" / f"{domain}.safetensors").write_bytes(body)
    store = (tmp_path / "store").as_uri()
    done = CliRunner().invoke(app, [str(run), "--store", store])
    assert done.exit_code == 0, done.output
    assert "adapters: 3 now live, 0 unchanged" in done.output
    tensors, manifest = read_safetensors(bodies[THEMES[1]])
    spoilt = encode_adapter(AdapterManifest.model_validate(manifest), tensors | {"golden.logits": np.zeros(32)})
    (run / "adapters" / f"{THEMES[1]}.safetensors").write_bytes(spoilt)
    refused = CliRunner().invoke(app, [str(run), "--store", store])
    assert refused.exit_code != 0
    assert f"{THEMES[1]}.safetensors: golden row" in refused.output
