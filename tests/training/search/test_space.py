"""Spaces: widened to hold what is given, placed into a configuration, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.search.world import framework, stages
from training.errors import ConfigError
from training.search.methods import methods_of, started
from training.search.space import (
    Range,
    Times,
    Values,
    completed,
    corners,
    parameter_of,
    placed,
    read_spaces,
)


def test_a_space_is_widened_to_what_is_given() -> None:
    """Law: the configuration's own value is a point of the completed space, whatever the space left out."""
    config = stages(pretrain={"lr": 0.5, "dropout": 0.0, "epochs": 7}, adapter={"ranks": [2, 6]})
    space = {
        "pretrain.lr": Range(low=1e-4, high=1e-2, log=True),
        "pretrain.dropout": Range(low=0.1, high=0.3),
        "pretrain.epochs": Range(low=2, high=5),
        "pretrain.weight_decay": Values(values=(0.0, 1.0)),
        "adapter.ranks": Times(times=(2.0,)),
    }
    found, given = completed(space, config)
    assert found["pretrain.lr"] == Range(low=1e-4, high=0.5, log=True)
    assert found["pretrain.dropout"] == Range(low=0.0, high=0.3)
    assert found["pretrain.epochs"] == Range(low=2, high=7, integer=True)
    assert found["pretrain.weight_decay"] == Values(values=(0.0, 1.0, 1e-5))
    assert found["adapter.ranks"] == Times(times=(2.0, 1.0))
    assert placed(config, found, given) == config


def test_every_usual_space_holds_what_is_given() -> None:
    """Law: of each method the configuration as given is a point, and every end of the space is a configuration."""
    last = stages(select="last_epoch")
    for config in (stages(), last, framework(), framework(preset="parity", finetune={"epochs": 2})):
        names = ["finetune", "single"] if config in (stages(), last) else ["mamdr", "dn", "maml", "mmoe", "mix"]
        for method in [*methods_of(config, []), *methods_of(config, names)]:
            begun = started(method, config)
            space, given = completed(method.space, begun)
            method.check(space)
            assert placed(begun, space, given) == begun
            assert len(corners(begun, space)) > 2 * len(space)


def test_averages_are_tried_where_they_can_be_selected() -> None:
    """Law: every schedule is searched with averaged weights and without, but for stages that select nothing."""
    names = ["pretrain", "adapters", "fuse", "finetune"]
    keys = ["pretrain.average", "adapters.average", "fuse.average", "whole.average"]
    best, last = (methods_of(stages(select=select), names) for select in ("best", "last_epoch"))
    assert [key in method.space for method, key in zip(best, keys, strict=True)] == [True] * 4
    assert [key in method.space for method, key in zip(last, keys, strict=True)] == [True, False, False, True]


def test_a_point_changes_what_it_names() -> None:
    """Law: values are set, lists are multiplied and stay whole numbers of at least 1; all else is as it was."""
    config = stages(adapter={"ranks": [2, 6]})
    space = {"adapter.ranks": Times(times=(0.25, 1.5)), "adapters.lr": Range(low=1e-4, high=1e-2)}
    found = placed(config, space, {"adapter.ranks": 0.25, "adapters.lr": 0.002})
    assert found.adapter.ranks == (1, 2)
    assert found.adapters == config.adapters.model_copy(update={"lr": 0.002})
    assert placed(config, space, {"adapter.ranks": 1.5}).adapter.ranks == (3, 9)
    rest = {"adapter", "adapters"}
    assert found.model_dump(exclude=rest) == config.model_dump(exclude=rest)


