"""The end of a serving process: not ready, then closed ports, then the last answers; and nobody is cut off."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import httpx
import pytest

from benchmarks.forge import Run
from service.draining import Draining
from service.logs import open_log
from tests.cli.serving import command, environment, file_store, running, wait_closed

SCORE = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]}
LONG_S = 300.0
QUIET = {"ESPALIER_LOG_LEVEL": "error"}


@pytest.fixture(scope="module")
def store(random_run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A filled file store."""
    return asyncio.run(file_store(tmp_path_factory.mktemp("draining") / "store", random_run))


class Watched:
    """What `Draining` ends; says what was done to it."""

    def __init__(self) -> None:
        self.told_to_exit = asyncio.Event()
        self.force_exit = False
        self.closing = False

    @property
    def should_exit(self) -> bool:
        """As uvicorn's."""
        return self.told_to_exit.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self.told_to_exit.set()

    def say_close(self) -> None:
        """Note it."""
        self.closing = True

    def cut_off(self) -> int:
        """Nothing is open."""
        return 0

    @property
    def state(self) -> tuple[bool, bool, bool]:
        """Told to say close, told to exit, told to stop waiting."""
        return self.closing, self.should_exit, self.force_exit


async def turns(count: int = 20) -> None:
    """Let the event loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_ports_stay_open_for_the_delay_and_a_second_signal_ends_it() -> None:
    """Law: the first signal only says not ready and `Connection: close`; a second one ends all waiting."""
    servers = [Watched(), Watched()]
    draining = Draining(LONG_S, LONG_S, log=open_log(stream=io.StringIO()))
    ready = [draining.serving]
    draining.listening()
    ready.append(draining.serving)
    closing = asyncio.create_task(draining.close(servers))
    await turns()
    assert [each.state for each in servers] == [(False, False, False)] * 2
    draining.signalled(signal.SIGTERM)
    await turns()
    ready.append(draining.serving)
    assert ready == [False, True, False]
    assert [each.state for each in servers] == [(True, False, False)] * 2
    draining.signalled(signal.SIGTERM)
    await closing
    assert [each.state for each in servers] == [(True, True, True)] * 2


async def test_without_a_delay_the_ports_close_at_once_and_answers_are_waited_for() -> None:
    """Law: only a signal that may force ends the waiting for answers."""
    server = Watched()
    draining = Draining(0.0, LONG_S, log=open_log(stream=io.StringIO()), forced_by=(signal.SIGINT,))
    draining.listening()
    closing = asyncio.create_task(draining.close([server]))
    draining.signalled(signal.SIGTERM)
    await asyncio.wait_for(server.told_to_exit.wait(), 10)
    draining.signalled(signal.SIGTERM)
    await turns()
    assert server.state == (True, True, False)
    draining.signalled(signal.SIGINT)
    await closing
    assert server.force_exit


async def test_a_stop_during_the_start_ends_it_quietly() -> None:
    """Law: a signal before the ports listen cancels the start, and is no error."""
    draining = Draining(0.0, LONG_S, log=open_log(stream=io.StringIO()))

    async def start() -> str:
        with draining.on_signals():
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()
        return "ended"

    assert await asyncio.wait_for(start(), 10) == "ended"


def test_a_stop_while_the_store_does_not_answer_ends_the_process_with_0() -> None:
    """Law: a stop during the start is heard, also by the first process of a container, which has no defaults for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            command("--store", url, "--port", "0"),
            env=environment(ESPALIER_STORE_TIMEOUT_S="60"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with silent.accept()[0]:
                process.terminate()
                out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert (process.returncode, out) == (0, "")
    assert [json.loads(line)["event"] for line in err.splitlines()].count("draining") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_while_it_drains_it_is_not_ready_and_still_answers(store: str, workers: int) -> None:
    """Law: a probe says no at once, requests are answered for `drain_delay_s`, and each answer ends its connection."""
    delay = {"ESPALIER_DRAIN_DELAY_S": str(LONG_S)}
    with running(store, "--workers", str(workers), **delay, **QUIET) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with httpx.Client(base_url=url, timeout=30) as client:
            assert "connection" not in client.post("/score", json=SCORE).headers
            process.terminate()
            while httpx.get(f"{url}/healthz/ready").status_code != 503:
                assert process.poll() is None
            # whoever of the workers takes the connection
            assert {httpx.get(f"{url}/healthz/ready").status_code for _ in range(20)} == {503}
            assert httpx.get(f"{url}/healthz/live").status_code == 200
            assert httpx.get(f"{url}/healthz/startup").status_code == 200
            # on the connection that was kept open from before
            last = client.post("/score", json=SCORE)
            again = client.post("/score", json=SCORE)
            for answer in (last, again):
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        process.terminate()
        wait_closed(host, int(port))
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def test_a_request_in_flight_at_the_signal_ends_its_connection(store: str) -> None:
    """Law: also an answer that was begun before the signal says that no other will follow on its connection."""
    body = json.dumps(SCORE).encode()
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    patient = {"ESPALIER_DRAIN_DELAY_S": str(LONG_S), "ESPALIER_DEADLINE_MS": "60000", "ESPALIER_COLD_WAIT_MS": "30000"}
    with running(store, **patient, **QUIET) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + body[:-1])
            httpx.get(f"{url}/healthz/live")
            process.terminate()
            while httpx.get(f"{url}/healthz/ready").status_code != 503:
                assert process.poll() is None
            connection.sendall(body[-1:])
            answer = connection.makefile("rb").read()
        process.terminate()
        process.communicate(timeout=30)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close\r\n" in answer
    assert process.returncode == 0


