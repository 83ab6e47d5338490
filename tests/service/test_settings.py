"""Settings: where they may stand, which place wins, and what is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters_store.ids import check_domain
from service.logs import open_log
from service.redaction import redacted, without_secrets
from service.refusals import SettingsInvalid
from service.reloading import tokens_of
from service.settings import is_loopback, load_settings

STORE = {"store": "memory://"}


def test_options_win_over_variables_and_variables_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearer to the caller a setting stands, the more it counts."""
    config = tmp_path / "espalier.yaml"
    config.write_text("store: file:///from-the-file\nport: 1\nmax_items: 1\nqueue_rows: 1\n")
    monkeypatch.setenv("ESPALIER_PORT", "2")
    monkeypatch.setenv("ESPALIER_MAX_ITEMS", "2")
    settings = load_settings({"port": 3, "host": None}, config)
    assert (settings.port, settings.max_items, settings.queue_rows, settings.host) == (3, 2, 1, "127.0.0.1")
    assert settings.store == "file:///from-the-file"


def test_an_unknown_key_stops_the_start_and_names_the_near_one(tmp_path: Path) -> None:
    """A misspelt setting is never ignored."""
    config = tmp_path / "espalier.yaml"
    config.write_text("store: memory://\nmax_itms: 1\n")
    with pytest.raises(SettingsInvalid, match=r"max_itms.*max_items"):
        load_settings({}, config)


@pytest.mark.parametrize("name", ["ESPALIER_PRT", "espalier_prt"])
def test_an_unknown_variable_stops_the_start_and_names_the_near_one(name: str) -> None:
    """Our prefix is ours: a variable that carries it and is none of ours is a mistake."""
    with pytest.raises(SettingsInvalid, match=rf"{name}.*ESPALIER_PORT"):
        load_settings(STORE, environ={name: "1"})


