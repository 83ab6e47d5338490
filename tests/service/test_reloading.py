"""SIGHUP: tokens, certificates and the log's level are read again, in every process; a broken file changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.forge import Run
from service.token_writing import add_token
from tests.cli.serving import command, environment, file_store, free_port, running
from tests.servers.certificates import Certificates, make_certificates

SCORE = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]}
NEVER = {"ESPALIER_TOKENS_RELOAD_S": "86400"}
LONGEST_S = 60


@pytest.fixture(scope="module")
def store(random_run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A filled file store."""
    return asyncio.run(file_store(tmp_path_factory.mktemp("reloading") / "store", random_run))


@dataclass(frozen=True)
class Reloaded:
    """A service of two workers, with a main and an admin port and TLS on both, and the files that it was started with.

    Args:
        supervisor: its process.
        ports: main and admin.
        made: the certificates that it began with.
        folder: of the files.
        token: of the scope admin.
        said: what it printed.
    """

    supervisor: subprocess.Popen[str]
    ports: tuple[int, int]
    made: Certificates
    folder: Path
    token: str
    said: str

    @property
    def lines(self) -> list[dict[str, object]]:
        """What it logged so far."""
        whole = (self.folder / "log").read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def hang_up(self) -> list[dict[str, object]]:
        """Send SIGHUP; the lines that were written until both workers had read their files again."""
        before = len(self.lines)
        self.supervisor.send_signal(signal.SIGHUP)
        until(lambda: len({line["worker"] for line in self.lines[before:] if line["event"] == "reloaded"}) == 2)
        return self.lines[before:]

    def ask(self, method: str, path: str, *, admin: bool = False, token: str | None = None, **options: object) -> int:
        """The status of one request over a connection of its own."""
        return self.answer(method, path, admin=admin, token=token, **options).status_code

    def answer(
        self, method: str, path: str, *, admin: bool = False, token: str | None = None, **options: object
    ) -> httpx.Response:
        """One request over a connection of its own."""
        url = f"https://127.0.0.1:{self.ports[admin]}{path}"
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.request(method, url, headers=headers, verify=trust(self.made), timeout=30, **options)  # type: ignore[arg-type]


def trust(made: Certificates) -> ssl.SSLContext:
    """What a client trusts."""
    return ssl.create_default_context(cafile=str(made.ca))