def test_a_request_that_has_begun_to_arrive_is_answered_after_the_ports_closed(store: str) -> None:
    """Law: a connection is closed only where nothing is asked on it; half a head is a question, in bounded time."""
    body = json.dumps(SCORE).encode()
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with running(store, ESPALIER_DEADLINE_MS="60000", ESPALIER_COLD_WAIT_MS="30000", **QUIET) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as begun, socket.create_connection((host, int(port))) as idle:
            begun.sendall(head[:20])
            httpx.get(f"{url}/healthz/live")
            process.terminate()
            wait_closed(host, int(port))
            assert idle.makefile("rb").read() == b""
            begun.sendall(head[20:] + body)
            answer = begun.makefile("rb").read()
        process.communicate(timeout=30)
    assert answer.startswith(b"HTTP/1.1 200")
    assert process.returncode == 0


def test_an_answer_that_does_not_come_is_given_up_after_drain_s(store: str) -> None:
    """Law: the end is bounded: what takes longer is cut off, and that is no error of the process."""
    patient = {"ESPALIER_DRAIN_S": "1", "ESPALIER_BODY_READ_S": "300", "ESPALIER_DEADLINE_MS": "300000"}
    with running(store, **patient, ESPALIER_LOG_LEVEL="warning") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            httpx.get(f"{url}/healthz/live")
            process.terminate()
            out, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in out) == (0, False)
    told = [json.loads(line) for line in err.splitlines()]
    assert [(line["event"], line["requests"]) for line in told] == [("draining_cut_off", 1)]


class Balancer:
    """A TCP load balancer that follows readiness: each new connection goes to the next server that says ready.

    Args:
        ports: of the servers.
        every_s: between two probes of each.
    """

    def __init__(self, ports: list[int], every_s: float) -> None:
        self._ports = ports
        self._every_s = every_s
        self._ready = list(ports)
        self._taken = 0
        self._passing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Its port."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        probing = [asyncio.create_task(self._probe(port)) for port in self._ports]
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for task in [*probing, *self._passing]:
                task.cancel()
            await asyncio.gather(*probing, *self._passing, return_exceptions=True)

    async def _probe(self, port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            while True:
                try:
                    ready = (await client.get("/healthz/ready")).status_code == 200
                except httpx.TransportError:
                    ready = False
                self._ready = [each for each in self._ports if (ready and each == port) or each in self._ready]
                if not ready and port in self._ready:
                    self._ready.remove(port)
                await asyncio.sleep(self._every_s)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        self._taken += 1
        try:
            port = self._ready[self._taken % len(self._ready)]
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))
            finally:
                await _close(far_writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._passing.discard(task)
            await _close(writer)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError, asyncio.CancelledError):
        await writer.wait_closed()


async def test_behind_a_balancer_that_follows_readiness_a_stop_fails_no_request(store: str) -> None:
    """Law: SIGTERM of one of two replicas under load on kept-open connections: every request is answered with 200."""
    failed: list[str] = []
    answered: list[int] = []
    warm, over = asyncio.Event(), asyncio.Event()

    async def ask(port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while not over.is_set():
                try:
                    reply = await client.post("/score", json=SCORE)
                    answered.append(reply.status_code)
                    if len(answered) == 100:
                        warm.set()
                except httpx.HTTPError as error:
                    failed.append(repr(error))

    with ExitStack() as stack:
        replicas = [
            stack.enter_context(running(store, ESPALIER_DRAIN_DELAY_S="4", ESPALIER_LOG_LEVEL="error"))
            for _ in range(2)
        ]
        ports = [int(url.rsplit(":", 1)[1]) for _, url in replicas]
        async with Balancer(ports, 0.1).listening() as port:
            users = [asyncio.create_task(ask(port)) for _ in range(6)]
            await warm.wait()
            leaving = replicas[0][0]
            leaving.terminate()
            assert await asyncio.to_thread(leaving.wait, 60) == 0
            over.set()
            await asyncio.gather(*users)
    assert failed == []
    assert set(answered) == {200}
