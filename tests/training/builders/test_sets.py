"""Laws of the sets by name: the same bytes with any number of processes, and counts that are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.builders import test_archives
from training.builders.assembly import BuildOptions
from training.builders.published import COUNTS, PUBLISHED
from training.builders.sets import SetName, build_set
from training.errors import SourceError
from training.progress import SilentMeter
from training.sources.clicklog import ClickWorld, draw_clicks, write_click_log, write_reviews

WORLD = ClickWorld(seed=3, themes=10, users=60, items=80, clicks=900, items_per_theme=40)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def build(source: Path, out: Path, name: SetName = SetName.TAOBAO_10, **options: int) -> dict[str, bytes]:
    build_set(name, source, BuildOptions(**{"any_size": True, **options}), SilentMeter()).write(out)
    return folder_bytes(out)


def test_a_build_is_the_same_with_any_number_of_processes(tmp_path: Path) -> None:
    """Law: byte for byte; another seed draws other negatives and another split, and as many of each."""
    write_click_log(tmp_path / "source", WORLD)
    alone = build(tmp_path / "source", tmp_path / "1")
    assert build(tmp_path / "source", tmp_path / "2", processes=2) == alone
    assert build(tmp_path / "source", tmp_path / "again") == alone
    assert build(tmp_path / "source", tmp_path / "seed", seed=1) != alone


def test_a_fault_in_another_process_is_told_as_in_this_one(tmp_path: Path) -> None:
    """Law: file and line come back from the process that found them."""
    categories = ["Musical Instruments", "Office Products", "Patio Lawn and Garden", "Prime Pantry", "Toys and Games"]
    write_reviews(
        tmp_path, [*categories, "Video Games"], ClickWorld(themes=6, users=30, items=40, clicks=300, items_per_theme=20)
    )
    (tmp_path / "Toys_and_Games_5.json.gz").unlink()
    (tmp_path / "Toys_and_Games_5.json").write_text('{"reviewerID": "A1"}\n')
    for processes in (1, 2):
        with pytest.raises(SourceError, match=r"Toys_and_Games_5\.json, line 1: is no review") as caught:
            build(tmp_path, tmp_path / "out", SetName.AMAZON_6, processes=processes)
        assert caught.value.line == 1
    assert not (tmp_path / "out").exists()


def test_other_counts_than_the_published_ones_are_refused(tmp_path: Path) -> None:
    """Law: the message says what was found and what is published; a set of which nothing is published passes."""
    write_click_log(tmp_path, ClickWorld(themes=30, users=60, items=80, clicks=900, items_per_theme=40))
    with pytest.raises(
        SourceError,
        match=r"users instead of 23,778 .* rows instead of 173,284 for taobao-10; .*--any-size.*no source at hand",
    ):
        build_set(SetName.TAOBAO_10, tmp_path, BuildOptions(), SilentMeter())
    with pytest.raises(SourceError, match=r"for taobao-20 \(differences up to 0\.3% are let pass\)"):
        build_set(SetName.TAOBAO_20, tmp_path, BuildOptions(), SilentMeter())
    assert build_set(SetName.TAOBAO_30, tmp_path, BuildOptions(), SilentMeter()).spec.facts["rows"]


def test_an_archive_is_recognised(tmp_path: Path) -> None:
    """Law: where the source holds domain folders the authors' rows are taken, not drawn anew."""
    test_archives.write(tmp_path, 10, "split_by_theme_10")
    prepared = build_set(SetName.TAOBAO_10, tmp_path, BuildOptions(any_size=True), SilentMeter())
    assert prepared.spec.facts["archive"]
    assert len(prepared.interactions) == 70


def test_published_counts_hold_by_their_arithmetic() -> None:
    """Law: rows over domains is the printed mean, and Amazon-13's rows are the sum that its overview is known by."""
    domains = {"amazon-6": 6, "amazon-13": 13, "taobao-10": 10, "taobao-20": 20}
    for name, count in domains.items():
        assert PUBLISHED[name].per_domain == round(PUBLISHED[name].rows / count)
    assert PUBLISHED["amazon-13"].rows == 20_439_886
    assert {name for name, one in PUBLISHED.items() if one.tolerance == 0} == {"amazon-6", "taobao-10", "epinions-mdr"}


def test_figures_without_a_source_are_marked() -> None:
    """Law: what nothing at hand confirms is known as such, and a build that it refuses is told so."""
    assert {name: one.unsourced for name, one in PUBLISHED.items()} == {
        "amazon-6": COUNTS,
        "amazon-13": ("users", "items"),
        "taobao-10": COUNTS,
        "taobao-20": COUNTS,
        "epinions-mdr": (),
    }


def test_a_click_log_is_decided_by_its_seed() -> None:
    """Law: the same seed draws the same log; every theme has clicks, some of them repeated."""
    first, again = draw_clicks(WORLD), draw_clicks(WORLD)
    assert (first.user == again.user).all()
    assert (first.item == again.item).all()
    assert set(first.theme.tolist()) == set(range(1, 11))
    lines = list(zip(first.user.tolist(), first.item.tolist(), first.theme.tolist(), strict=True))
    assert len(set(lines)) < 0.98 * len(lines)
