"""A whole `train mamdr`: what it leaves behind is served, resumable, and what its parts say."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

import training
from adapters_store.artifact import decode_adapter
from adapters_store.backbone import read_bundle
from adapters_store.folding import fold_backbone
from adapters_store.verification import verify_adapter, verify_backbone
from cli.train import app
from cli.train_mamdr import Combine, Mode, cluster_of
from service.engines.onnx import OnnxEngine
from tests.training.small import contents
from training.baselines.table import BASELINES
from training.cluster.config import ClusterConfig
from training.config import read_config
from training.errors import ConfigError, RunExists, StageMissing
from training.frameworks.config import MamdrConfig
from training.frameworks.run import MamdrRun, train_mamdr
from training.frameworks.scoring import all_logits, domain_logits, positions_of
from training.frameworks.structure import PlainStructure
from training.frameworks.trained import shared_backbone, trained
from training.golden import spread
from training.predictions import read_predictions
from training.prepared import PreparedDataset
from training.progress import SilentMeter

CONFIGS = Path(training.__file__).parent / "configs"

SMALL: dict[str, Any] = {
    "network": {"width": 4, "tower": [8, 4], "dropout": 0.1, "embedding_std": 0.05},
    "batch_rows": 512,
    "epochs": 2,
    "inner": {"lr": 0.01},
    "outer": {"lr": 0.5},
    "lora": {"ranks": [2, 2]},
    "artifact_dtype": "float32",
    "bootstrap_draws": 100,
}


def small(data: Path, **changes: Any) -> MamdrConfig:
    return MamdrConfig.model_validate({"data": data, **SMALL, **changes})


DELTAS: dict[str, Any] = {"embeddings": "deltas", "left_out": ["theme-02"], "finetune": {"epochs": 1, "lr": 0.1}}
LORAS: dict[str, Any] = {"specific": "lora", "network": {**SMALL["network"], "norm": True}}


@pytest.fixture(scope="module")
def deltas(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with row-sparse deltas, without the second domain."""
    return train_mamdr(small(small_world, **DELTAS), tmp_path_factory.mktemp("deltas") / "run")


