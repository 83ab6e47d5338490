"""What a trained run exports is what the network computes, in files that the service accepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters_store.artifact import decode_adapter, decode_fusion
from adapters_store.backbone import read_bundle
from adapters_store.verification import verify_adapter, verify_backbone, verify_fusion
from benchmarks.forge import Run, digest
from benchmarks.oracle_files import AdapterFile
from features.fields import Division
from network.fused import FusedTower
from network.fusion import Fusion, Mode
from network.lora import DomainAdapter, domain_generator
from service.engines.onnx import OnnxEngine
from tests.factory import SEGMENTS, THEMES, Sizes, make_divisions, make_fields, make_tables, make_vocabulary
from tests.factory import random_backbone as drawn_backbone
from training.artifacts_of import Choice, FusedMode, Notes
from training.batches import RowTensors
from training.dataset import EncodedDataset
from training.export import TrainedRun, export_run

SIZES = Sizes(by_item=True)
ROWS = 400
CHOSEN: dict[str, Choice] = dict(zip(THEMES, ("attention", "avg", "single", "backbone"), strict=True))


def make_dataset(rng: np.random.Generator) -> EncodedDataset:
    """Rows of random users and items in random themes; every kind of field."""
    fields, vocabulary, divisions = make_fields(SIZES), make_vocabulary(SIZES), make_divisions(SIZES)
    users, items = make_tables(rng, SIZES, vocabulary)
    user, item = rng.integers(0, SIZES.users, ROWS), rng.integers(0, SIZES.items, ROWS)
    theme = rng.integers(0, len(THEMES), ROWS)
    rows = {**users.gather(user).arrays, **items.gather(np.arange(SIZES.items)).arrays}
    tags = np.full((SIZES.items, 4), -1, np.int32)
    for i, (a, b) in enumerate(zip(rows["tags.offsets"][:-1], rows["tags.offsets"][1:], strict=True)):
        tags[i, : b - a] = rows["tags.values"][a:b]
    columns = {
        "user_id": rows["user_id"],
        "segment": rows["segment"],
        "item_id": rows["item_id"][item],
        "hour": rng.integers(0, 25, ROWS),
        "theme": theme + 1,
    }
    dense = [rows["price"][item], rng.normal(size=ROWS)]
    return EncodedDataset(
        fields=tuple(fields),
        divisions=(divisions[1], divisions[0], divisions[2]),  # the natural one is not always first
        vocabulary=vocabulary,
        users=users,
        items=items,
        sparse=np.stack(list(columns.values()), axis=1).astype(np.int32),
        dense=np.stack(dense, axis=1).astype(np.float32),
        multi_hot={"tags": (tags, item.astype(np.int32))},
        label=rng.integers(0, 2, ROWS).astype(np.float32),
        division={
            "theme": theme.astype(np.int32),
            "segment": users.division("segment", user),
            "shelf": items.division("shelf", item),
        },
        user=user.astype(np.int32),
        probability=None,
    )


@torch.no_grad()
def make_trained(seed: int = 0) -> TrainedRun:
    """Stages' results with nothing left at its start; the adapter of segment-c was never trained."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    dataset = make_dataset(rng)
    rows = RowTensors(dataset)
    backbone = drawn_backbone(rng, SIZES, dataset.fields).freeze()
    adapters = []
    for division in rows.divisions:
        names = [name for name in division.domains if name != SEGMENTS[2]]
        adapters.append({division.domains.index(name): random_adapter(backbone, division, name) for name in names})
    modes: dict[Mode, FusedMode] = {}
    for mode in ("attention", "avg", "add"):
        fusion = Fusion(backbone.shape, (3, 2)) if mode == "attention" else None
        tower = FusedTower(backbone, adapters, mode, fusion)
        found = tower.add_frequent_norms(rows.domains, min_rows=20)
        modes[mode] = FusedMode(tower.requires_grad_(False).eval(), dict.fromkeys(found, 20))
    return TrainedRun(
        dataset=dataset,
        rows=rows,
        train=np.arange(1, ROWS, 2),
        positions=np.arange(0, ROWS, 2),
        backbone=backbone,
        adapters=tuple(adapters),
        modes=modes,
        chosen=CHOSEN,
        notes={"theme-1": Notes({"auc": 0.7}, {"epochs": 3}, {"passed": True}, {"slope": 0.5, "intercept": -2.0})},
    )


def random_adapter(backbone: Any, division: Division, name: str) -> DomainAdapter:
    source = domain_generator(0, division.name, name)
    adapter = DomainAdapter.untrained(backbone, SIZES.ranks, source)
    for lora in adapter.lora_modules():
        lora.up.normal_(0.0, 0.5, generator=source)
        lora.shift.normal_(0.0, 0.2, generator=source)
    return adapter.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def trained() -> TrainedRun:
    return make_trained()


