"""How commands reach Redis: one server or the primary that Sentinels name, or the shards of a cluster.

A link sends batches. A batch is one pipeline per server, on one connection. WAIT follows its writes, so that it speaks
of them, and an ECHO of a number that no other batch has follows everything: a connection that is out of step (a call
cancelled in flight, a bent length) is found by the wrong number, and no answer goes to another's question.

redis-py would by default send a command again when the connection breaks; a conditional write that was carried out and
sent again would report that it lost, so here the library retries nothing. Replies are left as they came (protocol 2,
no conversion) and checked by type. The library's exceptions end here.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

from adapters_store.backend import in_flight
from adapters_store.errors import StoreUnavailable
from adapters_store.redis_scripts import Script
from adapters_store.redis_urls import Target

# Connections to a server at most; callers beyond wait for one instead of failing.
CONNECTIONS = 32
# One pipeline: what a server has to buffer for it, and what another client waits behind it.
_BATCH_BYTES = 4 << 20
BATCH_COMMANDS = 256
_BATCHES = 4  # in flight

# How a connection that is gone shows: uvloop tells a write to one that was reset by a RuntimeError.
BROKEN = (RedisError, OSError, RuntimeError)

_USED = (
    *("DEL", "ECHO", "EVAL", "EVALSHA", "EXISTS", "GET", "GETRANGE", "HGET", "HGETALL", "HKEYS", "HSET", "INFO"),
    *("MGET", "SCAN", "SET", "UNLINK", "WAIT", "XREAD"),
)


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Args:
        key: What tells a cluster where it goes.
        args: Name and arguments.
        writes: Whether its effect has to reach the replicas.
        script: For EVALSHA: what to send where the script is not known.
    """

    key: str
    args: tuple[Any, ...]
    writes: bool = False
    script: Script | None = None


def script_command(script: Script, keys: Sequence[str], *args: Any) -> Command:
    """A call of a writing script on the keys of one tag."""
    return Command(keys[0], ("EVALSHA", script.sha, len(keys), *keys, *args), writes=True, script=script)


