"""`espalier serve --workers N`: real processes on one socket, over a file store."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.forge import Run, digest
from service.cores import usable
from service.listening import bound_ports
from service.logs import open_log
from service.settings import load_settings
from service.token_writing import add_token
from service.workers import Supervisor
from tests.cli.serving import command, environment, file_store, free_port, wait_closed
from tests.service.live import adapter

SCORE = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]}
MODES = ("add", "avg", "single", "attention")
WORKERS = 3
WAIT_MS = 4000
MOST_TRIES = 5000
_INFO = re.compile(r'espalier_worker_info\{pid="(\d+)",worker="(\d+)",workers="(\d+)"\} 1\.0')


@dataclass(frozen=True)
class Service:
    """A supervisor with its workers, all ready.

    Args:
        supervisor: the command's own process.
        url: where they are reached.
        said: what it printed when they were ready.
        log: file of everybody's stderr.
        token: of the scope admin.
    """

    supervisor: subprocess.Popen[str]
    url: str
    said: str
    log: Path
    token: str

    def ask(self, method: str, path: str, **options: object) -> httpx.Response:
        """One request over a connection of its own."""
        headers = {"Authorization": f"Bearer {self.token}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=60) as client:
            return client.request(method, path, **options)  # type: ignore[arg-type]

    def ask_until_answered(self, path: str) -> httpx.Response:
        """GET over new connections, until one is answered within a few seconds."""
        for _ in range(20):
            with suppress(httpx.TimeoutException):
                return self.ask("GET", path, timeout=3)
        raise AssertionError("nobody answered")

    def publish(self, body: bytes, domain: str = "theme-1") -> httpx.Response:
        """POST an adapter."""
        return self.ask("POST", f"/adapters/{domain}", content=body, params={"revision": digest(body)})

    def score(self) -> dict[str, object]:
        """What a request of its own connection was served with."""
        reply = self.ask("POST", "/score", json=SCORE)
        assert reply.status_code == 200, reply.text
        served: dict[str, object] = reply.json()["served"]
        return served

    def pids(self) -> dict[int, int]:
        """Worker number to process id, of as many as there are; asks until each has answered."""
        found: dict[int, int] = {}
        for _ in range(MOST_TRIES):
            pid, number, workers = map(int, _INFO.findall(self.ask("GET", "/metrics?own=true").text)[0])
            found[number] = pid
            if len(found) == workers:
                return found
        raise AssertionError(f"only workers {sorted(found)} ever answered")


@contextmanager
def serving(store: str, folder: Path, workers: int, **variables: str) -> Iterator[Service]:
    """A service whose workers are all ready; every process of it is gone at the end."""
    tokens, log, port = folder / "tokens.yaml", folder / "log", free_port()
    token = add_token(tokens, "test", ["admin"])
    options = ("--store", store, "--port", str(port), "--workers", str(workers), "--tokens", str(tokens))
    with log.open("w") as stderr:
        supervisor = subprocess.Popen(
            command(*options), env=environment(**variables), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert supervisor.stdout is not None
    everybody: list[psutil.Process] = []
    try:
        said = supervisor.stdout.readline() + supervisor.stdout.readline()
        everybody = family(supervisor.pid)
        yield Service(supervisor, f"http://127.0.0.1:{port}", said, log, token)
    finally:
        everybody += family(supervisor.pid)
        for each in everybody:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        supervisor.communicate()


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def store(random_run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A filled file store."""
    return asyncio.run(file_store(tmp_path_factory.mktemp("workers") / "store", random_run))


