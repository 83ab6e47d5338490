"""Shards and workers as actors of Ray. The one file that imports it; its exceptions end here."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from training.cluster.engine import ShardOf, WorkerOf
from training.cluster.errors import ActorLost, ClusterError, ClusterUnreachable, RoundFailed
from training.errors import TrainingError

_LOST = (RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError)
_TOKEN_HINT = "one that asks for a token wants RAY_AUTH_MODE=token here, and its token in RAY_AUTH_TOKEN"
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class _Actor:
    """One object in a process of its own, made by `start`: what breaks in an actor's own start, Ray tells as text.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._object: Any = None

    def start(self) -> dict[str, Any]:
        """Make the object, and say where it runs."""
        self._object = self._make()
        return {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid()}

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call one of its methods."""
        return getattr(self._object, method)(*arguments)


class RayLink:
    """Shards that are actors, as a worker reaches them.

    Args:
        shards: their handles, in order.
    """

    def __init__(self, shards: Sequence[Any]) -> None:
        self._shards = shards

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call several shards at once and wait for all.

        Raises:
            ActorLost: one of them has died.
        """
        pending = {shard: self._shards[shard].call.remote(method, own) for shard, own in arguments.items()}
        try:
            return dict(zip(pending, ray.get(list(pending.values())), strict=True))
        except RayError as error:
            raise _own_error("a shard", error) from None


class RayEngine:
    """Runs everything on a cluster of Ray.

    Args:
        address: of a running cluster; None starts one here, which ends with this program.
        cpus: logical processors that a cluster started here offers; nothing is bound to them.
        object_store_bytes: of a cluster started here.
        start_timeout_s: how long processes may take to come up.
    """

    def __init__(self, address: str | None, cpus: int, object_store_bytes: int, start_timeout_s: float) -> None:
        self._address = address
        self._cpus = cpus
        self._object_store_bytes = object_store_bytes
        self._start_timeout_s = start_timeout_s
        self._connected = False
        self._shards: list[Any] = []
        self._workers: list[Any] = []
        self._flying: dict[Any, int] = {}

    def start(self, shards: int, shard_of: ShardOf, workers: int, worker_of: WorkerOf) -> list[dict[str, Any]]:
        """Make actors afresh.

        Raises:
            ClusterUnreachable: no cluster answers, or it has no room for them in time.
            TrainingError: a process cannot be made, such as one that does not see the run folder.
        """
        self._connect()
        self._end_actors()
        light, heavy = ray.remote(num_cpus=0)(_Actor), ray.remote(num_cpus=1)(_Actor)
        try:
            self._shards = [light.remote(_made(shard_of, i)) for i in range(shards)]
            link = RayLink(self._shards)
            self._workers = [heavy.remote(_made(worker_of, i, link)) for i in range(workers)]
            asked = [actor.start.remote() for actor in (*self._shards, *self._workers)]
            places: list[dict[str, Any]] = ray.get(asked, timeout=self._start_timeout_s)
        except GetTimeoutError:
            raise ClusterUnreachable(
                f"{workers} workers of 1 CPU each and {shards} shards were not up in {self._start_timeout_s:g} s: "
                "give the cluster more nodes, or ask for fewer workers"
            ) from None
        except RayError as error:
            raise _own_error("a process that was starting", error) from None
        return places

    def shards(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call every shard at once and wait; Ray keeps the order of one caller's calls to one actor."""
        pending = [shard.call.remote(method, own) for shard, own in zip(self._shards, arguments, strict=True)]
        try:
            return list(ray.get(pending))
        except RayError as error:
            raise _own_error("a shard", error) from None

    def begin(self, worker: int, method: str, *arguments: Any) -> None:
        """Call a worker.

        Raises:
            ActorLost: it is known to have died.
        """
        try:
            self._flying[self._workers[worker].call.remote(method, arguments)] = worker
        except RayError as error:
            raise _own_error(f"worker {worker}", error) from None

    def finished(self) -> tuple[int, Any]:
        """Wait for any worker."""
        ready, _ = ray.wait(list(self._flying), num_returns=1)
        worker = self._flying.pop(ready[0])
        try:
            return worker, ray.get(ready[0])
        except RayError as error:
            raise _own_error(f"worker {worker}", error) from None

    def stop(self) -> None:
        """End the actors, and the cluster if it was started here."""
        if self._connected:
            self._end_actors()
            ray.shutdown()
            self._connected = False

    def _connect(self) -> None:
        if self._connected:
            return
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        local: dict[str, Any] = {}
        if self._address is not None:
            _knock(self._address)
        else:
            local = {
                "num_cpus": self._cpus,
                "object_store_memory": self._object_store_bytes,
                "include_dashboard": False,
            }
        try:
            ray.init(
                address=self._address or "local",
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}},
                **local,
            )
        except (RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
            hint = "" if self._address is None else f" ({_TOKEN_HINT})"
            raise ClusterUnreachable(f"no Ray cluster at {self._address or 'this machine'}: {error}{hint}") from None
        self._connected = True

    def _end_actors(self) -> None:
        for actor in (*self._workers, *self._shards):
            ray.kill(actor)
        self._workers, self._shards, self._flying = [], [], {}


def _knock(address: str) -> None:
    """See that somebody listens at host:port; Ray itself would try for minutes, and then end this program.

    Raises:
        ClusterUnreachable: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # such as `auto`, which Ray looks up by itself
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterUnreachable(f"nobody answers at {address}: {error.strerror or error}") from None


def _made(make: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: make(*arguments)


def _own_error(who: str, error: RayError) -> TrainingError:
    """Turn what Ray raised into an error of ours: lost processes can be replaced, all else cannot."""
    if isinstance(error, RayActorError) and error.actor_init_failed:  # it would fail again, and the text says why
        return RoundFailed(f"{who} cannot start: {error}")
    if isinstance(error, _LOST):
        return ActorLost(f"{who} died")
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, ActorLost):
            return ActorLost(str(cause))
        if isinstance(cause, TrainingError):
            return cause
        return RoundFailed(f"{who} broke: {type(cause).__name__}: {cause}\n{error.traceback_str}")
    return ClusterError(f"{who}: {type(error).__name__}: {error}")