@pytest.mark.parametrize(
    ("key", "parameter", "said"),
    [
        ("pretrain.rate", {"low": 1, "high": 2}, "pretrain.rate, which the configuration does not have"),
        ("adapter.ranks", {"low": 1, "high": 2}, "give the values to try"),
        ("adapter.ranks", {"values": [1, 2]}, "search it by `times`"),
        ("fusion.ranks", {"times": [1, 2]}, "only a number, or a list of numbers"),
        ("pretrain.dropout", {"low": 0.1, "high": 0.2, "log": True}, "no logarithmic range holds"),
        ("pretrain.dropout", {"values": [0.1, 3.0]}, r"at pretrain\.dropout 3: pretrain\.dropout"),
        ("backbone.kind", {"values": ["mlp", "mpl"]}, "at backbone.kind mpl: backbone.kind"),
    ],
)
def test_what_the_configuration_cannot_take_is_refused(key: str, parameter: dict[str, Any], said: str) -> None:
    """Law: a key that is not there, or a value that it does not take, is named before anything is trained."""
    config = stages(pretrain={"dropout": 0.0})
    with pytest.raises(ConfigError, match=said):
        corners(config, completed({key: parameter_of(key, parameter)}, config)[0])


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("adapters", "pretrain.lr", "it may change adapter, adapters"),
        ("single", "adapters.lr", "it may change backbone, whole"),
        ("mix", "seed", "it decides no method"),
        ("mix", "framework", "it decides no method"),
    ],
)
def test_a_key_of_another_method_is_refused(name: str, key: str, said: str) -> None:
    """Law: a method's space holds keys of its own, so that no stage changes one before it."""
    (method,) = methods_of(framework() if name == "mix" else stages(), [name])
    with pytest.raises(ConfigError, match=said):
        method.check({key: Values(values=(1,))})
    with pytest.raises(ConfigError, match="is empty"):
        method.check({})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pretrain: {pretrain.lr: {low: 2, high: 1}}", r"pretrain, pretrain\.lr: low .2. must lie below high .1."),
        ("pretrain: {pretrain.lr: {low: 0, high: 1, log: true}}", "begins above 0"),
        ("pretrain: {pretrain.lr: {low: 0, hihg: 1}}", "hihg is no known key; did you mean 'high'"),
        ("pretrain: {pretrain.lr: {values: []}}", r"pretrain, pretrain\.lr: values"),
        ("pretrain: {pretrain.lr: {times: [-1]}}", "times"),
        ("pretrain: [1]", "pretrain"),
    ],
)
def test_a_file_of_spaces_is_checked(tmp_path: Path, text: str, said: str) -> None:
    """Law: what is wrong in the file is named, with the file."""
    path = tmp_path / "spaces.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"spaces\.yaml.*{said}"):
        read_spaces(path)


def test_a_file_of_spaces_is_read(tmp_path: Path) -> None:
    """Law: ranges, values and multiples are told apart by their keys; values keep their types."""
    path = tmp_path / "spaces.yaml"
    lines = ("fuse.average: {values: [null, tail]}", "fuse.epochs: {low: 1, high: 3}", "fuse.lr: {times: [2]}")
    path.write_text(f"fuse: {{{', '.join(lines)}}}")
    assert read_spaces(path) == {
        "fuse": {
            "fuse.average": Values(values=(None, "tail")),
            "fuse.epochs": Range(low=1, high=3),
            "fuse.lr": Times(times=(2.0,)),
        }
    }


@pytest.mark.parametrize(
    ("names", "said"),
    [(["pretrian"], "no method 'pretrian' to search; it has pretrain"), (["single", "single"], "named twice")],
)
def test_a_name_is_checked(names: list[str], said: str) -> None:
    """Law: what cannot be searched is refused by name, with the names there are."""
    with pytest.raises(ConfigError, match=said):
        methods_of(stages(), names)
    with pytest.raises(ConfigError, match="no method 'pretrain' to search; it has mix"):
        methods_of(framework(), ["pretrain"])
    with pytest.raises(ConfigError, match="fuse has nothing to search"):
        methods_of(stages(fusion={"mode": "single"}), [])


def test_stages_are_searched_in_their_order() -> None:
    """Law: whatever order they are named in, a stage comes after those that it stands on; baselines come last."""
    named = [method.name for method in methods_of(stages(), ["single", "fuse", "finetune", "pretrain"])]
    assert named == ["pretrain", "fuse", "finetune", "single"]
    assert [method.name for method in methods_of(stages(), [])] == ["pretrain", "adapters", "fuse"]
    assert [method.name for method in methods_of(framework(structure="mmoe"), [])] == ["mmoe"]


def test_a_network_is_trained_as_mix_is() -> None:
    """Law: a multi-domain network keeps the settings that are its own and takes none of another's."""
    given = framework(structure="mmoe", settings={"experts": 3}, framework="mamdr")
    mmoe, star, dn = (started(methods_of(given, [name])[0], given) for name in ("mmoe", "star", "dn"))
    assert (mmoe.framework, mmoe.structure, mmoe.settings) == ("mix", "mmoe", {"experts": 3})
    assert (star.structure, star.settings) == ("star", {})
    assert (dn.framework, dn.structure) == ("dn", "mmoe")