@pytest.fixture(scope="module")
def service(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Three workers; a test leaves them all running."""
    folder = tmp_path_factory.mktemp("three")
    with serving(store, folder, WORKERS, ESPALIER_PUBLISH_WAIT_MS=str(WAIT_MS)) as made:
        yield made


def test_every_worker_answers_on_the_one_address(service: Service) -> None:
    """Law: new connections reach all workers, each a process of its own; it is said once where, and who logs what."""
    pids = service.pids()
    assert sorted(pids) == [1, 2, 3]
    assert len(set(pids.values()) | {service.supervisor.pid}) == WORKERS + 1
    assert service.url in service.said
    assert "7 domains" in service.said
    assert "3 workers" in service.said
    ready = [line for line in service.log.read_text().splitlines() if '"worker_ready"' in line]
    assert len(ready) >= WORKERS


def test_the_secrets_of_the_settings_are_on_no_command_line(service: Service) -> None:
    """Law: a worker's command line holds numbers only."""
    for pid in service.pids().values():
        line = psutil.Process(pid).cmdline()
        assert line[1:4] == ["-P", "-m", "service.worker"]
        assert all(part.isdigit() for part in line[4:])


def test_after_a_publish_no_worker_scores_with_what_was_before(service: Service, random_run: Run) -> None:
    """Law: the 2xx of a publish leaves when every worker has activated it: 40 pairs over new connections, 0 stale."""
    stale = []
    for pair in range(40):
        body = adapter(random_run, "theme-1", MODES[pair % len(MODES)])
        reply = service.publish(body)
        assert reply.status_code in (200, 201), reply.text
        served = service.score()
        if served["revision"] != digest(body):
            stale.append((pair, served))
    assert stale == []


def test_a_killed_worker_is_replaced_and_holds_up_no_publish(service: Service, random_run: Run) -> None:
    """Law: the death of a worker costs its connections and nothing else; its successor knows what was published."""
    victim = service.pids()[2]
    os.kill(victim, signal.SIGKILL)
    for mode in MODES:
        assert service.publish(adapter(random_run, "theme-1", mode)).status_code in (200, 201)
    for _ in range(MOST_TRIES):
        if service.pids()[2] != victim:
            break
    body = adapter(random_run, "theme-1", MODES[0])
    assert service.publish(body).status_code == 201
    seen = set()
    while len(seen) < WORKERS:
        seen.add(int(_INFO.findall(service.ask("GET", "/metrics?own=true").text)[0][1]))
        assert service.score()["revision"] == digest(body)
    assert '"worker_ended"' in service.log.read_text()


def test_a_publish_that_not_every_worker_has_applied_is_pending(service: Service, random_run: Run) -> None:
    """Law: while a worker does not answer, a publish says 202, never 201; once it answers, it has applied it."""
    silent = service.pids()[3]
    os.kill(silent, signal.SIGSTOP)
    try:
        reply = service.publish(adapter(random_run, "theme-2", "single"), "theme-2")
    finally:
        os.kill(silent, signal.SIGCONT)
    assert reply.status_code == 202
    assert service.publish(adapter(random_run, "theme-2", "avg"), "theme-2").status_code == 201


def test_sigterm_finishes_what_was_begun_and_ends_every_process_with_0(store: str, tmp_path: Path) -> None:
    """Law: an orchestrator's stop, even sent to each process, is no error, cuts no request off, and leaves nobody.

    Only a second signal gives up what never ends.
    """
    body = b'{"user_id":7,"domain_id":"theme-1","item_ids":["item-1"]}'
    patient = {"ESPALIER_DEADLINE_MS": "60000", "ESPALIER_COLD_WAIT_MS": "30000", "ESPALIER_DRAIN_S": "300"}
    with serving(store, tmp_path, 2, ESPALIER_LOG_LEVEL="error", **patient) as service:
        everybody = family(service.supervisor.pid)
        assert len(everybody) == 3
        host, port = service.url.removeprefix("http://").split(":")
        lines = ("POST /score HTTP/1.1", "Host: x", f"Authorization: Bearer {service.token}")
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
        address = (host, int(port))
        with socket.create_connection(address) as ending, socket.create_connection(address) as endless:
            for connection in (ending, endless):
                connection.sendall(head + body[:-1])
            service.pids()  # each worker has answered what came later, so the two above have been taken
            for each in everybody:
                each.terminate()
            wait_closed(*address)
            ending.sendall(body[-1:])
            assert ending.makefile("rb").read().startswith(b"HTTP/1.1 200")
            assert service.supervisor.poll() is None
            assert service.log.read_text() == ""
            service.supervisor.terminate()
            assert service.supervisor.wait(30) == 0
        assert [each for each in everybody if each.is_running()] == []


def test_workers_end_when_their_supervisor_is_gone(store: str, tmp_path: Path) -> None:
    """Law: nothing scores on without anyone who would restart or stop it."""
    with serving(store, tmp_path, 2) as service:
        workers = [each for each in family(service.supervisor.pid) if each.pid != service.supervisor.pid]
        assert len(workers) == 2
        service.supervisor.kill()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert alive == []


class Heard(io.StringIO):
    """A log that tells when so many workers took requests, the replaced ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: asyncio.Queue[int] = asyncio.Queue()

    def write(self, text: str) -> int:
        """Take a line."""
        if '"worker_ready"' in text:
            self.ready.put_nowait(int(json.loads(text)["pid"]))
        return super().write(text)


def bound(pid: int) -> list[set[int]]:
    """The cores of each of a process's threads that may not run on all of them."""
    found = [os.sched_getaffinity(thread.id) for thread in psutil.Process(pid).threads()]
    return [cpus for cpus in found if cpus != set(usable())]


async def test_a_hung_worker_is_replaced(store: str) -> None:
    """Law: a worker whose event loop no longer turns is killed after a few unanswered questions, and replaced.

    Each scores on its own part of `engine_cpus`, the first on the first core, and so does its successor.
    """
    first, second = [*usable()[1::-1], None][:2]  # on a machine of one core none is bound
    cpus = "" if second is None else f"{first},{second}"
    settings = load_settings({"store": store, "port": 0, "workers": 2, "engine_cpus": cpus}, environ={})
    log = Heard()
    with bound_ports(settings) as ports:
        supervisor = Supervisor(settings, ports, open_log(stream=log), lambda _: None, ping_s=0.3)
        running = asyncio.create_task(supervisor.run())
        try:
            hung, other, new = await log.ready.get(), await log.ready.get(), 0
            os.kill(hung, signal.SIGSTOP)
            new = await log.ready.get()
            alive = [pid for pid in (hung, other, new) if psutil.pid_exists(pid)]
            on_cores = [bound(pid) for pid in (new, other)]
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await running
    assert alive == [other, new]
    assert '"worker_hung"' in log.getvalue()
    assert on_cores == ([[{first}], [{second}]] if cpus else [[], []])


def refused(folder: Path, *options: str, **variables: str) -> str:
    """What a service that does not start says on stderr; it ends with 1 and prints nothing else."""
    interpreter, *program = command("--workers", "3", "--port", "0", *options)
    done = subprocess.run(
        [interpreter, "-P", *program],
        env=environment(**variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_start_that_fails_says_so_once(tmp_path: Path) -> None:
    """Law: what a person can mend is told in one message, not by each worker and not again and again."""
    assert refused(tmp_path, "--store", (tmp_path / "absent").as_uri()).count("there is no store") == 1
    assert refused(tmp_path, "--store", "memory://").count("nothing can be published to it") == 1


def test_a_worker_that_dies_again_and_again_while_it_starts_ends_the_start(store: str, tmp_path: Path) -> None:
    """Law: the start is given up after a few attempts; a folder called `service` in the way is no such reason."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise SystemExit('not this one')")
    poison = tmp_path / "poison"
    poison.mkdir()
    fault = "import os, sys\nif 'service.worker' in sys.orig_argv:\n    os._exit(77)\n"
    (poison / "sitecustomize.py").write_text(fault)
    path = os.pathsep.join([str(poison), environment()["PYTHONPATH"]])
    said = refused(tmp_path, "--store", store, PYTHONPATH=path)
    assert "worker 1 cannot start: status 77, 3 times" in said


def scraped(shown: str) -> dict[str, float]:
    """Sample, as Prometheus writes it -> value."""
    lines = [line.rpartition(" ") for line in shown.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_a_scrape_of_any_worker_shows_all_of_them(service: Service) -> None:
    """Law: over new connections, so over all workers, each scrape has every request that was scored before it."""
    before = scraped(service.ask("GET", "/metrics").text)
    for number in range(1, 31):
        service.score()
        shown = scraped(service.ask("GET", "/metrics").text)
        for name in ("espalier_rows_total", 'espalier_domain_requests_total{domain="theme-1"}'):
            assert shown[name] - before.get(name, 0.0) == number
        assert [shown[f'espalier_worker_up{{worker="{worker}"}}'] for worker in (1, 2, 3)] == [1, 1, 1]
    assert shown['espalier_store_reachable{backend="file"}'] == 1
    assert shown['espalier_store_call_seconds_count{backend="file",operation="read_record"}'] > 0
    stats = service.ask("GET", "/adapters/theme-1/stats").json()
    assert stats["requests"] == shown['espalier_domain_requests_total{domain="theme-1"}']


def test_a_hung_worker_does_not_hang_a_scrape(service: Service) -> None:
    """Law: a scrape that another worker answers comes within its bound, with the counters of the hung one, and says so.

    So do the counts of a domain.
    """
    for _ in range(10):
        service.score()
    before = scraped(service.ask("GET", "/metrics").text)
    hung = service.pids()[2]
    os.kill(hung, signal.SIGSTOP)
    try:
        # a connection that the kernel hands to the hung one waits for it; another is made until one is answered
        shown, stats = (service.ask_until_answered(path) for path in ("/metrics", "/adapters/theme-1/stats"))
    finally:
        os.kill(hung, signal.SIGCONT)
    after = scraped(shown.text)
    assert after['espalier_worker_up{worker="2"}'] == 0
    assert after["espalier_rows_total"] == before["espalier_rows_total"]
    assert stats.json()["requests"] == before['espalier_domain_requests_total{domain="theme-1"}']
