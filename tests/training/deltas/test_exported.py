"""`artifact: compressed` of a whole `train mamdr`: LoRAs within the gate, deltas beyond it, and the reasons told."""

from __future__ import annotations

from pathlib import Path

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import read_bundle
from adapters_store.verification import verify_adapter
from service.engines.onnx import OnnxEngine
from tests.training.frameworks.test_run import small
from training.frameworks.run import train_mamdr
from training.progress import SilentMeter


class Told(SilentMeter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def test_each_domain_gets_a_lora_or_stays_a_delta_for_a_reason(small_world: Path, tmp_path: Path) -> None:
    """Law: every adapter is accepted; a LoRA records a loss within the bound, a delta's reason is told.

    What is exported is no part of what is trained: the finished training of another form is taken as it is. Of an
    earlier export nothing stays.
    """
    run, meter = tmp_path / "run", Told()
    train_mamdr(small(small_world, epochs=1), run)
    before = (run / "bundle" / "manifest.json").read_bytes()
    assert kinds(run) == {"theme-01": "delta", "theme-02": "delta", "theme-03": "delta"}
    (run / "adapters" / "theme-99.safetensors").write_bytes(b"of an earlier export")
    train_mamdr(small(small_world, epochs=1, artifact="compressed"), run, resume=True, meter=meter)
    assert (run / "bundle" / "manifest.json").read_bytes() == before
    bundle = read_bundle(run / "bundle")
    engine = OnnxEngine(bundle)
    for path in sorted((run / "adapters").glob("*.safetensors")):
        adapter = decode_adapter(path.read_bytes())
        verify_adapter(adapter, bundle, {}, None, engine.logits)
        if adapter.manifest.kind == "lora":
            record = adapter.manifest.metrics["compression"]
            assert record["auc_loss"] <= record["bound"] == 0.0005
    refused = {line.split(" ")[0] for line in meter.said if "stays a delta" in line}
    assert refused == {name for name, kind in kinds(run).items() if kind == "delta"}
    assert "lora" in kinds(run).values()


def kinds(run: Path) -> dict[str, str]:
    """Each domain's kind of adapter."""
    files = {path.stem: path.read_bytes() for path in sorted((run / "adapters").glob("*.safetensors"))}
    return {name: decode_adapter(content).manifest.kind for name, content in files.items()}