def until(come: Callable[[], bool]) -> None:
    """Look until it has come true."""
    end = time.monotonic() + LONGEST_S
    while not come():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def serial(port: int) -> int:
    """The serial number of the certificate that a port shows."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode()).serial_number


@pytest.fixture(scope="module")
def service(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloaded]:
    """Started once; a test leaves its files in order."""
    folder = tmp_path_factory.mktemp("two")
    made, token = make_certificates(folder), add_token(folder / "tokens.yaml", "first", ["admin"])
    ports = free_port(), free_port()
    config = folder / "espalier.yaml"
    config.write_text(
        f"store: {store}\nport: {ports[0]}\nadmin_port: {ports[1]}\nworkers: 2\ntokens: {folder / 'tokens.yaml'}\n"
        f"tls_cert: {made.cert}\ntls_key: {made.key}\nlog_level: info\n"
    )
    with (folder / "log").open("w") as stderr:
        supervisor = subprocess.Popen(
            command("--config", str(config)), env=environment(**NEVER), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert supervisor.stdout is not None
    everybody: list[psutil.Process] = []
    try:
        said = "".join(supervisor.stdout.readline() for _ in range(3))
        everybody = [*psutil.Process(supervisor.pid).children(), psutil.Process(supervisor.pid)]
        yield Reloaded(supervisor, ports, made, folder, token, said)
        supervisor.terminate()
        assert supervisor.wait(60) == 0
        assert [each for each in everybody if each.is_running()] == []
    finally:
        for each in everybody:
            if each.is_running():
                each.kill()
        supervisor.kill()
        supervisor.communicate()


def test_each_port_has_its_routes_and_both_have_probes(service: Reloaded) -> None:
    """Law: scores are asked for on the main port; publishing, reading, metrics and docs are on the admin port alone."""
    main, admin = service.ports
    assert f"https://127.0.0.1:{main}" in service.said
    assert f"https://127.0.0.1:{admin}/docs" in service.said
    assert service.ask("POST", "/score", json=SCORE) == 200
    assert service.ask("POST", "/score", json=SCORE, admin=True) == 404
    for path in ("/metrics", "/docs", "/openapi.json", "/adapters", "/adapters/theme-1", "/adapters/theme-1/revisions"):
        assert (path, service.ask("GET", path), service.ask("GET", path, admin=True)) == (path, 404, 200)
    for path in ("/healthz/live", "/healthz/ready", "/healthz/startup"):
        assert (path, service.ask("GET", path), service.ask("GET", path, admin=True)) == (path, 200, 200)
    assert service.ask("POST", "/feedback", json={"events": []}) != 404
    assert service.ask("POST", "/feedback", json={"events": []}, admin=True) == 404
    for path in ("/adapters/theme-1", "/fusions"):
        assert service.ask("POST", path, content=b"x") == 404
        assert service.ask("POST", path, content=b"x", admin=True) == 422
    paths = service.answer("GET", "/openapi.json", admin=True).json()["paths"]
    assert {"/score", "/metrics", "/adapters/{domain}"} <= set(paths)


def test_a_token_that_was_added_is_known_to_every_worker_after_the_signal(service: Reloaded) -> None:
    """Law: SIGHUP to the supervisor reaches every worker, and what they had before stays in force."""
    added = add_token(service.folder / "tokens.yaml", "second", ["score"])
    assert service.ask("POST", "/score", json=SCORE, token=added) == 401
    service.hang_up()
    for token in [added, service.token] * 8:
        assert service.ask("POST", "/score", json=SCORE, token=token) == 200


def test_a_new_certificate_is_shown_to_new_connections(service: Reloaded) -> None:
    """Law: both ports, every worker; a connection that is open stays."""
    kept = httpx.Client(base_url=f"https://127.0.0.1:{service.ports[0]}", verify=trust(service.made))
    with kept:
        assert kept.get("/healthz/live").status_code == 200
        before = {serial(port) for port in service.ports}
        make_certificates(service.folder)
        service.hang_up()
        after = {serial(port) for port in service.ports * 8}
        assert len(before) == len(after) == 1
        assert before != after
        assert kept.get("/healthz/live").status_code == 200


def test_files_with_faults_leave_everything_as_it_was_and_are_told(service: Reloaded) -> None:
    """Law: a broken tokens file, certificate and settings file each keep the old, say so, and hold up no other."""
    shown = serial(service.ports[0])
    files = [service.folder / "tokens.yaml", service.made.cert, service.folder / "espalier.yaml"]
    whole = [file.read_bytes() for file in files]
    try:
        for file in files:
            file.write_bytes(b"{broken")
        lines = service.hang_up()
    finally:
        for file, content in zip(files, whole, strict=True):
            file.write_bytes(content)
    assert service.ask("POST", "/score", json=SCORE) == 200
    assert serial(service.ports[0]) == shown
    for line in [line for line in lines if line["event"] == "reloaded"]:
        assert (line["log_level"], line["tokens"], line["certificates"]) == (False, False, False)
    assert {line["event"] for line in lines} >= {"log_level_kept", "certificates_kept"}
    for line in [line for line in service.hang_up() if line["event"] == "reloaded"]:
        assert (line["log_level"], line["tokens"], line["certificates"]) == (True, True, True)


def test_the_logs_level_follows_the_settings_file(service: Reloaded) -> None:
    """Law: every process takes the level over, the supervisor too; the other settings stay as they were."""
    config = service.folder / "espalier.yaml"
    whole = config.read_text()
    config.write_text(whole.replace("log_level: info", "log_level: error").replace("workers: 2", "workers: 1"))
    before = len(service.lines)
    service.supervisor.send_signal(signal.SIGHUP)
    until(lambda: sum(line["event"] == "log_level_changed" for line in service.lines[before:]) == 3)
    assert {line.get("worker") for line in service.lines[before:]} == {None, 1, 2}
    config.write_text(whole)
    changed = [line for line in service.hang_up() if line["event"] == "log_level_changed"]
    assert [(line["before"], line["level"]) for line in changed] == [("error", "info")] * 3
    assert len(psutil.Process(service.supervisor.pid).children()) == 2


def test_a_process_alone_reads_its_files_again_too(store: str, tmp_path: Path) -> None:
    """Law: one process needs no supervisor for it, and does not die of the signal."""
    add_token(tmp_path / "tokens.yaml", "first", ["score"])
    options = ("--tokens", str(tmp_path / "tokens.yaml"))
    with running(store, *options, **NEVER) as (process, url):
        added = add_token(tmp_path / "tokens.yaml", "second", ["score"])
        ask = {"Authorization": f"Bearer {added}"}
        assert httpx.post(f"{url}/score", json=SCORE, headers=ask).status_code == 401
        process.send_signal(signal.SIGHUP)
        until(lambda: httpx.post(f"{url}/score", json=SCORE, headers=ask).status_code == 200)
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


@contextmanager
def terminal(*line: str, **variables: str) -> Iterator[tuple[int, int]]:
    """A command in a terminal of its own; yields its process id and our side of the terminal."""
    ours, theirs = os.openpty()
    begin = "import os, signal, sys, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY)"
    # whoever runs the tests under nohup would have all of them ignore the signal
    script = f"{begin}; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *line], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**variables)
    )
    os.close(theirs)
    try:
        yield process.pid, ours
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_server_whose_terminal_closes_ends(store: str) -> None:
    """Law: the signal is the same, but nobody asked for a reload: a server is not left behind by its window."""
    port = free_port()
    with terminal(*command("--store", store, "--port", str(port), "--workers", "2")) as (pid, ours):
        until(lambda: answers(port))
        everybody = psutil.Process(pid).children()
        os.close(ours)
    assert [each for each in everybody if each.is_running()] == []


def answers(port: int) -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