@pytest.fixture(scope="module")
def loras(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose theta_i are LoRAs over a tower with norms."""
    return train_mamdr(small(small_world, epochs=1, **LORAS), tmp_path_factory.mktemp("loras") / "run")


@pytest.mark.parametrize(("kind", "keys"), [("delta", DELTAS), ("lora", {"epochs": 1, **LORAS})])
def test_what_is_trained_is_what_is_served(
    small_world: Path, request: pytest.FixtureRequest, kind: str, keys: dict[str, Any]
) -> None:
    """Law: every published theta_i is accepted, and scored by the portable engine as training scores the domain."""
    run: Path = request.getfixturevalue(f"{kind}s")
    bundle = read_bundle(run / "bundle")
    engine = OnnxEngine(bundle)
    verify_backbone(bundle, engine.logits)
    opened = MamdrRun(small(small_world, **keys), run, SilentMeter())
    state = opened.fitted().state
    assert set(state.specifics) == ({0, 2} if kind == "delta" else {0, 1, 2})
    for domain in state.specifics:
        file = run / "adapters" / f"{opened.domains.names[domain]}.safetensors"
        adapter = decode_adapter(file.read_bytes())
        assert adapter.manifest.kind == kind
        verify_adapter(adapter, bundle, {}, None, engine.logits)
        positions = torch.from_numpy(spread(np.asarray(opened.domains.test[domain]), 32))
        kept = slice(1, None, 2) if kind == "delta" else slice(None)  # an overlay's golden rows get other ids
        stored = adapter.tensors["golden.logits"][kept]
        found = domain_logits(opened.setting, state, domain, positions)[kept]
        assert abs(found - stored).max() < 1e-5
        shared = domain_logits(opened.setting, state, domain, positions, shared=True)[kept]
        assert abs(shared - stored).max() > 1e-4


def test_predictions_are_those_of_the_selected_state(small_world: Path, deltas: Path) -> None:
    """Law: test rows are scored by theta_S as `backbone`, and each by its own theta_i as the framework."""
    predictions = read_predictions(deltas)
    assert list(predictions.logits) == ["backbone", "mamdr", "mamdr_finetune"]
    opened = MamdrRun(small(small_world, **DELTAS), deltas, SilentMeter())
    state = opened.fitted().state
    for domain, part in enumerate(opened.setting.domains.test):
        mine = predictions.domain == domain
        np.testing.assert_array_equal(
            predictions.logits["mamdr"][mine], domain_logits(opened.setting, state, domain, part)
        )
    left_out = predictions.domain == 1
    np.testing.assert_array_equal(predictions.logits["mamdr"][left_out], predictions.logits["backbone"][left_out])
    report = json.loads((deltas / "report.json").read_text())
    assert report["training"]["pretrain"]["history"][0]["aucs"][1] is None
    assert len(report["training"]["finetune"]) == 2


def test_a_new_domain_joins_a_finished_run(small_world: Path, deltas: Path, tmp_path: Path) -> None:
    """Law: a domain that was left out gets an adapter of the same backbone; bundle and others keep their bytes."""
    config = small(small_world, **DELTAS)
    with pytest.raises(StageMissing):
        train_mamdr(config, tmp_path / "none", domain="theme-02")
    run = Path(shutil.copytree(deltas, tmp_path / "run"))
    before = contents(run)
    assert "adapters/theme-02.safetensors" not in before
    train_mamdr(config, run, domain="theme-02")
    after = contents(run)
    added = after.pop("adapters/theme-02.safetensors")
    assert after == before
    bundle = read_bundle(run / "bundle")
    verify_adapter(decode_adapter(added), bundle, {}, None, OnnxEngine(bundle).logits, "theme-02")
    with pytest.raises(ConfigError, match="theme-99"):
        train_mamdr(config, run, domain="theme-99")


def test_a_domain_joins_a_run_without_any_theta_i(small_world: Path, tmp_path: Path) -> None:
    """Law: also where the framework left no theta_i, a domain that joins gets a delta that the run's bundle takes.

    What it is worth on its test rows is told; asked for compressed, its own `stop` rows judge what that costs.
    """
    keys: dict[str, Any] = {"framework": "dn", "epochs": 1, "left_out": ["theme-02"]}
    run, told = train_mamdr(small(small_world, **keys), tmp_path / "run"), Told()
    assert not list((run / "adapters").iterdir())
    bundle = read_bundle(run / "bundle")
    engine = OnnxEngine(bundle)
    for form in ("delta", "compressed"):
        train_mamdr(small(small_world, **keys, artifact=form), run, domain="theme-02", meter=told)
        adapter = decode_adapter((run / "adapters" / "theme-02.safetensors").read_bytes())
        assert adapter.manifest.kind == ("delta" if form == "delta" else "lora")
        verify_adapter(adapter, bundle, {}, None, engine.logits, "theme-02")
        assert re.fullmatch(r"theme-02: test AUC 0\.\d{5} against 0\.\d{5} of theta_S alone", told.said[-1])


def test_a_domain_does_not_join_what_is_not_served(small_world: Path, tmp_path: Path) -> None:
    """Law: a multi-domain network takes no domain, for nothing would serve it; the reason is told before training."""
    config = small(small_world, structure="plate", settings={"user_fields": ["user_id"]})
    with pytest.raises(ConfigError, match="structure plate is not served"):
        train_mamdr(config, tmp_path / "run", domain="theme-02")


def test_nothing_is_fitted_on_a_domain_that_is_left_out(small_world: Path, tmp_path: Path) -> None:
    """Law: the constants of the encoding are those of the other domains' training rows; one domain must remain."""
    run = MamdrRun(small(small_world, left_out=["theme-02"]), tmp_path / "run", SilentMeter())
    prepared = PreparedDataset.load(small_world)
    others = prepared.interactions[run.split.train].filter(pl.col("domain_id") != "theme-02")
    mean = others.join(prepared.items, on="item_id")["price"].mean()
    price = next(field for field in run.dataset.fields if field.name == "price")
    assert price.normalization is not None
    assert price.normalization.shift == pytest.approx(mean)
    every = MamdrRun(small(small_world), tmp_path / "every", SilentMeter())
    assert price not in every.dataset.fields
    assert [f.vocabulary_size for f in run.dataset.fields] == [f.vocabulary_size for f in every.dataset.fields]
    with pytest.raises(ConfigError, match="left_out names every domain"):
        MamdrRun(small(small_world, left_out=every.domains.names), tmp_path / "none", SilentMeter())


def test_rows_with_missing_values_are_evaluated_as_they_are_served(small_world: Path, tmp_path: Path) -> None:
    """Law: test rows whose values are missing have the bundle's logits, though training has moved row 0 elsewhere."""
    prepared = PreparedDataset.load(small_world)
    holes = prepared.users.with_columns(pl.when(pl.int_range(pl.len()) % 3 > 0).then("region").alias("region"))
    replace(prepared, users=holes).write(tmp_path / "data")
    config = small(tmp_path / "data", framework="dn", epochs=1)
    run = train_mamdr(config, tmp_path / "run")
    opened = MamdrRun(config, run, SilentMeter())
    positions = positions_of(opened.setting.domains.test)
    bundle = read_bundle(run / "bundle")
    served = OnnxEngine(bundle).logits(opened.dataset.rows(positions), fold_backbone(bundle))
    found = read_predictions(run).logits
    np.testing.assert_allclose(found["backbone"], served, atol=1e-5)
    np.testing.assert_array_equal(found["dn"], found["backbone"])
    state = opened.fitted().state
    assert abs(all_logits(opened.setting, state, opened.setting.domains.test) - served).max() > 1e-4


def test_a_run_that_went_on_leaves_the_same_predictions(small_world: Path, tmp_path: Path) -> None:
    """Law: stopped in its second epoch and resumed, a run scores its test rows as one that was not, bit for bit."""
    config = small(small_world, structure="shared_bottom")
    whole = train_mamdr(config, tmp_path / "whole")
    stopped = MamdrRun(config, tmp_path / "stopped", StopAt("epoch 2"))
    with pytest.raises(KeyboardInterrupt):
        stopped.fitted()
    with pytest.raises(RunExists):
        train_mamdr(config, tmp_path / "stopped")
    train_mamdr(config, tmp_path / "stopped", resume=True)
    files = [(run / "predictions.parquet").read_bytes() for run in (whole, tmp_path / "stopped")]
    assert files[0] == files[1]


class Told(SilentMeter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


class StopAt(SilentMeter):
    """Interrupts the training where it says a line."""

    def __init__(self, line: str) -> None:
        self._line = line

    def say(self, line: str) -> None:
        if self._line in line:
            raise KeyboardInterrupt


@pytest.mark.parametrize("structure", list(BASELINES))
def test_multi_domain_networks_learn_under_mamdr(small_world: Path, tmp_path: Path, structure: str) -> None:
    """Law: MAMDR trains every multi-domain network; it leaves predictions and a report, and no bundle."""
    run = train_mamdr(small(small_world, epochs=1, structure=structure), tmp_path / "run")
    assert (run / "report.json").exists()
    assert not (run / "bundle").exists()


def test_settings_that_do_not_fit_are_refused(small_world: Path, tmp_path: Path) -> None:
    """Law: a configuration that cannot be trained is refused before anything is written, and says why."""
    for changes, message in (
        ({"structure": "none-such"}, "none-such"),
        ({"settings": {"experts": 3}}, "plain takes no settings"),
        ({"left_out": ["theme-9"]}, "theme-9"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_mamdr(small(small_world, **changes), tmp_path / "run")
    with pytest.raises(ConfigError, match="no data"):
        train_mamdr(MamdrConfig(), tmp_path / "run")
    assert not (tmp_path / "run" / "report.json").exists()
    for changes in ({"framework": "finetune"}, {"specific": "lora", "structure": "mmoe"}, {"epoch": 3}):
        with pytest.raises(ValueError, match=r"finetune.epochs|structure: plain|epoch"):
            small(small_world, **changes)


def test_presets_are_the_released_codes_answers() -> None:
    """Law: `parity` answers as methods.md 3 says, `legacy` adds PCGrad and MLDG; given keys stand above."""
    parity = MamdrConfig.model_validate({"preset": "parity", "outer": {"lr": 0.3}})
    assert parity.inner.reset == "never"
    assert parity.regularization.gamma == 0.3
    assert parity.regularization.start == "random"
    assert parity.regularization.include_target
    assert (parity.finetune.optimizer, parity.finetune.lr, parity.finetune.patience) == ("sgd", 1e-3, 3)
    assert (parity.embeddings, parity.auc, parity.legacy_rules) == ("copies", "thresholds", False)
    taobao = MamdrConfig.model_validate({"preset": "legacy", "embeddings": "frozen", "inner": {"lr": 0.01}})
    assert (taobao.embeddings, taobao.inner.reset, taobao.inner.lr, taobao.legacy_rules) == (
        "frozen",
        "never",
        0.01,
        True,
    )
    plain = MamdrConfig()
    assert (plain.inner.reset, plain.regularization.start, plain.finetune.epochs) == ("loop", "zeros", 0)
    assert plain.inner.rule.lr == 1e-3
    assert plain.outer.rule.name == "sgd"


@pytest.mark.parametrize(
    ("words", "ray", "rest"),
    [
        (["--ray"], "local", []),
        (["--ray", "--workers", "3"], "local", ["--workers", "3"]),
        (["--ray", "ray://head:10001", "--resume"], "ray://head:10001", ["--resume"]),
        (["--resume"], None, ["--resume"]),
    ],
)
def test_ray_may_lack_its_address(words: list[str], ray: str | None, rest: list[str]) -> None:
    """Law: `--ray` alone, or before another option, asks for a Ray that is started here."""
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    mamdr = command.commands["mamdr"]
    given = ["--config", "mamdr.yaml", "--out", "run", *words]
    found = mamdr.make_context("mamdr", given).params
    assert found["ray"] == ray
    assert found["resume"] == ("--resume" in rest)
    assert found["workers"] == (3 if "--workers" in rest else 2)


def test_options_of_a_cluster_are_its_settings() -> None:
    """Law: every setting of a cluster that has an option gets it, the options' defaults are the settings' own."""
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    mamdr = command.commands["mamdr"]

    def read(words: list[str]) -> ClusterConfig:
        found = mamdr.make_context("mamdr", ["--config", "mamdr.yaml", "--out", "run", "--ray", *words]).params
        numbers = (found["workers"], found["shards"], found["staleness"])
        return cluster_of(*numbers, Mode(found["mode"]), Combine(found["combine"]))

    assert read([]) == ClusterConfig()
    words = ["--workers", "3", "--shards", "2", "--mode", "async", "--staleness", "4", "--combine", "mean"]
    assert read(words) == ClusterConfig(workers=3, shards=2, mode="async", staleness=4, combine="mean")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("mamdr-*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    """Law: every configuration that is shipped can be read."""
    assert read_config(path, MamdrConfig).framework == "mamdr"


def test_the_command_trains_and_refuses(small_world: Path, tmp_path: Path) -> None:
    """Law: `espalier train mamdr` takes the file's keys and the options above them; a wrong key ends with code 1."""
    file = tmp_path / "mamdr.yaml"
    file.write_text(json.dumps({**SMALL, "epochs": 1, "structure": "shared_bottom"}))
    arguments = ["mamdr", "--config", str(file), "--out", str(tmp_path / "run"), "--data", str(small_world)]
    result = CliRunner().invoke(app, [*arguments, "--framework", "dn", "--seed", "3"])
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "report.json").read_text())["training"]["config"]
    assert (config["framework"], config["seed"]) == ("dn", 3)
    refused = CliRunner().invoke(app, [*arguments, "--specific", "everything", "--resume"])
    assert refused.exit_code == 1
    assert "specific" in refused.output + refused.stderr


def test_handed_over_deltas_are_theta_i_under_the_bundles_names(small_world: Path, tmp_path: Path) -> None:
    """Law: theta_S plus a handed-over delta, tensor by tensor, scores as the domain's own weights do."""
    network = {**SMALL["network"], "kind": "deepfm", "norm": True}
    config = small(small_world, epochs=1, network=network, embeddings="deltas")
    run = MamdrRun(config, tmp_path / "run", SilentMeter())
    state = run.fitted().state
    structure = run.setting.structure
    assert isinstance(structure, PlainStructure)
    backbone = shared_backbone(run.setting, structure.backbone, state)
    learned = trained(run.setting, backbone, state)
    for domain, own in learned.domains.items():
        whole = own.full(learned.shared)
        backbone.load_weights({name: value + whole.get(name, 0.0) for name, value in learned.shared.items()})
        rows = run.setting.domains.test[domain][:50]
        with torch.no_grad():
            expected = backbone(run.rows.batch(rows)).double().numpy()
        assert abs(domain_logits(run.setting, state, domain, rows) - expected).max() < 1e-5
        assert {name.split(".")[0] for name in own.rows} == {"embedding", "first_order"}
        assert all((found.rows > 0).all() for found in own.rows.values())
