"""Kept results: found again by what decided them, and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from training.trials.errors import KeptBroken
from training.trials.kept import KeptResults, TrialKey

KEY = TrialKey("wide deep/α", 3, "c" * 64, "1f0c")
FOUND = {"scores": {"backbone": {"auc": 0.75, "domains": {"α": None}}}, "seconds": 1.5}


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    """Law: a result comes back as it was, in another process's eyes too; before it was kept there is none."""
    assert KeptResults(tmp_path / "kept").get(KEY) is None
    KeptResults(tmp_path / "kept").put(KEY, FOUND)
    assert KeptResults(tmp_path / "kept").get(KEY) == FOUND


@pytest.mark.parametrize("change", [{"method": "deep"}, {"seed": 4}, {"config": "d" * 64}, {"commit": "2a"}])
def test_every_part_of_the_key_decides(tmp_path: Path, change: dict[str, str | int]) -> None:
    """Law: another method, seed, configuration or commit is another result."""
    results = KeptResults(tmp_path)
    results.put(KEY, FOUND)
    other = replace(KEY, **change)  # type: ignore[arg-type]  # the parameters are fields with their own types
    assert results.get(other) is None
    results.put(other, {"seconds": 2.0})
    assert results.get(KEY) == FOUND


def test_results_of_other_commits_are_known_as_such(tmp_path: Path) -> None:
    """Law: what differs in the commit alone is told with its commit; what differs in more is not."""
    results = KeptResults(tmp_path)
    assert results.of_other_commits(KEY) == {}
    results.put(KEY, FOUND)
    results.put(replace(KEY, commit="old"), {"seconds": 2.0})
    results.put(replace(KEY, commit="old", seed=30), {"seconds": 3.0})
    results.put(replace(KEY, commit="old", config="d"), {"seconds": 4.0})
    assert results.of_other_commits(KEY) == {"old": {"seconds": 2.0}}


def test_a_result_that_is_no_json_is_refused_whole(tmp_path: Path) -> None:
    """Law: what cannot be written leaves nothing behind, and what was there stays."""
    results = KeptResults(tmp_path)
    results.put(KEY, FOUND)
    with pytest.raises(ValueError, match="JSON compliant"):
        results.put(KEY, {"auc": float("nan")})
    assert results.get(KEY) == FOUND
    assert len(list(tmp_path.iterdir())) == 1


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    """Law: a file that is cut, or of another trial, is an error that names it and says what to do."""
    results = KeptResults(tmp_path)
    results.put(KEY, FOUND)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 5'))
    with pytest.raises(KeptBroken, match="move it away"):
        results.get(KEY)
    path.write_text("{")
    with pytest.raises(KeptBroken, match=path.name.replace("+", r"\+")):
        results.get(KEY)
