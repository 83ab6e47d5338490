"""Tokens and scopes: who may do what."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
import yaml

from service.auth import Guard, Scope, TokenBook, TokenEntry, add_token, read_tokens
from service.refusals import Forbidden, SettingsInvalid, Unauthenticated

TOKEN = "esp_test"
SCORE = Scope("score")


def book(*scopes: str) -> TokenBook:
    """One token with these scopes."""
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    return TokenBook([TokenEntry(name="test", sha256=digest, scopes=list(scopes))])


@pytest.mark.parametrize(
    ("held", "wanted", "allowed"),
    [
        ("score", "score", True),
        ("read", "score", False),
        ("admin", "score", True),
        ("admin", "publish:women", True),
        ("admin", "publish:*", True),
        ("publish:*", "publish:women", True),
        ("publish:*", "publish:*", True),
        ("publish:country=*", "publish:country=de", True),
        ("publish:country=*", "publish:women", False),
        ("publish:women", "publish:women", True),
        ("publish:women", "publish:Women", False),
        ("publish:women", "publish:*", False),
        ("publish:?", "publish:*", False),
        ("publish:[*]", "publish:*", False),
        ("publish:*", "score", False),
        ("publish:*", "read", False),
        ("score", "publish:women", False),
    ],
)
def test_a_scope_allows_exactly_what_it_says(held: str, wanted: str, allowed: bool) -> None:
    """A pattern covers its domains only, and only `*` covers what belongs to all domains."""
    assert Scope.parse(held).allows(Scope.parse(wanted)) is allowed


@pytest.mark.parametrize("text", ["", "scor", "publish", "publish:", "score:x", "admin:", "read:*"])
def test_a_text_that_is_no_scope_is_refused(text: str) -> None:
    """A misspelt scope grants nothing silently."""
    with pytest.raises(ValueError, match="scopes are"):
        Scope.parse(text)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", TOKEN])
def test_no_bearer_token_is_told_how_to_send_one(header: str | None) -> None:
    """Whoever sends none learns the form."""
    with pytest.raises(Unauthenticated, match="Authorization: Bearer"):
        Guard(book("admin"), open_scoring=True).authorize(header, SCORE)


@pytest.mark.parametrize("token", ["esp_tes", "esp_test2", "ÿ", "\udcff"])
def test_an_unknown_token_is_refused(token: str) -> None:
    """Whatever is sent, only the token itself is the token; open scoring ends when tokens exist."""
    with pytest.raises(Unauthenticated, match="not known"):
        Guard(book("admin"), open_scoring=True).authorize(f"Bearer {token}", SCORE)


def test_a_known_token_without_the_scope_is_told_which_one_is_missing() -> None:
    """A refusal names the scope and the token's name, never the token."""
    with pytest.raises(Forbidden, match="publish:women") as refusal:
        Guard(book("score", "read"), open_scoring=True).authorize(f"Bearer {TOKEN}", Scope("publish", "women"))
    assert refusal.value.scope == "publish:women"
    assert TOKEN not in str(refusal.value)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    """RFC 9110 11.1: schemes are case-insensitive."""
    assert Guard(book("score"), open_scoring=False).authorize(f"{scheme} {TOKEN}", SCORE).name == "test"


def test_without_tokens_scoring_is_open_where_only_this_machine_listens_and_publishing_is_closed() -> None:
    """Nothing configured: score on loopback; publish nowhere, with the way to change that."""
    guard = Guard(TokenBook([]), open_scoring=True)
    assert guard.authorize(None, SCORE).name == "anonymous"
    for wanted in (Scope("publish", "women"), Scope("read"), Scope("admin")):
        with pytest.raises(Forbidden, match="espalier token new"):
            guard.authorize(None, wanted)
    with pytest.raises(Forbidden):
        Guard(TokenBook([]), open_scoring=False).authorize(None, SCORE)


def test_a_new_token_is_found_by_its_hash_and_its_file_is_private(tmp_path: Path) -> None:
    """The file never holds a token, only what recognises it, and its owner alone reads it."""
    path = tmp_path / "tokens.yaml"
    tokens = [add_token(path, "first", ["score"]), add_token(path, "second", ["publish:*", "read"])]
    assert not any(token in path.read_text() for token in tokens)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    callers = [read_tokens(path).find(token) for token in tokens]
    assert [caller and caller.name for caller in callers] == ["first", "second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens.yaml"]


def test_a_json_list_is_a_tokens_file_too(tmp_path: Path) -> None:
    """JSON is YAML."""
    path = tmp_path / "tokens.json"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    path.write_text(json.dumps([{"name": "test", "sha256": digest, "scopes": ["score"]}]))
    assert read_tokens(path).find(TOKEN) is not None


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "cannot be read"),
        ("name: x", "must be a list"),
        ("- {name: x, sha256: abc, scopes: [score]}", "sha256"),
        (f"- {{name: x, sha256: {'a' * 64}, scopes: [scor]}}", "'scor' is no scope"),
        (f"- {{name: x, sha256: {'a' * 64}, scopes: []}}", "scopes"),
        (f"- {{name: x, sha256: {'a' * 64}, scope: [score]}}", "did you mean 'scopes'"),
        (f"- {{name: x, sha256: {'a' * 64}, scopes: [score]}}\n" * 2, "'x' twice"),
        ("- [", "no YAML or JSON"),
    ],
)
def test_a_tokens_file_with_a_fault_stops_the_start(tmp_path: Path, content: str | None, named: str) -> None:
    """Half a tokens file is none; the message names the file and the fault."""
    path = tmp_path / "tokens.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsInvalid, match=rf"(?s)tokens\.yaml.*{named}"):
        read_tokens(path)


def test_a_taken_name_or_a_wrong_scope_changes_no_file(tmp_path: Path) -> None:
    """A refused token leaves the file as it was."""
    path = tmp_path / "tokens.yaml"
    add_token(path, "first", ["score"])
    before = path.read_bytes()
    with pytest.raises(SettingsInvalid, match="already has a token named 'first'"):
        add_token(path, "first", ["read"])
    with pytest.raises(SettingsInvalid, match="'publsh:x' is no scope"):
        add_token(path, "second", ["publsh:x"])
    assert path.read_bytes() == before
    assert len(yaml.safe_load(before)) == 1
