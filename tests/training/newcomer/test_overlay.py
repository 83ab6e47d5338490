"""Which ids an overlay has, where its rows start, and what training moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from adapters_store.artifact import decode_adapter
from adapters_store.overlays import read_overlay
from features.fields import Field
from features.index import RawIndex
from features.overlay import IdOverlay
from features.vocabulary import Vocabulary
from network.lora import DomainAdapter
from network.norm import Moments
from tests.factory import Sizes
from tests.kinds import KINDS
from tests.training.newcomer.world import NEW_USERS, UNSEEN_USERS, config_of, frame_of, ground_of, make_bundle, rows_of
from training.artifacts_of import Notes
from training.batches import RowTensors
from training.config import AdapterConfig
from training.dataset import Split
from training.newcomer.addition import overlays_of
from training.newcomer.artifact import newcomer_artifact
from training.newcomer.config import NewcomerSchedule, OverlayConfig
from training.newcomer.encoding import EncodedNewcomer, encode_rows
from training.newcomer.ground import Ground
from training.newcomer.loading import network_of
from training.newcomer.network import OwnParts
from training.newcomer.overlay import Chosen, TrainedOverlay, choose_overlay
from training.newcomer.rows import split_rows
from training.newcomer.trainer import TrainedNewcomer, train_newcomer
from training.progress import SilentMeter


class Scene:
    """Rows of a domain on a random backbone."""

    def __init__(self, folder: Path, sizes: Sizes | None = None, rows: int = 300) -> None:
        self.sizes = sizes or Sizes()
        self.ground: Ground = ground_of(make_bundle(folder / "bundle", self.sizes))
        self.frame = frame_of(rows)
        new = rows_of(self.frame)
        self.encoded: EncodedNewcomer = encode_rows(new, self.ground)
        self.split: Split = split_rows(new, 0.2, seed=0)
        self.backbone = network_of(self.ground.bundle)

    def chosen(self, **overlay: object) -> dict[str, Chosen]:
        config = config_of(self.sizes, overlay=overlay)
        found = overlays_of(self.backbone, self.encoded, self.ground, self.split, config)
        return {chosen.overlay.field.of: chosen for chosen in found}

    def trained(self, changes: dict[str, object] | None = None, **overlay: object) -> TrainedNewcomer:
        config = config_of(self.sizes, overlay=overlay, **(changes or {}))
        chosen = list(self.chosen(**overlay).values())
        rows = RowTensors(self.encoded.dataset)
        return train_newcomer(self.backbone, rows, self.split, chosen, config, SilentMeter())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("overlay"))


def test_ids_are_those_of_training_rows_that_the_choice_names(scene: Scene) -> None:
    """Law: `unseen` has the ids without a row of the backbone's, `all` every one, `none` no overlay; ids that only
    validation names are left out."""
    trained_on = set(scene.frame["user_id"].gather(scene.split.train).to_list())
    assert set(scene.chosen(ids="unseen")["user"].overlay.ids) == trained_on & set(UNSEEN_USERS) != set()
    everyone = scene.chosen(ids="all")["user"].overlay
    assert set(everyone.ids) == trained_on
    assert scene.chosen(ids="none") == {}
    few = Split(scene.split.train[:5], scene.split.stop, scene.split.gate, scene.split.test)
    field = everyone.field
    side = scene.encoded.sides["users"]
    unseen = np.ones(len(side.index), bool)
    chosen = choose_overlay(scene.backbone, field, side, unseen, few.train, OverlayConfig(ids="all"))
    assert chosen is not None
    assert set(chosen.overlay.ids) == set(scene.frame["user_id"][:].gather(few.train).to_list())
    placed = chosen.positions.numpy()
    for row, position in enumerate(placed):
        raw = scene.frame["user_id"][row]
        assert (chosen.overlay.ids[position] == raw) if position >= 0 else (raw not in chosen.overlay.ids)


def test_of_a_hashed_vocabulary_unseen_is_what_the_bundle_s_table_lacks(tmp_path: Path) -> None:
    """Law: where every id has a row, those in the table that training left are known, others unseen."""
    ground = ground_of(make_bundle(tmp_path / "bundle"))
    indices = {f.name: ground.vocabulary[f.name] for f in ground.bundle.manifest.fields if f.kind != "dense"}
    hashed = Vocabulary({**indices, "user_id": RawIndex.of_buckets(35)})
    pl.DataFrame(NEW_USERS).write_parquet(tmp_path / "users.parquet")
    ground = replace(ground, vocabulary=hashed).with_files({"users": tmp_path / "users.parquet"})
    new = rows_of(frame_of(40, users=("1", "40", "u-new")))
    encoded, split = encode_rows(new, ground), split_rows(new, 0.2, seed=0)
    found = overlays_of(network_of(ground.bundle), encoded, ground, split, config_of())
    (user,) = (chosen.overlay.ids for chosen in found if chosen.overlay.field.of == "user")
    assert user == ("u-new",)


@pytest.mark.parametrize("kind", ["mlp", "deepfm"])
def test_an_untrained_overlay_leaves_every_logit_as_it_is(kind: str, tmp_path: Path) -> None:
    """Law: before the first step the network is the backbone, bit for bit, first-order weights included."""
    scene = Scene(tmp_path, Sizes() if kind == "mlp" else KINDS["deepfm"], rows=80)
    trained = scene.trained(ids="all")
    everything = np.arange(80)
    np.testing.assert_array_equal(trained.start_logits(everything), trained.backbone_logits(everything))
    assert np.abs(trained.logits(everything) - trained.start_logits(everything)).max() > 1e-3


def test_rows_start_from_the_backbone_s_own_and_are_held_there(scene: Scene) -> None:
    """Law: a known id starts from its row, an unseen one from row 0; an endless l2 leaves both there."""
    table = torch.tensor(scene.ground.bundle.weights["embedding.user_id"])
    overlay = scene.chosen(ids="all")["user"].overlay
    known = scene.ground.vocabulary.rows("user_id", list(overlay.ids))
    torch.testing.assert_close(overlay.rows(), table[torch.from_numpy(known.astype(np.int64))], rtol=0, atol=0)
    free, held = (scene.trained(ids="all", l2=l2, bits=None).network.overlays[0].overlay for l2 in (0.0, 1e9))
    far, near = ((one.rows() - one.own).abs().max().item() for one in (free, held))
    assert far > 20 * near
    assert near < 0.05


def test_the_weight_decay_is_the_lora_s_alone(scene: Scene) -> None:
    """Law: rows of the overlay are held by l2 and by nothing else: without it they move as far under a weight decay
    that takes back every step of what it holds."""
    far = []
    for decay in (0.0, 1e3):
        schedule = {"lr": 1e-2, "weight_decay": decay, "batch_rows": 64, "steps": 10_000, "epochs": 6}
        changes: dict[str, object] = {"schedule": schedule, "min_of_class": 1000, "blind_epochs": 6}
        trained = scene.trained(changes, ids="all", l2=0.0)
        far.append(trained.network.overlays[0].overlay.moved.abs().mean().item())
    assert far[1] > 0.5 * far[0] > 0.02


def test_training_leaves_the_backbone_and_moves_every_named_id(scene: Scene) -> None:
    """Law: not a bit of the backbone changes; every row of the overlay does."""
    before = scene.backbone.weights()
    overlay = scene.trained(ids="all", l2=0.0).network.overlays[0].overlay
    for name, value in scene.backbone.weights().items():
        assert torch.equal(value, before[name]), name
    assert bool((overlay.moved != 0).any(1).all())


def test_a_live_overlay_is_started_from_and_keeps_every_id(scene: Scene) -> None:
    """Law: ids of a live overlay start from its rows, also those that no row names; others from the backbone."""
    side = scene.encoded.sides["users"]
    field = scene.chosen(ids="all")["user"].overlay.field
    index = RawIndex.from_values(["36", "37", "elsewhere"])
    rows = np.arange(12, dtype=np.float16).reshape(3, 4)
    live = IdOverlay("user_id", index, rows)
    unseen = np.asarray(side.columns.arrays["user_id"] == 0)
    chosen = choose_overlay(
        scene.backbone, field, side, unseen, scene.split.train, OverlayConfig(), live, scene.ground.vocabulary
    )
    assert chosen is not None
    found = dict(zip(chosen.overlay.ids, chosen.overlay.rows().detach(), strict=True))
    for raw in ("36", "37", "elsewhere"):
        assert found[raw].tolist() == rows[index.find([raw])[0]].tolist()
    row_0 = torch.tensor(scene.ground.bundle.weights["embedding.user_id"][0])
    assert torch.equal(found["38"], row_0)
    places = {raw: i for i, raw in enumerate(chosen.overlay.ids)}
    expected = [places.get(raw, -1) for raw in scene.frame["user_id"].to_list()]
    assert chosen.positions.tolist() == expected


@pytest.mark.parametrize("moments", ["compensated", "frozen"])
def test_gradients_are_those_of_the_network_written_out(scene: Scene, moments: Moments) -> None:
    """Law: that the first layer's gradient goes to the overlays' columns alone, and its LoRA is merged into it, changes
    no gradient: they are those of x made of the rows, W0 x + b0 + scale * (up (down x)) + shift."""
    adapter = AdapterConfig(ranks=scene.sizes.ranks, moments=moments)
    network = scene.trained({"adapter": adapter, "schedule": NewcomerSchedule(epochs=2)}, ids="all").network
    own = OwnParts(network).requires_grad_(True).train()
    for name, value in own.named_parameters():
        if name.endswith(".up"):  # the best epoch may be the start, where it is zero
            nn.init.normal_(value, generator=torch.Generator().manual_seed(0))
    part = torch.from_numpy(scene.split.train[:64])

    def literal(level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        adapter = network.adapter
        assert isinstance(adapter, DomainAdapter)
        lora = adapter.lora(level)
        assert lora is not None
        found: Tensor = adapter.norms[level](linear(x) + lora.scale * (x @ lora.down.T @ lora.up.T) + lora.shift)
        return found

    literal.training, literal.dropout = True, 0.0  # type: ignore[attr-defined]
    with torch.no_grad():
        looked = scene.backbone.embeddings.look_up(network.rows.batch(part))
    for chosen in network.overlays:
        looked = chosen.overlay.laid_over(looked, chosen.positions[part])
    found = []
    for logits in (network.score(part), scene.backbone.score_looked_up(looked, literal)):  # type: ignore[arg-type]
        own.zero_grad()
        logits.square().sum().backward()
        found.append({name: value.grad.clone() for name, value in own.named_parameters() if value.grad is not None})
    ours, expected = found
    assert set(ours) == set(expected) == {name for name, _ in own.named_parameters()}
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max() + 1))
        assert gradient.abs().max() > 0 or "shift" in name, name


@pytest.mark.parametrize(
    ("rows", "epochs", "share"),
    [(1, 5, 1 / 1024), (200, 5, 200 / 6 / 1024), (2_000, 5, 100 / 1024), (102_400, 4, 1.0), (1_024_000, 2, 1.0)],
)
def test_few_rows_get_smaller_batches_and_steps_and_many_get_fewer_passes(rows: int, epochs: int, share: float) -> None:
    """Law: a batch's step is by the root of its share of a full one; so many steps are enough, two passes at least."""
    schedule = NewcomerSchedule(min_batches=20, steps=320, epochs=5, batch_rows=1024, lr=0.01).of_rows(rows)
    assert (schedule.epochs, schedule.patience) == (epochs, epochs)
    assert schedule.lr == pytest.approx(0.01 * math.sqrt(share))
    assert NewcomerSchedule(epochs=1).of_rows(rows).epochs == 1


