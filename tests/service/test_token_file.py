"""The tokens file: what it may hold, and how a running service follows it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from service.auth import Guard, Scope
from service.logs import open_log
from service.refusals import SettingsInvalid, Unauthenticated
from service.token_file import TokenFile, read_tokens
from service.token_writing import add_token, revoke_token
from tests.service.clockwork import ManualClock, turns_until

TOKEN = "esp_test"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
LOOK_S = 10.0


class Followed:
    """A tokens file with one token, as a service follows it.

    Args:
        folder: where the file is made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.yaml"
        self.token = add_token(self.path, "first", ["score"])
        self.log = io.StringIO()
        self.file = TokenFile(self.path, open_log(stream=self.log))

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    @property
    def lets_in(self) -> bool:
        """Whether the first token still opens scoring, at a service that leaves it open where none is configured."""
        try:
            Guard(self.file, open_scoring=True).authorize(f"Bearer {self.token}", Scope("score"))
        except Unauthenticated:
            return False
        return True


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    """A tokens file with one token."""
    return Followed(tmp_path)


async def test_a_token_that_is_added_or_revoked_counts_from_the_next_look(followed: Followed) -> None:
    """Law: a change takes effect without a restart: a new token opens, a revoked one no longer does."""
    second = add_token(followed.path, "second", ["read"])
    assert followed.file.find(second) is None
    assert await followed.file.reload()
    assert followed.file.find(second) is not None
    revoke_token(followed.path, "first")
    assert followed.lets_in
    assert await followed.file.reload()
    assert not followed.lets_in
    assert [line["event"] for line in followed.lines] == ["tokens_reloaded"] * 2


async def test_the_file_is_looked_at_as_often_as_it_is_told(followed: Followed) -> None:
    """Law: a change is found within one interval, without any signal."""
    clock = ManualClock()
    async with following(followed.file, clock):
        revoke_token(followed.path, "first")
        second = add_token(followed.path, "second", ["score"])
        await clock.advance(LOOK_S - 0.1)
        assert followed.lets_in
        await clock.advance(0.2)
        await turns_until(lambda: followed.file.find(second) is not None)
        assert not followed.lets_in
        revoke_token(followed.path, "second")
        await turns_until(lambda: clock.waiting == 1)
        await clock.advance(LOOK_S)
        await turns_until(lambda: followed.file.find(second) is None)


async def test_the_last_token_that_is_revoked_closes_the_service(followed: Followed) -> None:
    """Law: a file that names nobody lets nobody in; it never opens scoring."""
    revoke_token(followed.path, "first")
    assert await followed.file.reload()
    assert not followed.lets_in
    assert followed.file.configured


@pytest.mark.parametrize(
    "content", [None, b"", b"\n", b"- [", b"- {name: x}", b"\xff\xfe", b"name: x", b"- {name: [x]}"]
)
async def test_a_broken_file_keeps_the_old_tokens_and_is_logged_once(followed: Followed, content: bytes | None) -> None:
    """Law: a file that is gone, half written or faulty changes nothing, and fills no log while it stays so."""
    whole = followed.path.read_bytes()
    if content is None:
        followed.path.unlink()
    else:
        followed.path.write_bytes(content)
    assert [await followed.file.reload() for _ in range(3)] == [False] * 3
    assert followed.lets_in
    assert [line["event"] for line in followed.lines] == ["tokens_kept"]
    assert "tokens.yaml" in followed.lines[0]["reason"]
    followed.path.write_bytes(whole)
    assert await followed.file.reload()


async def test_a_fault_that_comes_back_is_logged_again(followed: Followed) -> None:
    """Law: what was mended in between is a new fault."""
    whole = followed.path.read_bytes()
    for content in (b"", whole, b""):
        followed.path.write_bytes(content)
        await followed.file.reload()
    assert [line["event"] for line in followed.lines] == ["tokens_kept", "tokens_kept"]


