"""Secrets: none of those that a service is given stands in what it logs, answers, measures, prints or passes on.

A real service with two workers over a Valkey with a password: asked for everything, refused much, left by its store.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.forge import Run, digest
from cli.main import app
from service.token_writing import add_token
from tests.cli.serving import command, environment, fill_store, free_port
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.valkey import Valkey, valkey
from tests.service.live import adapter
from tests.service.test_workers import family

PASSWORD = "pass/word:of@the?store"
COLLECTOR = "key-of-the-collector"
STRANGER = "esp_token-that-nobody-issued"
SCORE = {"user_id": "user-4711-of-nobody", "domain_id": "theme-1", "item_ids": ["item-4711-of-nobody"]}
WAIT_S = 60
runner = CliRunner()


@dataclass
class Said:
    """Everything that a service let out, and what must not be in it.

    Args:
        secrets: as they were given.
        texts: where -> what was said there.
    """

    secrets: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)

    def answer(self, reply: httpx.Response) -> None:
        """Take an answer, headers included."""
        headers = "\n".join(f"{name}: {value}" for name, value in reply.headers.items())
        self.texts[f"{len(self.texts)} {reply.request.method} {reply.request.url.path} {reply.status_code}"] = (
            f"{headers}\n{reply.text}"
        )

    def found(self) -> list[str]:
        """Which secret stands where, in whatever form."""
        return [
            f"{name} in {where}"
            for where, text in self.texts.items()
            for name, secret in self.secrets.items()
            if any(form in text for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]))
        ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, random_run: Run) -> Iterator[Valkey]:
    """A filled store that asks for a password."""
    with valkey(tmp_path_factory.mktemp("valkey"), password=PASSWORD) as server:
        asyncio.run(fill_store(url_of(server), random_run))
        yield server


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, store: Valkey, random_run: Run) -> Said:
    """What a service said from its start to its end."""
    folder = tmp_path_factory.mktemp("secrets")
    certificates = make_certificates(folder)
    tokens, config, log = folder / "tokens.yaml", folder / "espalier.yaml", folder / "log"
    token = add_token(tokens, "publisher", ["admin"])
    said = Said({"password": PASSWORD, "token": token, "collector's key": COLLECTOR, "stranger's token": STRANGER})
    said.secrets["private key"] = certificates.key.read_text().splitlines()[1]
    config.write_text(yaml.safe_dump(settings(tokens, certificates, folder)))
    port = free_port()
    with log.open("w") as both:
        server = subprocess.Popen(
            command("--config", str(config), "--port", str(port), "--workers", "2"),
            env=environment(ESPALIER_STORE=url_of(store), OTEL_EXPORTER_OTLP_HEADERS=f"api-key={COLLECTOR}"),
            stdout=both,
            stderr=both,
            text=True,
        )
    everybody: list[psutil.Process] = []
    try:
        trust = ssl.create_default_context(cafile=certificates.ca)
        url = f"https://127.0.0.1:{port}"
        with httpx.Client(base_url=url, verify=trust, timeout=WAIT_S) as client:
            wait_until_ready(client, server, log)
            everybody = family(server.pid)
            said.texts["command lines"] = "\n".join(" ".join(each.cmdline()) for each in everybody)
            ask(client, said, token, random_run)
            store.kill()
            ask_without_store(client, said, token, random_run)
        server.send_signal(signal.SIGTERM)
        server.wait(WAIT_S)
    finally:
        for each in everybody + family(server.pid):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        server.wait()
    said.texts["log"] = log.read_text()
    return said


def wait_until_ready(client: httpx.Client, server: subprocess.Popen[str], log: Path) -> None:
    """Until it says so; if it ends first, the test fails."""
    while server.poll() is None:
        with suppress(httpx.TransportError):
            if client.get("/healthz/ready", timeout=5).status_code == 200:
                return
    raise AssertionError(f"the server ended with {server.returncode}: {log.read_text()}")


def settings(tokens: Path, certificates: Certificates, folder: Path) -> dict[str, object]:
    """A service that says as much as it can."""
    return {
        "tokens": str(tokens),
        "tls_cert": str(certificates.cert),
        "tls_key": str(certificates.key),
        "log_level": "debug",
        "log_share": 1.0,
        "otlp_endpoint": f"http://127.0.0.1:{free_port()}",  # nobody is there
        "trace_share": 1.0,
        "feedback_dir": str(folder / "feedback"),
        "cache_dir": str(folder / "cache"),
        "store_timeout_s": 1.0,
        "publish_wait_ms": 1000,
        "drain_s": 2,
    }


def url_of(server: Valkey, password: str = PASSWORD) -> str:
    """The store's URL as an operator writes it: with the password in it."""
    return f"redis://default:{quote(password, safe='')}@127.0.0.1:{server.port}"