def test_variables_of_other_commands_may_stand_beside() -> None:
    """The command line's own variables do not stop a server."""
    environ = {"ESPALIER_TOKEN": "x", "ESPALIER_DATA_DIR": "y", "OTHER": "z"}
    assert load_settings(STORE, environ=environ).port == 8000


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"port": 70_000}, "port"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"store": "/var/lib/espalier"}, "file:///var/lib/espalier"),
        ({"max_items": "many"}, "max_items"),
        ({"store": None}, "store is missing"),
        ({"workers": 0}, "workers"),
        ({"workers": 65}, "workers"),
        ({"prewarm_domains": 10_001}, "prewarm_domains"),
        ({"store_timeout_s": 0}, "store_timeout_s"),
        ({"cache_bytes": 1}, "cache_bytes"),
        ({"memory_bytes": 1}, "memory_bytes"),
        ({"pinned": ["a b"]}, "pinned.*'a b' is no domain id"),
        ({"replica_id": "a/b"}, "replica_id"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(given: dict[str, object], named: str) -> None:
    """A refusal says which setting it is about."""
    with pytest.raises(SettingsInvalid, match=named):
        load_settings({**STORE, **given}, environ={})


@pytest.mark.parametrize(
    ("content", "named"), [("- a\n", "must be a mapping"), ("a: [\n", "no YAML"), (None, "cannot be read")]
)
def test_a_settings_file_that_is_none_is_refused_by_name(tmp_path: Path, content: str | None, named: str) -> None:
    """Missing, broken or of another shape: the message names the file."""
    config = tmp_path / "espalier.yaml"
    if content is not None:
        config.write_text(content)
    with pytest.raises(SettingsInvalid, match=rf"espalier\.yaml.*{named}"):
        load_settings(STORE, config)


def test_a_broken_settings_file_is_not_quoted(tmp_path: Path) -> None:
    """A line that cannot be parsed may hold a password."""
    config = tmp_path / "espalier.yaml"
    config.write_text("store: [redis://user:hunter2@host\n")
    with pytest.raises(SettingsInvalid) as refusal:
        load_settings({}, config)
    assert "hunter2" not in str(refusal.value)


def test_pinned_domains_in_a_variable_are_separated_by_commas() -> None:
    """Law: a list in a variable needs no JSON, in the file it is a YAML list, and a domain named twice counts once."""
    given = {**STORE, "pinned": "women, men,women"}
    assert load_settings(given, environ={}).pinned == ("women", "men")
    assert load_settings({**STORE, "pinned": ["women"]}, environ={}).pinned == ("women",)
    assert load_settings(STORE, environ={}).pinned == ()


def test_a_replica_names_itself_in_id_characters() -> None:
    """Law: without a name of its own a replica is called after host and process, which the store takes as an id."""
    named = load_settings(STORE, environ={}).replica_id
    assert check_domain(named).endswith(f"-{os.getpid()}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:hunter2@host:6379/0", "redis://***@host:6379/0"),
        ("s3://key@bucket/prefix?secret=hunter2", "s3://***@bucket/prefix"),
        ("rediss+sentinel://u:hunter2@a:1,b:2/name/0", "rediss+sentinel://***@a:1,b:2/name/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis+s3://bucket/prefix?redis=redis://u:hunter2@host:1/0", "redis+s3://bucket/prefix"),
        ("redis://user:hunter2/tail@host:6379/0", "redis://***"),
        ("redis://user:hunter2?tail@host:6379/0", "redis://***"),
        ("file:///var/lib/espalier", "file:///var/lib/espalier"),
        ("memory://", "memory://"),
    ],
)
def test_a_store_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    """What is printed or logged holds no user, password or query."""
    assert redacted(url) == shown
    settings = load_settings({"store": url}, environ={})
    assert settings.shown_store == shown
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("redis://user:hunter2@host:6379/0", "hunter2"),
        ("redis://:hunter2@host:6379/0", "hunter2"),
        ("redis://user:hunter%402@host:6379/0", "hunter@2"),
        ("s3://bucket/prefix?secret_access_key=hunter2", "hunter2"),
        ("redis+s3://bucket/p?redis=redis%3A%2F%2Fuser%3Ahunter2%40host%3A6379&region=eu", "hunter2"),
        ("redis+s3://bucket/p?redis=redis://user:hunter2@host:6379", "hunter2"),
    ],
)
def test_a_message_is_shown_without_the_secrets_of_its_url(url: str, secret: str) -> None:
    """Law: whatever a library quotes, the URL whole or only its password, neither is printed."""
    for message in (f"cannot reach {url}: refused", f"wrong password {secret!r}"):
        shown = without_secrets(message, url)
        assert secret not in shown
        assert shown.startswith(message[:10])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_loopback_addresses_are_known(host: str) -> None:
    """Only this machine reaches them."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "localhost.example.org", ""])
def test_every_other_address_counts_as_reachable(host: str) -> None:
    """In doubt an address is open to strangers."""
    assert not is_loopback(host)


def test_settings_are_frozen() -> None:
    """Nothing changes under a running server."""
    settings = load_settings(STORE, environ={})
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_the_core_is_opened_with_the_settings() -> None:
    """Every setting of the core that stands in the settings reaches it."""
    settings = load_settings({**STORE, "queue_rows": 7, "uploads_in_flight": 3}, environ={})
    assert (settings.replica.queue_rows, settings.replica.publishes_in_flight) == (7, 3)
    assert settings.replica.reconcile_s == settings.reconcile_s


def test_a_tokens_file_without_a_token_stops_the_start(tmp_path: Path) -> None:
    """Law: emptying the tokens file closes the service; it never opens scoring."""
    (tmp_path / "tokens.yaml").write_text("")
    settings = load_settings({"store": "memory://", "tokens": tmp_path / "tokens.yaml"}, environ={})
    with pytest.raises(SettingsInvalid, match=r"tokens\.yaml holds no token"):
        tokens_of(settings, open_log())
