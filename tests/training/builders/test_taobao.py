"""Laws of the Taobao sets, on generated click logs: which clicks count, which themes, and the rows of each."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.builders.slow_rules import slow_domain
from training.builders.assembly import BuildOptions
from training.builders.rules import ratios
from training.builders.sets import SetName, build_set
from training.builders.taobao import taobao
from training.dataset import encode
from training.errors import SourceError
from training.progress import SilentMeter
from training.sources.clicklog import ClickWorld, write_click_log

WORLD = ClickWorld(seed=3, themes=6, users=60, items=80, clicks=900, items_per_theme=40)
ANY = BuildOptions(seed=1, any_size=True)


def counted_clicks(folder: Path) -> dict[int, list[tuple[int, int]]]:
    """Different clicks of each theme by users and items that have an embedding; themes as the log first names them."""

    def ids(side: str) -> set[int]:
        with (folder / f"{side}_embedding.csv").open() as lines:
            return {int(row[0]) for row in list(csv.reader(lines))[1:]}

    users, items = ids("user"), ids("item")
    themes: dict[int, list[tuple[int, int]]] = {}
    with (folder / "theme_click_log.csv").open() as lines:
        for row in csv.DictReader(lines):
            own = themes.setdefault(int(row["theme_id"]), [])
            click = (int(row["user_id"]), int(row["item_id"]))
            if click[0] in users and click[1] in items and click not in own:
                own.append(click)
    return themes


def test_rows_are_those_of_the_slow_rules(tmp_path: Path) -> None:
    """Law: the first themes of the log, row by row what plain loops over its lines give."""
    write_click_log(tmp_path, WORLD)
    prepared = taobao("taobao-10", 4, tmp_path, ANY, SilentMeter())
    prepared.check()
    themes = list(counted_clicks(tmp_path).items())[:4]
    expected = [
        row
        for (theme, clicks), ratio in zip(themes, ratios(4), strict=True)
        for row in slow_domain(f"theme-{theme}", clicks, ratio, 1)
    ]
    assert prepared.interactions.rows() == expected
    assert list(prepared.spec.natural.domains) == [f"theme-{theme}" for theme, _ in themes]


def test_the_domain_is_an_input_beside_user_and_item(tmp_path: Path) -> None:
    """Law: the network reads user_id, item_id and, of the domain, domain_id."""
    write_click_log(tmp_path, WORLD)
    fields = taobao("taobao-10", 4, tmp_path, ANY, SilentMeter()).spec.fields
    assert [(field.name, field.of, field.id) for field in fields] == [
        ("user_id", "user", True),
        ("item_id", "item", True),
        ("domain", "domain", False),
    ]


def test_users_and_items_bring_the_vectors_of_the_files(tmp_path: Path) -> None:
    """Law: asked for, each user's and item's vector is the file's, and nothing else about the set changes."""
    clicks = write_click_log(tmp_path, WORLD)
    plain = taobao("taobao-10", 4, tmp_path, ANY, SilentMeter())
    prepared = taobao("taobao-10", 4, tmp_path, replace(ANY, vectors=True), SilentMeter())
    prepared.check()
    assert prepared.interactions.equals(plain.interactions)
    assert [field.vectors for field in prepared.spec.fields] == ["embedding", "embedding", None]
    for side, taste in (("user", clicks.user_taste), ("item", clicks.item_taste)):
        table = {"user": prepared.users, "item": prepared.items}[side]
        found = np.array(table["embedding"].to_list())
        own = taste[table[f"{side}_id"].to_numpy() - 1]
        np.testing.assert_allclose(found, own, atol=6e-5)  # the file has four digits
    dataset = encode(prepared, np.arange(100), 4)
    assert [(field.frozen, field.width) for field in dataset.fields] == [(True, 8), (True, 8), (False, 4)]


def test_a_vector_that_is_cut_is_refused(tmp_path: Path) -> None:
    """Law: the message names file and line, and how many numbers are there."""
    write_click_log(tmp_path, WORLD)
    path = tmp_path / "item_embedding.csv"
    lines = path.read_text().splitlines()
    used = {str(item) for item in taobao("taobao-10", 4, tmp_path, ANY, SilentMeter()).items["item_id"]}
    place = [number for number, line in enumerate(lines) if line.split(",")[0] in used][3]
    lines[place] = ",".join(lines[place].replace('"', "").split(",")[:-1])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SourceError, match=rf"item_embedding\.csv, line {place + 1}: has 7 numbers .*lines have 8"):
        taobao("taobao-10", 4, tmp_path, replace(ANY, vectors=True), SilentMeter())


def test_other_sets_bring_no_vectors(tmp_path: Path) -> None:
    """Law: vectors are refused where the source has none, before anything is built."""
    with pytest.raises(SourceError, match="brings no vectors for amazon-6"):
        build_set(SetName.AMAZON_6, tmp_path, replace(ANY, vectors=True), SilentMeter())


def test_a_log_with_too_few_themes_is_refused(tmp_path: Path) -> None:
    """Law: the message says how many there are and how many are needed."""
    write_click_log(tmp_path, WORLD)
    with pytest.raises(SourceError, match="has 6 themes with clicks, not 10"):
        taobao("taobao-10", 10, tmp_path, ANY, SilentMeter())


def test_without_embeddings_nobody_is_dropped_or_the_build_is_refused(tmp_path: Path) -> None:
    """Law: the public set needs them, because they decide who counts; --any-size does without."""
    write_click_log(tmp_path, WORLD)
    with_them = taobao("taobao-10", 4, tmp_path, ANY, SilentMeter())
    (tmp_path / "user_embedding.csv").unlink()
    (tmp_path / "item_embedding.csv").unlink()
    with pytest.raises(SourceError, match=r"user_embedding\.csv: is missing; .*--any-size"):
        taobao("taobao-10", 4, tmp_path, BuildOptions(), SilentMeter())
    without = taobao("taobao-10", 4, tmp_path, ANY, SilentMeter())
    assert without.spec.facts["users"] > with_them.spec.facts["users"]


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("theme_click_log.csv", "1,2,x,3", "theme_click_log.csv, line 902: theme_id is no integer"),
        ("theme_click_log.csv", "1,2", "theme_click_log.csv, line 902: does not have 4 columns"),
        ("user_embedding.csv", "u7,0.1", "user_embedding.csv, line [0-9]+: user_id is no integer .'u7'"),
    ],
)
def test_a_broken_file_is_refused_by_file_and_line(tmp_path: Path, file: str, line: str, message: str) -> None:
    """Law: the message names the file, the line and what is wrong with it."""
    write_click_log(tmp_path, WORLD)
    with (tmp_path / file).open("a") as lines:
        lines.write(f"{line}\n")
    with pytest.raises(SourceError, match=message):
        taobao("taobao-10", 4, tmp_path, ANY, SilentMeter())