def ask(client: httpx.Client, said: Said, token: str, run: Run) -> None:
    """Everything that a service answers, with its token and without, well and badly."""
    body = adapter(run, "theme-1", "avg")
    for headers in ({"Authorization": f"Bearer {token}"}, {"Authorization": f"Bearer {STRANGER}"}, {}):
        for path in ("/adapters", "/adapters/theme-1", "/adapters/theme-9", "/metrics", "/docs", "/openapi.json"):
            said.answer(client.get(path, headers=headers))
        said.answer(client.get("/nowhere", headers=headers))
        for score in (SCORE, SCORE | {"domain_id": "nobody-knows", "strict": True}, SCORE | {"more": 1}, {}):
            said.answer(client.post("/score", json=score, headers=headers))
        said.answer(client.post("/score", json=SCORE, headers={**headers, "X-Deadline-Ms": "0.001"}))
        said.answer(client.post("/score", content=b"no json", headers=headers))
        for content in (body, b"no artifact"):
            params = {"revision": digest(content)}
            said.answer(client.post("/adapters/theme-1", content=content, params=params, headers=headers))
        said.answer(client.post("/adapters/theme-1", content=body, params={"revision": "0" * 64}, headers=headers))
        said.answer(client.post("/feedback", json={"events": [{}]}, headers=headers))
    for name in ("Authorization", "Cookie", "X-Request-Id", "X-Deadline-Ms", "If-Match"):  # in a place of another
        said.answer(client.post("/score", json=SCORE, headers={name: token}))
        said.answer(client.put("/adapters/theme-1/aliases/live", json={}, headers={name: f"Bearer {token} {token}"}))


def ask_without_store(client: httpx.Client, said: Said, token: str, run: Run) -> None:
    """What is answered once the store is gone."""
    headers = {"Authorization": f"Bearer {token}"}
    body = adapter(run, "theme-2", "avg")
    for _ in range(2):
        said.answer(client.post("/score", json=SCORE | {"domain_id": "theme-3", "strict": True}, headers=headers))
        said.answer(client.post("/adapters/theme-2", content=body, params={"revision": digest(body)}, headers=headers))
        said.answer(client.get("/adapters/theme-2", headers=headers))
        said.answer(client.post("/adapters/theme-2/rollback", json={"from": "0" * 64}, headers=headers))
    said.answer(client.get("/metrics", headers=headers))
    said.answer(client.get("/healthz/ready"))


def test_no_secret_is_in_what_a_service_let_out(said: Said) -> None:
    """Law: passwords, tokens known and unknown, keys and the collector's header are in no log line, answer, metric or
    command line of a service."""
    assert said.found() == []


def test_the_search_saw_what_it_was_to_see(said: Said) -> None:
    """Law: the service logged, refused and failed meanwhile; a search of silence would prove nothing."""
    events = {json.loads(line)["event"] for line in said.texts["log"].splitlines() if line.startswith("{")}
    assert {"request", "audit"} <= events
    statuses = {where.rsplit(" ", 1)[1] for where in said.texts if where[0].isdigit()}
    assert {"200", "401", "404", "422", "503"} <= statuses
    assert statuses & {"408", "504"}
    assert "opentelemetry" in said.texts["log"]
    assert "espalier_requests_total" in "".join(said.texts.values())
    assert len(said.texts["command lines"].splitlines()) >= 3


def test_the_search_would_find_a_secret() -> None:
    """Law: a secret is recognized as it was given, quoted for a URL, and escaped in JSON."""
    for text in (f"x{PASSWORD}x", f"redis://u:{quote(PASSWORD, safe='')}@h", json.dumps({"a": PASSWORD})):
        assert Said({"password": PASSWORD}, {"log": text}).found() == ["password in log"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://default:{password}@127.0.0.1:1/0",
        "redis://default:{password}@127.0.0.1:1/0?unknown={password}",
        "redis+sentinel://default:{password}@127.0.0.1:1",
        "redis://default:{password}@[::1/0",
        "s3://key:{password}@bucket?endpoint=http://127.0.0.1:1&secret={password}",
        "nothing://default:{password}@host",
        "{password}",
    ],
)
def test_no_failing_start_tells_the_password_of_its_store(url: str) -> None:
    """Law: a URL that cannot be opened is refused with a reason and without its secrets, in the help too."""
    secret = "hunter2hunter2"
    variables = {"ESPALIER_STORE": url.format(password=secret), "ESPALIER_STORE_TIMEOUT_S": "0.1"}
    refused = runner.invoke(app, ["serve", "--port", "0"], env=variables)
    assert refused.exit_code == 1
    assert secret not in refused.output
    for arguments in (["serve", "--help"], ["config", "show"], ["adapters", "list"], ["store", "check"]):
        assert secret not in runner.invoke(app, arguments, env=variables).output, arguments
