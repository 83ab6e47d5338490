"""`espalier score` and `espalier token new` against a running service."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.forge import Run
from cli import token
from cli.score import score
from tests.cli.serving import file_store, free_port, running
from tests.servers.certificates import make_certificates

app = typer.Typer()
app.command(name="score")(score)
app.add_typer(token.app, name="token")
ASK = ["score", "--user", "7", "--domain", "theme-1"]


@pytest.fixture(scope="module")
def service(random_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options of `espalier score` for a running service with one token."""
    folder = tmp_path_factory.mktemp("score")
    store = asyncio.run(file_store(folder / "store", random_run))
    tokens = folder / "tokens.yaml"
    made = CliRunner().invoke(app, ["token", "new", "--name", "me", "--scope", "score", "--out", str(tokens)])
    assert made.exit_code == 0
    with running(store, "--tokens", str(tokens), ESPALIER_COLD_WAIT_MS="30000", ESPALIER_DEADLINE_MS="30000") as (
        _,
        url,
    ):
        yield ["--url", url, "--token", made.stdout.strip()]


def test_items_stand_in_a_table_best_first(service: list[str]) -> None:
    """One line an item by falling score, unknown ones marked, and what scored."""
    items = ["--item", "item-1", "--item", "nothing", "--item", "item-3"]
    shown = CliRunner().invoke(app, [*ASK, *items, *service])
    raw = json.loads(CliRunner().invoke(app, [*ASK, *items, *service, "--json"]).stdout)
    assert shown.exit_code == 0, shown.output
    ranked = sorted(zip(raw["scores"], ["item-1", "nothing", "item-3"], strict=True), reverse=True)
    places = [shown.stdout.index(f"{value:.6f}") for value, _ in ranked]
    assert places == sorted(places)
    assert "unknown item" in shown.stdout
    assert raw["served"]["revision"][:12] in shown.stdout


def test_context_values_reach_the_service(service: list[str]) -> None:
    """NAME=VALUE: numbers as numbers, so that dense fields take them."""
    plain, aged = [
        json.loads(CliRunner().invoke(app, [*ASK, "--item", "item-1", *more, *service, "--json"]).stdout)["scores"]
        for more in ([], ["--context", "age_days=60.5", "--context", "hour=18"])
    ]
    assert plain != aged


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--domain", "segment-a"], "422 Auxiliary domain"),
        (["--domain", "nobody", "--strict"], "404 Unknown domain"),
        (["--token", "wrong"], "401 Unauthenticated"),
        (["--context", "age_days=old"], "age_days"),
    ],
)
def test_a_refusal_is_told_in_one_line_and_ends_with_1(service: list[str], options: list[str], named: str) -> None:
    """The problem's status, title and detail; no traceback."""
    done = CliRunner().invoke(app, [*ASK, "--item", "item-1", *service, *options])
    assert done.exit_code == 1
    assert named in done.stderr
    assert done.stdout == ""


def test_no_service_is_told() -> None:
    """An address where nobody answers is named."""
    url = f"http://127.0.0.1:{free_port()}"
    done = CliRunner().invoke(app, [*ASK, "--item", "item-1", "--url", url])
    assert done.exit_code == 1
    assert url in done.stderr


def test_a_token_is_printed_once_and_alone(tmp_path: Path) -> None:
    """stdout holds the token and nothing else, so that a script can keep it; the file holds no token."""
    path = tmp_path / "tokens.yaml"
    done = CliRunner().invoke(app, ["token", "new", "--name", "a", "--scope", "score", "--out", str(path)])
    assert done.stdout.strip().startswith("esp_")
    assert done.stdout.strip() not in path.read_text()
    again = CliRunner().invoke(app, ["token", "new", "--name", "a", "--scope", "score", "--out", str(path)])
    assert (again.exit_code, again.stdout) == (1, "")
    assert "choose another name" in again.stderr


def test_a_service_behind_mutual_tls_is_asked_with_a_certificate(random_run: Run, tmp_path: Path) -> None:
    """--ca trusts its certificate and --cert with --key shows ours; without one of them nobody answers."""
    store = asyncio.run(file_store(tmp_path / "store", random_run))
    files = make_certificates(tmp_path)
    trust = ssl.create_default_context(cafile=files.ca)
    trust.load_cert_chain(files.cert, files.key)
    given = {"TLS_CERT": files.cert, "TLS_KEY": files.key, "TLS_CLIENT_CA": files.ca}
    variables = {f"ESPALIER_{name}": str(path) for name, path in given.items()}
    variables |= {"ESPALIER_COLD_WAIT_MS": "30000", "ESPALIER_DEADLINE_MS": "30000"}
    with running(store, trust=trust, **variables) as (_, url):
        ask = [*ASK, "--item", "item-1", "--url", url]
        own = ["--cert", str(files.cert), "--key", str(files.key)]
        answered = CliRunner().invoke(app, [*ask, "--ca", str(files.ca), *own, "--json"])
        assert answered.exit_code == 0, answered.output
        assert len(json.loads(answered.stdout)["scores"]) == 1
        for missing in (["--ca", str(files.ca)], own):
            refused = CliRunner().invoke(app, [*ask, *missing])
            assert refused.exit_code == 1
            assert url in refused.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--key", "key.pem"], "--cert"), (["--ca", "nowhere.pem"], "nowhere.pem is no file")],
)
def test_certificates_that_are_not_there_are_told_before_anything_is_sent(options: list[str], named: str) -> None:
    """A wrong use ends with 2 and names what is missing."""
    done = CliRunner().invoke(app, [*ASK, "--item", "item-1", *options])
    assert done.exit_code == 2
    assert named in done.stderr
