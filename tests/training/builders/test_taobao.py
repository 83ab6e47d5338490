"""Laws of the Taobao sets, on generated click logs: which clicks count, which themes, and the rows of each."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.training.builders.slow_rules import slow_domain
from training.builders.assembly import BuildOptions
from training.builders.rules import ratios
from training.builders.taobao import taobao
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
