"""Writing the tokens file: whole or not at all, one writer at a time, readable by whom it was readable before."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from service.rate_limits import Limits
from service.refusals import SettingsInvalid
from service.token_file import read_tokens
from service.token_writing import add_token, list_tokens, revoke_token


def test_a_new_token_is_found_by_its_hash_and_its_file_is_private(tmp_path: Path) -> None:
    """Law: the file never holds a token, only what recognises it, and its owner alone reads it."""
    path = tmp_path / "tokens.yaml"
    tokens = [add_token(path, "first", ["score"]), add_token(path, "second", ["publish:*", "read"])]
    assert not any(token in path.read_text() for token in tokens)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    callers = [read_tokens(path).find(token) for token in tokens]
    assert [caller and caller.name for caller in callers] == ["first", "second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens.yaml"]


def test_tokens_are_long_and_never_the_same(tmp_path: Path) -> None:
    """Law: 256 random bits each, behind a prefix that secret scanners can look for."""
    tokens = {add_token(tmp_path / f"{number}.yaml", "one", ["score"]) for number in range(20)}
    assert len(tokens) == 20
    assert all(token.startswith("esp_") and len(token) == 4 + 43 for token in tokens)


def test_limits_are_written_where_they_are_given(tmp_path: Path) -> None:
    """Law: an entry holds the limits that it was made with, and no others."""
    path = tmp_path / "tokens.yaml"
    add_token(path, "one", ["score"], Limits(5, 10, 1000))
    add_token(path, "two", ["score"])
    assert [entry.limits for entry in list_tokens(path)] == [Limits(5, 10, 1000), Limits()]
    assert [set(entry) for entry in yaml.safe_load(path.read_text())] == [
        {"name", "sha256", "scopes", "requests_per_s", "burst", "rows_per_s"},
        {"name", "sha256", "scopes"},
    ]


def test_a_revoked_token_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    """Law: revoking takes out the one that is named; one that is not known is refused, with those that are."""
    path = tmp_path / "tokens.yaml"
    first, second = (add_token(path, name, ["score"]) for name in ("first", "second"))
    revoke_token(path, "first")
    assert read_tokens(path).find(first) is None
    assert read_tokens(path).find(second) is not None
    with pytest.raises(SettingsInvalid, match="no token named 'first'; it names 'second'"):
        revoke_token(path, "first")
    revoke_token(path, "second")
    assert yaml.safe_load(path.read_text()) == []


def test_a_refused_change_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Law: a taken name, a wrong scope or limit, and an unknown name change nothing."""
    path = tmp_path / "tokens.yaml"
    add_token(path, "first", ["score"])
    before = path.read_bytes()
    with pytest.raises(SettingsInvalid, match="already has a token named 'first'"):
        add_token(path, "first", ["read"])
    with pytest.raises(SettingsInvalid, match="'publsh:x' is no scope"):
        add_token(path, "second", ["publsh:x"])
    with pytest.raises(SettingsInvalid, match="requests_per_s"):
        add_token(path, "second", ["score"], Limits(0))
    with pytest.raises(SettingsInvalid):
        revoke_token(path, "second")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_could_read_the_file_still_can(tmp_path: Path) -> None:
    """Law: a server of another group, which could read the tokens, reads the revocation too."""
    path = tmp_path / "tokens.yaml"
    for name in ("first", "second"):
        add_token(path, name, ["score"])
    path.chmod(0o640)
    revoke_token(path, "first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_the_owner_of_the_file_stays_its_owner(tmp_path: Path) -> None:
    """Law: root may revoke a token of a service that runs as someone else."""
    path = tmp_path / "tokens.yaml"
    for name in ("first", "second"):
        add_token(path, name, ["score"])
    os.chown(path, 1234, 2345)
    revoke_token(path, "first")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """Law: each change is made to what the one before left; none brings a revoked token back."""
    path = tmp_path / "tokens.yaml"
    add_token(path, "old", ["score"])
    with ThreadPoolExecutor(8) as threads:
        made = [threads.submit(add_token, path, f"t{number}", ["score"]) for number in range(24)]
        threads.submit(revoke_token, path, "old").result()
        tokens = [each.result() for each in made]
    assert {entry.name for entry in list_tokens(path)} == {f"t{number}" for number in range(24)}
    assert all(read_tokens(path).find(token) is not None for token in tokens)


def test_a_crash_while_writing_leaves_the_old_tokens(tmp_path: Path) -> None:
    """Law: what a crash left beside the file is no obstacle, and is not taken for the file."""
    path = tmp_path / "tokens.yaml"
    token = add_token(path, "first", ["score"])
    path.with_name("tokens.yaml.new").write_text("- {name: half")
    assert read_tokens(path).find(token) is not None
    add_token(path, "second", ["score"])
    assert [entry.name for entry in list_tokens(path)] == ["first", "second"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """Law: the message names the file and what is wrong."""
    with pytest.raises(SettingsInvalid, match=r"tokens\.yaml cannot be written: No such file"):
        add_token(tmp_path / "nowhere" / "tokens.yaml", "first", ["score"])
