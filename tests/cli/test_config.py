"""`espalier config`: what is checked, what is shown, and what is never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.config import app
from service.settings import Settings
from service.token_writing import add_token
from tests.servers.certificates import make_certificates


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of whoever runs the tests do not count."""
    for name in list(os.environ):
        if name.startswith("ESPALIER_"):
            monkeypatch.delenv(name)


def check(folder: Path, content: str) -> Result:
    """`espalier config check` of a file with this content."""
    file = folder / "espalier.yaml"
    file.write_text(content)
    return CliRunner().invoke(app, ["check", str(file)])


def show(*options: str) -> dict[str, tuple[str, str]]:
    """`espalier config show`: name -> (value, source)."""
    done = CliRunner().invoke(app, ["show", *options])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    return {name: (" ".join(value), source) for name, *value, source in lines}


def test_a_file_that_a_server_would_take_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the check ends with 0, and says how much of it counts; files that are named are read."""
    add_token(tmp_path / "tokens.yaml", "me", ["score"])
    made = make_certificates(tmp_path)
    monkeypatch.setenv("ESPALIER_WORKERS", "2")
    done = check(
        tmp_path,
        f"store: file:///srv/espalier\nhost: 0.0.0.0\nworkers: 1\ntokens: {tmp_path / 'tokens.yaml'}\n"
        f"tls_cert: {made.cert}\ntls_key: {made.key}\ncache_dir: {tmp_path / 'not' / 'yet'}\n",
    )
    assert done.exit_code == 0, done.output
    assert "6 settings from the file, 1 from variables" in done.stdout
    assert "no store is named" not in done.stdout


def test_a_file_without_a_store_is_good_and_the_store_is_asked_for(tmp_path: Path) -> None:
    """Law: a store's URL may hold a password, and stand in a variable of the server alone."""
    done = check(tmp_path, "port: 8001\n")
    assert done.exit_code == 0
    assert "ESPALIER_STORE" in done.stdout


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("prt: 1\n", "prt is no known key; did you mean 'port'"),
        ("port: many\n", "port: "),
        ("- port\n", "must be a mapping"),
        ("port: [\n", "is no YAML"),
        ("admin_port: 8000\n", "the main port already"),
        ("admin_host: 127.0.0.1\n", "admin_host is set without admin_port"),
        ("tokens: absent.yaml\n", "absent.yaml cannot be read"),
        ("tls_cert: absent.pem\n", "absent.pem"),
        ("tls_key: absent.pem\n", "tls_key is set without tls_cert"),
        ("host: 0.0.0.0\n", "espalier token new"),
        ("cache_dir: /proc/version\n", "cache_dir: /proc/version is no folder"),
        ("engine_cpus: 5-2\n", "engine_cpus: 5-2 runs backwards"),
        ("engine_cpus: [2, 3]\n", "engine_cpus: "),
        ("engine_cpus: 9999\n", "engine_cpus: this process may run on "),
        ("engine_cpus: all\nengine_threads: 255\n", "engine_threads: 255 take 255, one for each thread"),
    ],
)
def test_what_would_stop_a_server_is_said_and_ends_with_1(tmp_path: Path, content: str, named: str) -> None:
    """Law: unknown keys, bad values, and files that cannot be read, each in words that name it; no traceback."""
    done = check(tmp_path, "store: file:///srv/espalier\n" * (content[0] != "-") + content)
    assert (done.exit_code, done.stdout) == (1, "")
    assert named in done.stderr
    assert "espalier.yaml" in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_every_fault_of_the_files_is_said_at_once(tmp_path: Path) -> None:
    """Law: who mends one fault is not told of the next one only then."""
    done = check(tmp_path, "tokens: absent.yaml\ntls_cert: absent.pem\nfeedback_dir: /proc/version\n")
    assert done.exit_code == 1
    assert [name for name in ("absent.yaml", "absent.pem", "feedback_dir") if name in done.stderr] == [
        "absent.yaml",
        "absent.pem",
        "feedback_dir",
    ]


def test_each_setting_is_shown_with_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: options before variables before the file before defaults, and every setting has its line."""
    config = tmp_path / "espalier.yaml"
    config.write_text("store: file:///from-the-file\nport: 1\nworkers: 1\nmax_items: 7\nfeed: false\n")
    monkeypatch.setenv("ESPALIER_PORT", "2")
    monkeypatch.setenv("ESPALIER_WORKERS", "2")
    shown = show("--config", str(config), "--port", "3")
    assert shown["port"] == ("3", "option")
    assert shown["workers"] == ("2", "variable")
    assert shown["max_items"] == ("7", "file")
    assert shown["feed"] == ("false", "file")
    assert shown["host"] == ("127.0.0.1", "default")
    assert shown["admin_port"] == ("-", "default")
    assert list(shown) == list(Settings.model_fields)
    changed = show("--config", str(config), "--port", "3", "--changed")
    assert set(changed) == {"store", "port", "workers", "max_items", "feed"}


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: neither what is shown nor what is refused holds the secrets of a URL."""
    monkeypatch.setenv("ESPALIER_STORE", "rediss://user:hunter2@host:6379/0")
    monkeypatch.setenv("ESPALIER_OTLP_ENDPOINT", "https://user:hunter2@host/v1?key=hunter2")
    shown = show()
    assert shown["store"] == ("rediss://***@host:6379/0", "variable")
    assert shown["otlp_endpoint"] == ("https://***@host/v1", "variable")
    refused = CliRunner().invoke(app, ["show", "--port", "70000"])
    assert refused.exit_code != 0
    assert "hunter2" not in refused.output + refused.stderr
    checked = check(tmp_path, "prt: 1\n")
    assert checked.exit_code == 1
    assert "hunter2" not in checked.output + checked.stderr