async def test_a_mounted_secret_is_followed_through_its_link(followed: Followed, tmp_path: Path) -> None:
    """Law: Kubernetes changes a mounted file by moving a link; the new target's tokens count."""
    for number in (1, 2):
        (tmp_path / f"data{number}").mkdir()
    first = add_token(tmp_path / "data1" / "tokens.yaml", "first", ["score"])
    second = add_token(tmp_path / "data2" / "tokens.yaml", "first", ["score"])
    link = tmp_path / "data"
    link.symlink_to("data1")
    file = TokenFile(link / "tokens.yaml", open_log(stream=io.StringIO()))
    assert file.find(first) is not None
    moved = tmp_path / "data.new"
    moved.symlink_to("data2")
    moved.rename(link)
    assert await file.reload()
    assert (file.find(first), file.find(second) is not None) == (None, True)


async def test_nothing_that_is_logged_holds_a_token_or_its_hash(followed: Followed) -> None:
    """Law: neither a reload nor a fault tells what recognises a token."""
    digest = hashlib.sha256(followed.token.encode()).hexdigest()
    whole = followed.path.read_bytes()
    for content in (whole + b"- {name: x}", whole.replace(b"scopes", b"scope"), whole * 2, whole + b"\n"):
        followed.path.write_bytes(content)
        await followed.file.reload()
    assert len(followed.lines) == 4
    assert not any(secret in followed.log.getvalue() for secret in (followed.token, digest, digest[:16]))


@pytest.mark.parametrize("content", ["[]", "", "# none yet\n"])
def test_a_file_that_names_nobody_stops_the_start(tmp_path: Path, content: str) -> None:
    """Law: whoever starts with a tokens file and no token has forgotten something."""
    path = tmp_path / "tokens.yaml"
    path.write_text(content)
    with pytest.raises(SettingsInvalid, match=r"tokens\.yaml holds no token"):
        TokenFile(path, open_log(stream=io.StringIO()))


def test_a_json_list_is_a_tokens_file_too(tmp_path: Path) -> None:
    """Law: JSON is YAML."""
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps([{"name": "test", "sha256": DIGEST, "scopes": ["score"], "rows_per_s": 100}]))
    caller = read_tokens(path).find(TOKEN)
    assert caller is not None
    assert (caller.name, caller.limits.rows_per_s) == ("test", 100)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "cannot be read"),
        ("name: x", "must be a list"),
        ("- {name: x, sha256: abc, scopes: [score]}", "sha256"),
        (f"- {{name: x, sha256: {'a' * 64}, scopes: [scor]}}", "'scor' is no scope"),
        (f"- {{name: x, sha256: {'a' * 64}, scopes: []}}", "scopes"),
        (f"- {{name: x, sha256: {'a' * 64}, scope: [score]}}", "did you mean 'scopes'"),
        (f"- {{name: x, sha256: {'a' * 64}, scopes: [score], burst: 3}}", "needs requests_per_s"),
        (f"- {{name: x, sha256: {'a' * 64}, scopes: [score]}}\n" * 2, "'x' twice"),
        ("".join(f"- {{name: {n}, sha256: {'a' * 64}, scopes: [score]}}\n" for n in "xy"), "'x' and 'y' the same"),
        ("- [", "no YAML or JSON"),
        ("- !!python/object/apply:os.system [ls]", "no YAML or JSON"),
    ],
)
def test_a_tokens_file_with_a_fault_stops_the_start(tmp_path: Path, content: str | None, named: str) -> None:
    """Law: half a tokens file is none; the message names the file and the fault."""
    path = tmp_path / "tokens.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsInvalid, match=rf"(?s)tokens\.yaml.*{named}"):
        read_tokens(path)


@asynccontextmanager
async def following(file: TokenFile, clock: ManualClock) -> AsyncIterator[None]:
    """The file is looked at every LOOK_S of the clock."""
    task = asyncio.create_task(file.follow(clock, LOOK_S))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
