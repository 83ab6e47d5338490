"""Tokens and scopes: who may do what."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from service.auth import Guard, Scope, TokenBook, TokenEntry
from service.refusals import Forbidden, Unauthenticated

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


def test_a_token_is_found_among_many_and_only_by_itself() -> None:
    """Law: however many tokens there are, each finds its own caller; a hash, a prefix and a name find nobody."""
    digests = {f"t{number}": hashlib.sha256(f"secret {number}".encode()).hexdigest() for number in range(300)}
    many = TokenBook([TokenEntry(name=name, sha256=digest, scopes=["score"]) for name, digest in digests.items()])
    callers = [many.find(f"secret {number}") for number in range(300)]
    assert [caller and caller.name for caller in callers] == list(digests)
    for wrong in ("secret", "secret 300", "t0", digests["t0"], digests["t0"].upper(), ""):
        assert many.find(wrong) is None


def test_tokens_are_compared_in_constant_time_and_placed_by_a_key_of_the_process() -> None:
    """Law: where a token stands in the book depends on a random key, so no timing leads from one to its hash."""
    entry = TokenEntry(name="test", sha256=hashlib.sha256(TOKEN.encode()).hexdigest(), scopes=["score"])
    places = {next(iter(TokenBook([entry])._callers)) for _ in range(3)}
    assert len(places) == 3
    assert entry.sha256.encode() not in places
    names = {name for code in (TokenBook.find.__code__,) for name in code.co_names}
    assert "compare_digest" in names


def test_a_file_that_names_nobody_lets_nobody_in() -> None:
    """Law: scoring is open only where no tokens were ever configured, not where the last one was revoked."""

    class Nobody(TokenBook):
        configured = True

    with pytest.raises(Unauthenticated):
        Guard(Nobody([]), open_scoring=True).authorize("Bearer x", SCORE)


@pytest.mark.parametrize(
    "limits",
    [
        {"requests_per_s": 0},
        {"requests_per_s": -1},
        {"requests_per_s": float("inf")},
        {"requests_per_s": 1, "burst": 0},
        {"burst": 3},
        {"rows_per_s": 0},
        {"rows_per_s": float("nan")},
        {"row_per_s": 1},
    ],
)
def test_a_limit_that_is_none_is_refused(limits: dict[str, Any]) -> None:
    """Law: a limit is a positive number, a burst needs the rate that it belongs to, and a misspelt one is no limit."""
    with pytest.raises(ValidationError):
        TokenEntry(name="x", sha256="a" * 64, scopes=["score"], **limits)