@pytest.fixture(scope="module")
def exported(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("exported") / "run"
    folder.mkdir()
    export_run(trained, folder, ablations=True)
    return Run(folder)


def test_every_artifact_passes_the_verification_that_publishing_runs(exported: Run) -> None:
    """Law: bundle, fusion, adapters and ablations are accepted by the onnx engine, golden rows included."""
    bundle = read_bundle(exported.folder / "bundle")
    engine = OnnxEngine(bundle)
    verify_backbone(bundle, engine.logits)
    fusion = decode_fusion((exported.folder / "fusion.safetensors").read_bytes())
    verify_fusion(fusion, bundle)
    paths = sorted(exported.folder.glob("adapters/*.safetensors"))
    decoded = [decode_adapter(path.read_bytes()) for path in [*paths, *exported.folder.glob("ablations/*/*")]]
    auxiliaries = {a.manifest.domain: a for a in decoded if a.manifest.division != "theme"}
    assert len(decoded) == len(THEMES) + 4 + 4 * len(THEMES)
    for adapter in decoded:
        used = fusion if adapter.manifest.fusion else None
        folds = verify_adapter(adapter, bundle, auxiliaries, used, engine.logits, adapter.manifest.domain)
        assert len(folds) == (1 if adapter.manifest.kind == "lora" else 3 * 3)


def test_the_bundle_counts_the_training_rows_of_each_id(trained: TrainedRun, exported: Run) -> None:
    """Law: by id field and table row how many training rows name it; rows that were not trained on do not count."""
    found = read_bundle(exported.folder / "bundle").tensors("counts")
    sparse = [field for field in trained.dataset.fields if field.kind == "sparse"]
    assert set(found) == {field.name for field in sparse if field.id}
    for column, field in enumerate(sparse):
        if field.id:
            named = trained.dataset.sparse[1:ROWS:2, column]
            np.testing.assert_array_equal(found[field.name], np.bincount(named, minlength=field.vocabulary_size))


def test_golden_logits_are_the_oracles(exported: Run) -> None:
    """Law: golden logits come from the tensors as stored: the oracle reads the files and finds them to 1e-10."""
    oracle, auxiliaries, fusion = exported.oracle, exported.auxiliaries(), exported.fusion()
    golden = read_bundle(exported.folder / "bundle").tensors("golden")
    assert len(golden["logits"]) == 64
    np.testing.assert_allclose(golden["logits"], oracle.logits(oracle.golden_vectors(golden)), atol=1e-10)
    for path in exported.folder.glob("a*/**/*.safetensors"):
        adapter = AdapterFile(path)
        expected = oracle.golden_logits(adapter, auxiliaries, fusion)
        assert len(expected) >= 32
        np.testing.assert_allclose(adapter.tensors["golden.logits"], expected, atol=1e-10, err_msg=str(path))


def test_golden_rows_cover_every_combination(exported: Run) -> None:
    """Law: a fused adapter's golden rows hold each combination of pinned auxiliary domains, the masked ones too."""
    adapter = AdapterFile(exported.folder / "adapters" / "theme-1.safetensors")
    assert adapter.manifest["golden_divisions"] == {"segment": list(SEGMENTS), "shelf": ["shelf-x", "shelf-y"]}
    columns = [adapter.tensors[f"golden.division.{name}"].tolist() for name in ("segment", "shelf")]
    assert set(zip(*columns, strict=True)) == {(a, b) for a in (0, 1, -1) for b in (0, 1, -1)}


def test_chosen_decides_kind_mode_and_pins(exported: Run) -> None:
    """Law: fused choices pin every trained auxiliary and, for attention, the fusion; the others are of kind lora."""
    manifests = {d: AdapterFile(path).manifest for d, path in exported.natural().items()}
    modes = [(m["kind"], m["mode"]) for _, m in sorted(manifests.items())]
    assert modes == [("fused", "attention"), ("fused", "avg"), ("lora", "single"), ("lora", "single")]
    files = {p.stem: digest(p.read_bytes()) for p in (exported.folder / "adapters").iterdir()}
    pins = {name: files[name] for name in ("segment-a", "segment-b", "shelf-x", "shelf-y")}
    assert manifests["theme-1"]["fuses"] == manifests["theme-2"]["fuses"] == pins
    assert manifests["theme-1"]["fusion"] == digest((exported.folder / "fusion.safetensors").read_bytes())
    assert manifests["theme-2"]["fusion"] is None
    assert manifests["theme-1"]["metrics"] == {"auc": 0.7}
    assert manifests["theme-1"]["gate"] == {"passed": True}
    assert manifests["theme-1"]["calibration"] == {"slope": 0.5, "intercept": -2.0}
    assert manifests["theme-2"]["calibration"] == {"slope": 1.0, "intercept": 0.0}
    assert all(pair["rows"] == 20 for pair in manifests["theme-1"]["pairs"])


def test_auxiliaries_pin_the_fusion_that_natural_domains_are_served_by(
    trained: TrainedRun, exported: Run, tmp_path: Path
) -> None:
    """Law: where a natural domain chose attention each auxiliary adapter pins its fusion; else none pins any."""
    fusion = digest((exported.folder / "fusion.safetensors").read_bytes())
    assert {one.manifest["fusion"] for one in exported.auxiliaries().values()} == {fusion}
    averaged: dict[str, Choice] = dict.fromkeys(THEMES, "avg")
    export_run(replace(trained, chosen=averaged), tmp_path)
    assert {one.manifest["fusion"] for one in Run(tmp_path).auxiliaries().values()} == {None}


def test_a_domain_that_chose_the_backbone_scores_as_it_does(exported: Run) -> None:
    """Law: the empty adapter changes no logit."""
    adapter = AdapterFile(exported.natural()["theme-4"])
    oracle = exported.oracle
    inputs = {k.removeprefix("golden."): v for k, v in adapter.tensors.items() if k.startswith("golden.inputs.")}
    np.testing.assert_allclose(
        adapter.tensors["golden.logits"], oracle.logits(oracle.golden_vectors(inputs)), atol=1e-12
    )


@pytest.mark.parametrize("mode", ["attention", "avg", "add"])
def test_exported_files_score_as_the_trained_network(trained: TrainedRun, exported: Run, mode: Mode) -> None:
    """Law: for rows of the data set the oracle reads from the files what the trained tower computes (fp16 apart)."""
    oracle, auxiliaries, fusion = exported.oracle, exported.auxiliaries(), exported.fusion()
    tower = trained.modes[mode].tower
    for domain, path in exported.natural(mode).items():
        adapter, name = AdapterFile(path), trained.rows.divisions[0].domains.index(domain)
        rows = (trained.rows.domains[:, 0] == name).nonzero().flatten()[:40]
        with torch.no_grad():
            expected = tower.logits(trained.backbone, trained.rows.batch(rows), trained.rows.domains[rows]).numpy()
        inputs = trained.dataset.rows(rows.numpy()).to_tensors("inputs")
        x = oracle.golden_vectors(inputs)
        for i, row in enumerate(trained.rows.domains[rows].tolist()):
            names = [d.domains[j] if j >= 0 else None for d, j in zip(trained.rows.divisions[1:], row[1:], strict=True)]
            present = [auxiliaries[n] for n in names if n in auxiliaries]
            combination = tuple(n if n in auxiliaries else None for n in names)
            found = oracle.logits(x[i : i + 1], adapter, present, fusion, oracle.norm_of(adapter, combination))
            assert abs(found[0] - expected[i]) < 2e-2


def test_float32_files_score_as_the_trained_network_to_rounding(trained: TrainedRun, tmp_path: Path) -> None:
    """Law: without fp16 nothing is lost: golden logits of the files are the network's but for float32's rounding."""
    export_run(replace(trained, dtype="float32"), tmp_path)
    adapter = AdapterFile(tmp_path / "adapters" / "theme-3.safetensors")
    rows = np.arange(0, ROWS, 2)
    rows = rows[trained.dataset.division["theme"][rows] == 2]
    picked = torch.from_numpy(rows[np.linspace(0, len(rows) - 1, 32).round().astype(int)])
    with torch.no_grad():
        expected = trained.backbone(trained.rows.batch(picked), trained.adapters[0][2])
    np.testing.assert_allclose(adapter.tensors["golden.logits"], expected.numpy(), atol=1e-5)


def test_the_same_run_gives_the_same_bytes(trained: TrainedRun, exported: Run, tmp_path: Path) -> None:
    """Law: exporting again gives the same files, and what an earlier export left behind is gone."""
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "theme-9.safetensors").write_bytes(b"old")
    export_run(trained, tmp_path, ablations=True)
    files = {p.relative_to(exported.folder): p for p in exported.folder.rglob("*") if p.is_file()}
    again = {p.relative_to(tmp_path): p for p in tmp_path.rglob("*") if p.is_file()}
    assert files.keys() == again.keys()
    assert all(path.read_bytes() == again[name].read_bytes() for name, path in files.items())


def test_a_withheld_domain_gets_no_file(trained: TrainedRun, exported: Run, tmp_path: Path) -> None:
    """Law: a natural domain that is withheld is left out, an older file of it removed; the others are as ever."""
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "theme-1.safetensors").write_bytes(b"old")
    export_run(replace(trained, withheld={"theme-1", "theme-3"}), tmp_path)
    files = {path.name: path.read_bytes() for path in (exported.folder / "adapters").iterdir()}
    for name in ("theme-1", "theme-3"):
        del files[f"{name}.safetensors"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapters").iterdir()} == files


def test_without_auxiliary_adapters_there_is_nothing_to_fuse(trained: TrainedRun, tmp_path: Path) -> None:
    """Law: a run whose auxiliary divisions trained nothing exports natural adapters of kind lora, and no fusion."""
    (tmp_path / "fusion.safetensors").write_bytes(b"old")
    export_run(replace(trained, adapters=(trained.adapters[0], {}, {}), modes={}), tmp_path)
    assert not (tmp_path / "fusion.safetensors").exists()
    manifests = [AdapterFile(path).manifest for path in (tmp_path / "adapters").iterdir()]
    assert {(m["kind"], m["division"]) for m in manifests} == {("lora", "theme")}