def overlay_of(start: list[list[float]], live: list[bool], moved: list[list[float]], width: int) -> TrainedOverlay:
    """An overlay of these rows; a live row's start is not the backbone's own."""
    field = Field(name="user_id", kind="sparse", of="user", id=True, vocabulary_size=9, width=width)
    rows = torch.tensor(start)
    own = torch.where(torch.tensor(live).unsqueeze(1), rows + 1, rows)
    overlay = TrainedOverlay(field, 0, [str(i) for i in range(len(rows))], own, rows, torch.ones(rows.shape[1]), 2.0)
    with torch.no_grad():
        overlay.moved.copy_(torch.tensor(moved))
    return overlay


@pytest.mark.parametrize(
    ("far", "bits"),
    [(0.5, 6), (1.5, 7), (3.5, 8), (100.0, None), (1e6, None), (math.inf, None)],
    ids=["within the grid", "one bit more", "two bits more", "no grid", "not in float16", "not finite"],
)
def test_live_rows_that_nothing_moved_keep_their_values(far: float, bits: int | None) -> None:
    """Law: where another row would make the grid too wide for them, more bits are taken, and at last numbers; what is
    rounded is what an artifact gives, and first-order weights are not."""
    step = 2.0**-6
    start = [[step, 0.3], [62 * step, 0.3], [0.0, 0.3]]
    overlay = overlay_of(start, [True, True, False], [[0.0, 0.0], [0.0, 0.0], [far / 2, 0.7]], width=1)
    before = overlay.rows().detach().clone()
    overlay.round_to(6)
    after = overlay.rows().detach()
    assert overlay.bits == bits
    torch.testing.assert_close(after[:2], before[:2], rtol=0, atol=0)
    torch.testing.assert_close(after[:, 1], before[:, 1], rtol=1e-6, atol=0)
    if bits is None:
        torch.testing.assert_close(after, before, rtol=0, atol=0)
    else:
        stored = overlay.exported().in_bits(bits)
        torch.testing.assert_close(stored.rows.float(), after[:, :1], rtol=0, atol=1e-7)
        assert abs(float(after[2, 0] - before[2, 0])) <= step / 2


