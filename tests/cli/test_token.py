"""`espalier token`: make, list and revoke."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from cli import token
from service.token_file import read_tokens

app = typer.Typer()
app.add_typer(token.app, name="token")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the tokens file is."""
    return tmp_path / "tokens.yaml"


def made(path: Path, name: str, *options: str) -> str:
    """Make a token; returns what is printed on stdout."""
    done = espalier("new", "--name", name, "--scope", "score", "--out", str(path), *options)
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def espalier(*options: str) -> Result:
    """Run `espalier token`."""
    return CliRunner().invoke(app, ["token", *options])


def test_a_token_is_made_with_the_limits_that_are_given(path: Path) -> None:
    """Law: the printed token is recognised by the file, with its scopes and limits; nothing else stands on stdout."""
    drawn = made(path, "one", "--scope", "read", "--requests-per-s", "50", "--burst", "100", "--rows-per-s", "10000")
    caller = read_tokens(path).find(drawn)
    assert caller is not None
    assert [str(scope) for scope in caller.scopes] == ["score", "read"]
    assert (caller.limits.requests_per_s, caller.limits.burst, caller.limits.rows_per_s) == (50, 100, 10_000)


def test_a_limit_that_is_none_is_refused(path: Path) -> None:
    """Law: the command fails with the limit's name, and no file is made."""
    done = espalier("new", "--name", "one", "--scope", "score", "--out", str(path), "--burst", "3")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "requests_per_s" in done.stderr
    assert not path.exists()


def test_the_list_names_tokens_and_shows_nothing_that_recognises_them(path: Path) -> None:
    """Law: names, scopes and limits for people and programs; neither a token nor its hash."""
    tokens = [made(path, "one", "--requests-per-s", "5", "--rows-per-s", "10"), made(path, "two")]
    shown = espalier("list", "--file", str(path)).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert lines == [
        ["name", "scopes", "limits"],
        ["one", "score", "5", "requests/s;", "10", "rows/s"],
        ["two", "score", "none"],
    ]
    listed = espalier("list", "--file", str(path), "--json").stdout
    assert json.loads(listed) == [
        {"name": "one", "scopes": ["score"], "requests_per_s": 5, "rows_per_s": 10},
        {"name": "two", "scopes": ["score"]},
    ]
    hashes = [hashlib.sha256(each.encode()).hexdigest() for each in tokens]
    assert not any(secret in shown + listed for secret in (*tokens, *hashes))


def test_a_revoked_token_is_gone_and_it_is_said_when_servers_know(path: Path) -> None:
    """Law: the entry is taken out, the others stay, and the message says when running servers take it up."""
    first, second = made(path, "one"), made(path, "two")
    done = espalier("revoke", "one", "--file", str(path))
    assert done.exit_code == 0
    assert "SIGHUP" in done.stderr
    tokens = read_tokens(path)
    assert (tokens.find(first), tokens.find(second) is not None) == (None, True)


@pytest.mark.parametrize("command", [["revoke", "nobody"], ["list"]])
def test_what_is_not_there_is_named(path: Path, command: list[str]) -> None:
    """Law: a missing file or name ends the command with 1 and a message that names it."""
    done = espalier(*command, "--file", str(path))
    assert done.exit_code == 1
    assert "tokens.yaml" in done.stderr
    made(path, "one")
    if command[0] == "revoke":
        assert "'nobody'" in espalier(*command, "--file", str(path)).stderr
