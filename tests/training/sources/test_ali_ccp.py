"""Laws of Ali-CCP: lines joined with what is common to several, the scenario as domain, clicks alone as labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training.dataset import encode, split_of
from training.errors import SourceError
from training.prepared import PreparedDataset
from training.sources.ali_ccp import ali_ccp

Features = dict[str, str]


def packed(features: Sequence[tuple[str, str, str]]) -> str:
    return "\x01".join(f"{field}\x02{value}\x03{weight}" for field, value, weight in features)


def write(folder: Path, rows: int = 200) -> dict[str, list[tuple[str, list[tuple[str, str, str]], str]]]:
    """Files of both parts; what each skeleton line holds: click, its own features, its common index."""
    draw = np.random.default_rng(1)
    written = {}
    for part in ("train", "test"):
        with (folder / f"common_features_{part}.csv").open("w") as lines:
            for common in range(12):
                features = [("101", str(common // 2 + 1), "1.0"), ("124", str(common // 2 % 2 + 1), "1.0")]
                features += [("109_14", str(value), f"{value / 4}") for value in (3, common % 3 + 4)]
                lines.write(f"c{common},{len(features)},{packed(features)}\n")
        own = []
        with (folder / f"sample_skeleton_{part}.csv").open("w") as lines:
            for sample in range(rows):
                click, purchase = str(draw.integers(2)), str(int(draw.random() < 0.2))
                features = [("205", str(draw.integers(1, 9)), "1.0"), ("301", str(draw.choice([5, 6, 6])), "1.0")]
                features += [("206", features[0][1] + "0", "1.0"), ("508", str(draw.choice([7, 8])), "0.5")]
                features += [("210", "1", "1.0"), ("210", "2", "1.0"), ("853", str(1000 + sample), "2.5")]
                common = f"c{draw.integers(12)}"
                lines.write(f"{sample},{click},{purchase},{common},{len(features)},{packed(features)}\n")
                if (click, purchase) != ("0", "1"):
                    own.append((click, features, common))
        written[part] = own
    return written


def prepare(folder: Path, **options: int) -> PreparedDataset:
    ali_ccp(folder, folder / "out", any_size=True, **options)
    return PreparedDataset.load(folder / "out")


def test_lines_become_rows(tmp_path: Path) -> None:
    """Law: user and history from the common line, the rest from the own one, in the order of the files."""
    written = write(tmp_path)
    rows = prepare(tmp_path).interactions
    expected = []
    for click, features, common in (*written["train"], *written["test"]):
        values = {field: value for field, value, _ in features}
        number = int(common[1:])
        history = number % 3 + 4
        expected.append(
            (
                number // 2 + 1, int(values["205"]), f"scenario-{values['301']}", int(click), history, history / 4,
                int(values["508"]), 0.5, None, 2.5,
            )
        )  # fmt: skip
    columns = ["user_id", "item_id", "domain_id", "label", "109_14", "D109_14", "508", "D508", "853", "D853"]
    assert rows.select(columns).rows() == expected
    assert set(rows["split"][: len(written["train"])].to_list()) == {"train"}


def test_a_random_half_of_the_test_file_validates(tmp_path: Path) -> None:
    """Law: halves that differ by one row at most, decided by the seed."""
    count = len(write(tmp_path)["test"])
    first = prepare(tmp_path).interactions["split"]
    assert Counter(first.to_list())["validation"] == count // 2
    assert Counter(first.to_list())["test"] == count - count // 2
    assert not prepare(tmp_path, seed=1).interactions["split"].equals(first)
    assert prepare(tmp_path).interactions["split"].equals(first)


def test_entities_have_one_line_each_and_rare_values_are_empty(tmp_path: Path) -> None:
    """Law: gender by user, the last of several values by item; a value of fewer than 10 training rows is empty."""
    written = write(tmp_path)
    prepared = prepare(tmp_path)
    assert prepared.users.select("user_id", "124").rows() == [(user, (user - 1) % 2 + 1) for user in range(1, 7)]
    counts = Counter(dict.fromkeys(range(1, 9), 0))
    counts.update(int(features[0][1]) for _, features, _ in written["train"])
    expected = [(item, item * 10 if counts[item] >= 10 else None, 2) for item in range(1, 9)]
    assert prepared.items.select("item_id", "206", "210").rows() == expected
    dataset = encode(prepared, split_of(prepared, 0).train, 4)
    assert (dataset.division["gender"] >= 0).all()
    assert len(dataset.fields) == 31


def test_other_counts_than_the_public_ones_are_refused(tmp_path: Path) -> None:
    """Law: the message names the counts, and nothing is left behind."""
    write(tmp_path)
    with pytest.raises(SourceError, match=r"rows instead of 639,897, 32,236,951, 52,439,671; .*--any-size"):
        ali_ccp(tmp_path, tmp_path / "out")
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("9,2,0,c1,1,205\x024\x031.0\x01301\x025\x031.0", "line 201: click is neither 0 nor 1"),
        ("9,1,0,c77,1,205\x024\x031.0\x01301\x025\x031.0", "line 201: its common features are not in the other file"),
        ("9,1,0,c1,1,205\x024\x031.0", "line 201: has no scenario"),
        ("9,1", "line 201: "),
    ],
)
def test_a_broken_line_is_refused_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    """Law: the message names file and line, and nothing is left behind."""
    write(tmp_path)
    with (tmp_path / "sample_skeleton_test.csv").open("a") as lines:
        lines.write(f"{line}\n")
    with pytest.raises(SourceError, match=rf"sample_skeleton_test\.csv, {message}"):
        ali_ccp(tmp_path, tmp_path / "out", any_size=True)
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Law: the message names the file."""
    write(tmp_path)
    (tmp_path / "common_features_test.csv").unlink()
    with pytest.raises(SourceError, match=r"common_features_test\.csv: is missing"):
        ali_ccp(tmp_path, tmp_path / "out", any_size=True)
