"""Every setting of the service can be reached from the chart's values, and means the same there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings, load_settings
from tests.helm.rendering import LEAST, pods, rendered, schema, settings_of
from tests.helm.settings_schema import OWNED, schema_of_settings

IN_SCHEMA = schema_of_settings()["properties"]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_each_setting_has_its_place_in_the_values(name: str) -> None:
    """Law: a setting stands in `settings:` with the service's type, bounds, default and words, or the chart owns it.

    `python -m tests.helm.settings_schema` writes the schema anew.
    """
    in_chart = schema()["properties"]["settings"]["properties"]
    if name in OWNED:
        assert name not in in_chart
    else:
        assert in_chart[name] == IN_SCHEMA[name]


def test_the_schema_has_no_setting_that_the_service_lacks() -> None:
    """Law: a setting that is gone from the service is refused by the chart."""
    assert schema()["properties"]["settings"] == schema_of_settings()


def strange(field: dict[str, Any]) -> object:
    """Some value that the field allows and that is not its default."""
    if "enum" in field:
        return next(value for value in field["enum"] if value != field.get("default"))
    match field["type"]:
        case "boolean":
            return not field["default"]
        case "array":
            return ["age-25", "age-35"]
        case "string":
            return "192.0.2.1"
        case "integer":
            # large enough to be written as 1e+10 by a careless template, where the bound lets it
            return min(field.get("maximum", 10**13 + 7), 10**13 + 7) - 1
        case _:
            return field.get("maximum", 12345.5) / 4


def environment(pod: dict[str, Any]) -> dict[str, str]:
    """The variables of the service's container, with what a secret and the pod would give in place of references."""
    (container,) = pod["containers"]
    given = {"secretKeyRef": "redis://of-the-secret", "fieldRef": "demo-espalier-5c9f-x2x4z"}
    return {each["name"]: each.get("value") or given[next(iter(each["valueFrom"]))] for each in container["env"]}


def service_settings(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """What the service reads in a pod of this release."""
    objects = rendered(values)
    for name, value in environment(pods(objects)["Deployment"]).items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "espalier.yaml"
    config.write_text(yaml.safe_dump(settings_of(objects)))
    return load_settings({}, config)


def test_what_the_values_say_is_what_the_service_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: every setting, given a value of its own, arrives in the service unchanged, through file and variables."""
    # the two ports must differ from each other, and cores are written as such
    given = {name: strange(field) for name, field in IN_SCHEMA.items()} | {"port": 9000, "engine_cpus": "4-5,7"}
    read = service_settings({**LEAST, "settings": given}, monkeypatch, tmp_path)
    for name, value in given.items():
        arrived = getattr(read, name)
        assert (list(arrived) if isinstance(arrived, tuple) else arrived) == value, name
        assert arrived != Settings.model_fields[name].default, name


def test_what_the_chart_owns_reaches_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: each setting that stands in no `settings:` is told by the value that OWNED names."""
    values = {
        **LEAST,
        "tls": {"existingSecret": "tls", "clientCa": {"name": "ca"}},
        "feedback": {"enabled": True},
    }
    read = service_settings(values, monkeypatch, tmp_path)
    assert read.store == "redis://of-the-secret"
    folders = mounts(values)
    for name in OWNED.keys() - {"store", "replica_id"}:
        path = getattr(read, name)
        assert any(path.is_relative_to(folder) for folder in folders), name
    assert read.replica_id == "demo-espalier-5c9f-x2x4z"


def mounts(values: dict[str, Any]) -> set[str]:
    (container,) = pods(rendered(values))["Deployment"]["containers"]
    return {mount["mountPath"] for mount in container["volumeMounts"]}


def test_without_them_the_service_has_no_tls_cache_or_feedback() -> None:
    """Law: what is off in the values is absent from the settings, not empty."""
    settings = settings_of(rendered({**LEAST, "cache": {"type": "none"}}))
    assert not settings.keys() & {"tls_cert", "tls_key", "tls_client_ca", "cache_dir", "feedback_dir"}


def test_the_default_release_starts_a_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: the chart's own defaults are settings that the service accepts, on an address that pods can reach."""
    read = service_settings(LEAST, monkeypatch, tmp_path)
    assert not read.loopback
    assert read.tokens is not None
    assert read.admin_port not in {None, read.port}
    assert read.drain_delay_s > 0