def test_a_live_row_off_every_grid_keeps_its_value() -> None:
    """Law: an overlay that was stored in numbers stays in numbers where it is trained on."""
    overlay = overlay_of([[0.1234567], [0.5], [0.9]], [True, False, False], [[0.0], [0.3], [-0.2]], width=1)
    overlay.round_to(6)
    assert overlay.bits is None
    assert float(overlay.rows().detach()[0, 0]) == pytest.approx(0.1234567, rel=1e-7)


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "mlp"), ("float16", "deepfm"), ("float32", "mlp")])
def test_what_is_judged_is_what_the_artifact_holds(dtype: str, kind: str, tmp_path: Path) -> None:
    """Law: after training the rows are those of the file, coded where it is of float16 and numbers where it is not."""
    scene = Scene(tmp_path, Sizes() if kind == "mlp" else KINDS["deepfm"], rows=200)
    changes: dict[str, object] = {"artifact_dtype": dtype, "min_of_class": 1000}
    config = config_of(scene.sizes, overlay={"ids": "all"}, **changes)
    trained = scene.trained(changes, ids="all")
    adapter = decode_adapter(newcomer_artifact(trained, scene.encoded, scene.ground, config, Notes()))
    overlay = read_overlay(scene.ground.bundle, adapter)
    assert overlay is not None
    for chosen in trained.network.overlays:
        own, side = chosen.overlay, overlay.sides[chosen.overlay.field.of]  # type: ignore[index]
        rows = own.rows()[torch.from_numpy(np.argsort(side.index.find(own.ids)))]
        np.testing.assert_allclose(rows[:, : side.rows.shape[1]].numpy(), side.rows, rtol=1e-6, atol=1e-7)
        assert own.bits == (6 if dtype == "float16" else None)
        assert (f"overlay.{own.field.of}.codes" in adapter.tensors) == (dtype == "float16")


def test_a_backbone_that_learns_is_no_ground_for_overlays(scene: Scene) -> None:
    """Law: the narrow gradient is of a frozen layer; without one it is refused, rather than lost."""
    network = scene.trained(ids="all").network
    scene.backbone.linears[0].requires_grad_(True)
    try:
        with pytest.raises(ValueError, match="frozen"):
            network.score(torch.arange(40))
    finally:
        scene.backbone.requires_grad_(False)