class Link(ABC):
    """A way to a Redis.

    Args:
        target: Where it is, and how many replicas a write must have reached.
    """

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def min_replicas(self) -> int:
        """How many replicas a write must have reached."""
        return self._target.min_replicas

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Carry out commands, in order for each key.

        Args:
            commands: Not more than one pipeline should hold.

        Returns:
            One reply a command; a reply that is a `ResponseError` is for `answer` to judge.

        Raises:
            StoreUnavailable: No answer from the server, or too few replicas; what was sent may have been carried out.
        """
        with self.reported():
            replies = await self._exchange(commands)
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                for i, reply in zip(unknown, await self._exchange([_whole(commands[i]) for i in unknown]), strict=True):
                    replies[i] = reply
        return replies

    async def send_all(
        self,
        commands: Iterable[Command],
        *kinds: type,
        size_bytes: Callable[[Command], int] = lambda command: 0,
    ) -> list[Any]:
        """Carry out any number of commands in batches, several in flight; those of one batch in their order.

        Args:
            commands: Which.
            kinds: Types of a reply.
            size_bytes: What a command carries, where that is much.

        Returns:
            The replies, in the order of the commands.

        Raises:
            StoreUnavailable: Any of them may have been carried out.
        """
        batches = _batched(commands, size_bytes)
        replies = await in_flight(batches, self.send, limit=_BATCHES)
        return [self.answer(reply, *kinds) for batch in replies for reply in batch]

    def answer(self, reply: Any, *kinds: type) -> Any:
        """A reply of one of these types.

        Raises:
            StoreUnavailable: It is an error, and the message says what to do about it, or of another type.
        """
        if isinstance(reply, Exception):
            raise StoreUnavailable(_explained(self._target, reply)) from None
        if not isinstance(reply, kinds):
            raise StoreUnavailable(f"{self._target.shown} answered what no command here answers: {reply!r:.40}")
        return reply

    def strings(self, reply: Any, count: int) -> list[bytes | None]:
        """The values of so many keys."""
        found = [self.answer(one, bytes, type(None)) for one in self.answer(reply, list)]
        if len(found) != count:
            raise StoreUnavailable(f"{self._target.shown} answered {len(found)} values for {count} keys")
        return found

    def texts(self, reply: Any) -> list[str]:
        """A list of names; a bent byte makes another name, never an exception."""
        return [self.answer(one, bytes).decode(errors="replace") for one in self.answer(reply, list)]

    def page(self, reply: Any) -> tuple[int, list[bytes]]:
        """The next cursor of SCAN, and the names that came with it."""
        found = self.answer(reply, list)
        if len(found) != 2 or not self.answer(found[0], bytes).isdigit():
            raise StoreUnavailable(f"{self._target.shown} answered what SCAN does not answer")
        return int(found[0]), [self.answer(name, bytes) for name in self.answer(found[1], list)]

    @staticmethod
    def is_other_type(reply: Any) -> bool:
        """Whether the reply says that the key holds a value of another type."""
        return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")

    @staticmethod
    def is_forbidden(reply: Any) -> bool:
        """Whether the reply says that this user may not do that."""
        return isinstance(reply, Exception) and _forbids(reply)

    @abstractmethod
    async def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """The strings under keys, each of which may be anywhere."""

    @abstractmethod
    async def read_streams(self, positions: Mapping[str, str], count: int) -> list[Any]:
        """The replies of XREAD for streams, each of which may be anywhere: up to `count` entries behind a position.

        Returns:
            In the order of `positions`: None where there is nothing, else [[stream, entries]].
        """

    @abstractmethod
    async def on_primaries(self, *args: Any) -> dict[str, Any]:
        """Server (host:port) to its reply to one command."""

    @abstractmethod
    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Keys like the pattern, of all servers, some perhaps twice."""
        yield []

    @abstractmethod
    async def wait_for_event(self, positions: Mapping[str, str], longest_s: float) -> None:
        """Return when a stream may have gone on behind its position, or a while later; `longest_s` at most."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""

    @abstractmethod
    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """One reply a command, errors in place."""

    def check_replicas(self, reached: Any) -> None:
        needed = self._target.min_replicas
        if self.answer(reached, int) < needed:
            raise StoreUnavailable(
                f"outcome unknown: {reached} of {needed} replicas of {self._target.shown} have confirmed the write "
                f"within {self._target.wait_ms} ms; it may be lost if the primary fails now. Read before writing again"
            )

    def check_step(self, sent: int, echoed: Any) -> None:
        """Refuse the answers of a connection that is out of step."""
        if isinstance(echoed, Exception):
            raise echoed
        if echoed != b"%d" % sent:
            raise ConnectionError("the answers of a connection are out of step: they were thrown away")

    @contextmanager
    def reported(self) -> Iterator[None]:
        try:
            yield
        except BROKEN as error:
            raise StoreUnavailable(_explained(self._target, error)) from None


def keep_raw(client: Redis | RedisCluster) -> None:
    """Let replies be what came: a conversion that fails halfway would leave the rest of a batch unread."""
    for name in _USED:
        client.set_response_callback(name, _as_it_came)


def client_options(target: Target, timeout_s: float) -> dict[str, Any]:
    """How the library connects: bounded times, no repeats of its own."""
    options: dict[str, Any] = {
        "db": target.database,
        "username": target.user,
        "password": target.password,
        "socket_connect_timeout": timeout_s,
        # WAIT answers only after wait_ms when replicas are missing.
        "socket_timeout": timeout_s + (target.wait_ms / 1000 if target.min_replicas else 0),
        "retry": Retry(NoBackoff(), 0),
        "max_connections": CONNECTIONS + 4,
        "protocol": 2,  # the third asks for push messages, which a plain batch has no use for
    }
    if target.tls:
        options |= {
            "ssl": True,
            "ssl_ca_certs": target.ca,
            "ssl_certfile": target.cert,
            "ssl_keyfile": target.key,
        }
    return options


def _whole(command: Command) -> Command:
    """The same command with the script's source, where the server does not know it by name."""
    if command.script is None:
        return command
    return Command(command.key, ("EVAL", command.script.source, *command.args[2:]), command.writes)


def changed(commands: Sequence[Command], replies: Sequence[Any]) -> bool:
    """Whether a command that writes said that it changed something."""
    return any(
        command.writes and not isinstance(reply, Exception) and reply != 0
        for command, reply in zip(commands, replies, strict=True)
    )


def _forbids(error: Exception) -> bool:
    return isinstance(error, NoPermissionError) or str(error).startswith("ACL failure")


def _explained(target: Target, error: Exception) -> str:
    text = str(error) or type(error).__name__
    for secret in (target.password, target.sentinel_password):
        text = text.replace(secret, "***") if secret else text
    if isinstance(error, AuthenticationError):
        return f"{target.shown} refuses this user and password: check the store's URL ({text})"
    if _forbids(error):
        return f"{target.shown} forbids a command to this user: grant it with ACL SETUSER ({text})"
    if isinstance(error, OutOfMemoryError):
        return f"{target.shown} is full: raise maxmemory ({text})"
    return f"{target.shown} does not answer as it should: {text}"


def _as_it_came(response: Any, **kwargs: Any) -> Any:
    return response


def _batched(commands: Iterable[Command], size_bytes: Callable[[Command], int]) -> Iterator[list[Command]]:
    batch: list[Command] = []
    held_bytes = 0
    for command in commands:
        size = size_bytes(command)
        if batch and (len(batch) == BATCH_COMMANDS or held_bytes + size > _BATCH_BYTES):
            yield batch
            batch, held_bytes = [], 0
        batch.append(command)
        held_bytes += size
    if batch:
        yield batch
