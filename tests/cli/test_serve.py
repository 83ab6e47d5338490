"""`espalier serve`: what it prints, how it ends, and what stops it from starting."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.forge import Run
from service.cores import usable
from tests.cli.serving import command, environment, file_store, fill_store, running, wait_closed
from tests.servers.valkey import valkey

SCORE = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]}


@pytest.fixture(scope="module")
def store(random_run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A filled file store."""
    return asyncio.run(file_store(tmp_path_factory.mktemp("serve") / "store", random_run))


def refused(*options: str, **variables: str) -> str:
    """What a server that does not start says on stderr; it ends with 1 and prints nothing else."""
    done = subprocess.run(
        command(*options), env=environment(**variables), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_a_signal_ends_it_with_0_and_nothing_on_stderr_but_its_log(store: str, ending: signal.Signals) -> None:
    """Ctrl-C and an orchestrator's stop are not errors; the start has said where, with what, for how many domains."""
    with running(store, ESPALIER_LOG_LEVEL="warning") as (process, url):
        assert httpx.post(f"{url}/score", json=SCORE, timeout=30).status_code == 200
        backbone = httpx.post(f"{url}/score", json=SCORE, timeout=30).json()["served"]["backbone"]
        process.send_signal(ending)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert url in out
    assert backbone[:12] in out
    assert "7 domains" in out


def test_a_request_in_flight_is_finished_after_the_signal(store: str) -> None:
    """Draining: the port closes, what was begun is answered."""
    body = b'{"user_id":7,"domain_id":"theme-1","item_ids":["item-1"]}'
    with running(store, ESPALIER_DEADLINE_MS="60000", ESPALIER_COLD_WAIT_MS="30000") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body[:-1])
            # answered on the same event loop behind it, so the request above has been taken by then
            httpx.get(f"{url}/healthz/live")
            process.send_signal(signal.SIGTERM)
            wait_closed(host, int(port))
            connection.sendall(body[-1:])
            answer = connection.makefile("rb").read()
        process.communicate(timeout=30)
    assert answer.startswith(b"HTTP/1.1 200")
    assert process.returncode == 0


def test_the_service_imports_no_torch(store: str) -> None:
    """A serving process carries onnxruntime, not the training stack."""
    with running(store) as (process, url):
        assert httpx.post(f"{url}/score", json=SCORE, timeout=30).status_code == 200
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "torch" not in mapped


def test_the_command_line_imports_nothing_heavy_before_a_subcommand_runs() -> None:
    """`espalier --help` is quick: neither the service nor its libraries are loaded for it."""
    heavy = ("torch", "fastapi", "onnxruntime", "numpy", "httpx")
    script = f"import cli.serve, cli.score, cli.token, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_library_brings_threads_of_its_own() -> None:
    """Law: numpy is imported without a pool, so that only the engine has as many threads as its setting says.

    ONNX Runtime starts one at its import, which sleeps, and the main thread is another.
    """
    script = (
        "import contextlib, os, sys, typer\nfrom cli.serve import serve\n"
        "with contextlib.suppress(typer.Exit):\n    serve(store='nonsense')\n"
        "print([m in sys.modules for m in ('numpy', 'onnxruntime')], len(os.listdir('/proc/self/task')) <= 2)"
    )
    given = {name: value for name, value in environment().items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", script], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, True] True"


def test_the_log_says_on_which_cores_the_engine_scores(store: str) -> None:
    """Law: one line at the start, of the cores as they are bound."""
    core = str(usable()[-1])
    with running(store, "--engine-cpus", core) as (process, _):
        bound = [os.sched_getaffinity(int(path.name)) for path in Path(f"/proc/{process.pid}/task").iterdir()]
        process.terminate()
        _, err = process.communicate(timeout=30)
    (line,) = [json.loads(line) for line in err.splitlines() if '"engine_bound"' in line]
    assert (line["cores"], line["threads"]) == (core, 1)
    assert {int(core)} in bound


def test_an_unknown_variable_stops_the_start(store: str) -> None:
    """A misspelt setting is named with the near one."""
    assert "ESPALIER_MAX_ITEM " in refused("--store", store, ESPALIER_MAX_ITEM="5") + " "
    assert "ESPALIER_MAX_ITEMS" in refused("--store", store, ESPALIER_MAX_ITEM="5")


def test_an_open_address_without_tokens_stops_the_start(store: str) -> None:
    """Strangers never score because nobody thought of tokens; the message says what to do."""
    said = refused("--store", store, "--host", "0.0.0.0", "--port", "0")
    assert "espalier token new" in said
    assert "127.0.0.1" in said


def test_a_taken_port_stops_the_start(store: str) -> None:
    """The address is tried before anything is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "choose another" in refused("--store", store, "--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("memory://", "espalier publish"),
        ("file:///nonexistent/espalier", "/nonexistent/espalier"),
        ("redis://user:hunter2@127.0.0.1:1", "cannot be read"),
        ("nonsense", "file:///"),
    ],
)
def test_a_store_that_cannot_serve_stops_the_start(url: str, named: str) -> None:
    """Of one process only, absent, away or no URL: the message says which, and never the password."""
    said = refused("--store", url, "--port", "0")
    assert named in said
    assert "hunter2" not in said


def test_no_store_at_all_is_said() -> None:
    """What is required has no silent default."""
    assert "store is missing" in refused("--port", "0")


def test_a_config_file_is_read(store: str, tmp_path: Path) -> None:
    """YAML settings reach the server, and options go before them."""
    config = tmp_path / "espalier.yaml"
    config.write_text("port: 1\nmax_items: 1\n")
    with running(store, "--config", str(config)) as (_, url):
        answer = httpx.post(f"{url}/score", json=SCORE | {"item_ids": ["item-1", "item-2"]}, timeout=30)
    assert answer.status_code == 413


def test_a_restart_without_the_store_serves_what_the_disk_has(random_run: Run, tmp_path: Path) -> None:
    """Law: with a cache folder, a service whose store is away starts, says so, and scores what it scored before."""
    cache = {"ESPALIER_CACHE_DIR": str(tmp_path / "cache")}
    patient = {"ESPALIER_COLD_WAIT_MS": "30000", "ESPALIER_DEADLINE_MS": "30000"}
    with valkey(tmp_path, appendonly="yes") as server:
        asyncio.run(fill_store(server.url, random_run))
        with running(server.url, **cache, **patient) as (_, url):
            before = httpx.post(f"{url}/score", json=SCORE, timeout=30).json()
        server.kill()
        with running(server.url, **cache, **patient) as (process, url):
            after = httpx.post(f"{url}/score", json=SCORE, timeout=30).json()
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=30)
    assert before["served"]["fallback"] is None
    assert (after["served"], after["scores"]) == (before["served"], before["scores"])
    assert "from the disk cache" in out
