"""The name of the code: it changes when what trains changes, and only then."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from training.trials.code import code_commit


def git(root: Path, *arguments: str) -> None:
    """Run git as somebody."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def commit(root: Path, path: str, text: str) -> None:
    """Write a file and commit it."""
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(text)
    git(root, "add", path)
    git(root, "commit", "-q", "-m", "x", "--", path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with code that trains, and with other files."""
    git(tmp_path, "init", "-q")
    commit(tmp_path, "training/a.py", "1")
    commit(tmp_path, "docs/a.md", "1")
    return tmp_path


def test_only_what_trains_makes_results_stale(checkout: Path) -> None:
    """Law: a commit to the code changes the name; one to the documents does not."""
    first = code_commit(checkout)
    commit(checkout, "docs/a.md", "2")
    assert code_commit(checkout) == first
    commit(checkout, "training/a.py", "2")
    assert code_commit(checkout) != first


def test_changes_that_are_not_committed_are_a_part_of_the_name(checkout: Path) -> None:
    """Law: changed and new files each give another name, and taking them back gives the commit's."""
    clean = code_commit(checkout)
    (checkout / "training" / "a.py").write_text("3")
    changed = code_commit(checkout)
    (checkout / "training" / "b.py").write_text("1")
    added = code_commit(checkout)
    (checkout / "training" / "b.py").write_text("2")
    again = code_commit(checkout)
    assert len({clean, changed, added, again}) == 4
    assert all(name.startswith(f"{clean}+") for name in (changed, added, again))
    (checkout / "training" / "a.py").write_text("1")
    (checkout / "training" / "b.py").unlink()
    assert code_commit(checkout) == clean


def test_without_a_checkout_it_is_the_release(tmp_path: Path) -> None:
    """Law: code that is installed is named by its release."""
    assert code_commit(tmp_path).startswith(("release ", "unknown"))
