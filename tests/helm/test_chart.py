"""The chart as a whole: lint, rendering of every example, Kubernetes' own schemas, refusal of what it does not know."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest

from tests.helm.rendering import CHART, EXAMPLES, LEAST, example, one, rendered, schema
from tests.helm.settings_schema import OWNED

# the oldest that Chart.yaml allows, and the newest that the validator knows
KUBERNETES = ("1.29", "1.37")
# kinds of the Prometheus operator, which Kubernetes' own schemas do not hold
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
INFO = 1


def test_chart_passes_lint() -> None:
    """Law: `helm lint --strict` has nothing to say but hints, for the defaults and for every example."""
    for values in (LEAST, *(example(path.stem) for path in EXAMPLES)):
        report = helm_python.lint(CHART, values, strict=True)
        assert not report["errors"]
        assert not [message for message in report["messages"] if message["severity"] > INFO]


def test_there_are_six_value_sets() -> None:
    """Law: the tests below see at least six kinds of release."""
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_object_is_valid_for_the_oldest_and_the_newest_kubernetes(path: Path, kubernetes: str) -> None:
    """Law: every rendered object fits Kubernetes' strict schema, which knows no field beside its own."""
    objects = rendered(example(path.stem))
    checked = [each for each in objects if each["kind"] not in CUSTOM]
    assert {each["kind"] for each in checked} >= {"Deployment", "Service", "ConfigMap"}
    for each in checked:
        assert kubernetes_validate.validate(each, kubernetes, strict=True) == kubernetes


def test_the_examples_bring_every_kind() -> None:
    """Law: no template is left out by all value sets."""
    kinds = {each["kind"] for path in EXAMPLES for each in rendered(example(path.stem))}
    assert kinds >= CUSTOM | {
        "ConfigMap",
        "CronJob",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Ingress",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }


def test_no_two_objects_share_a_name() -> None:
    """Law: a release never writes over an object of its own."""
    for path in EXAMPLES:
        names = [(each["kind"], each["metadata"]["name"]) for each in rendered(example(path.stem))]
        assert len(names) == len(set(names)), path.stem


def objects_of(part: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every sub-schema that describes an object, with its path."""
    found = [(path, part)] if part.get("type") == "object" else []
    for key in ("properties", "definitions"):
        for name, member in part.get(key, {}).items():
            found += objects_of(member, f"{path}/{name}")
    return found + (objects_of(part["items"], f"{path}[]") if "items" in part else [])


def test_every_object_of_the_schema_refuses_unknown_keys() -> None:
    """Law: only maps of text and what is handed to Kubernetes as it is may hold any key."""
    free = {path for path, part in objects_of(schema()) if part.get("additionalProperties") is not False}
    assert free == {
        "/global",
        "/strings",
        "/quantities",
        "/kubernetes",
        "/kubernetesList[]",
    }


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 3},
        {"image": {"repo": "x"}},
        {"settings": {"max_itms": 1}},
        {"settings": {"store": "redis://elsewhere"}},
        {"settings": {"port": 70_000}},
        {"settings": {"log_level": "verbose"}},
        {"settings": {"drain_s": "ten"}},
        {"settings": {"engine_cpus": "2;5"}},
        {"training": {"job": {"enable": True}}},
        {"spread": [{"topologykey": "zone"}]},
        {"cache": {"type": "hostPath"}},
        {"user": 0},
        {"store": {"existingSecret": {"name": ""}, "url": "redis://user:secret@valkey:6379/0"}},
    ],
    ids=lambda values: json.dumps(values)[:60],
)
def test_unknown_keys_and_impossible_values_are_refused(values: dict[str, Any]) -> None:
    """Law: a misspelt key, a value out of its range, root, and a password in the open stop the release."""
    with pytest.raises(helm_python.HelmValuesError):
        refused_by_schema({**LEAST, **values})


def refused_by_schema(values: dict[str, Any]) -> None:
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)


def test_every_example_and_the_defaults_fit_the_schema() -> None:
    """Law: what is accepted is not refused with the rest."""
    for values in ({}, LEAST, *(example(path.stem) for path in EXAMPLES)):
        refused_by_schema(values)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in LEAST.items() if name != key}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (without("store"), "store.existingSecret.name"),
        (without("tokens"), "tokens.existingSecret.name"),
        ({**LEAST, "store": {"url": "s3://bucket", "existingSecret": {"name": "x"}}}, "not both"),
        ({**LEAST, "tls": {"clientCa": {"name": "ca"}}}, "tls.existingSecret"),
        ({**LEAST, "settings": {"port": 0}}, "settings.port"),
        ({**LEAST, "settings": {"admin_port": 0}}, "settings.admin_port"),
        ({**LEAST, "ingress": {"enabled": True}}, "ingress.hosts"),
        ({**LEAST, "training": {"job": {"enabled": True}}}, "training.config"),
    ],
)
def test_what_a_release_lacks_is_named(values: dict[str, Any], named: str) -> None:
    """Law: values that cannot become a running service stop the release with the key to set."""
    with pytest.raises(helm_python.HelmRenderError, match=named):
        rendered(values)


def test_rules_and_dashboards_are_taken_from_their_folders(tmp_path: Path) -> None:
    """Law: every rule group and dashboard in the chart arrives byte for byte, templates of Prometheus left alone."""
    chart = tmp_path / "espalier"
    shutil.copytree(CHART, chart)
    for folder in ("rules", "dashboards"):
        shutil.rmtree(chart / folder)
        (chart / folder).mkdir()
    (chart / "rules" / "b.yaml").write_text("groups: [{name: b, rules: [{record: 'x:y', expr: up}]}]\n")
    alert = "{alert: A, expr: up == 0, annotations: {summary: '{{ $labels.instance }} is down'}}"
    (chart / "rules" / "a.yaml").write_text(f"groups:\n  - {{name: a, rules: [{alert}]}}\n")
    (chart / "rules" / "c_test.yaml").write_text("rule_files: [a.yaml]\ntests: []\n")
    board = '{"title": "Over\\"view", "panels": [{"expr": "sum({{x}})"}]}\n'
    (chart / "dashboards" / "Some_board.json").write_text(board)
    values = {**LEAST, "prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}}
    objects = rendered(values, chart)
    groups = one(objects, "PrometheusRule")["spec"]["groups"]
    assert [group["name"] for group in groups] == ["a", "b"]
    assert groups[0]["rules"][0]["annotations"]["summary"] == "{{ $labels.instance }} is down"
    config = one(objects, "ConfigMap", "-some-board")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["data"] == {"Some_board.json": board.rstrip("\n")}


def test_every_committed_rule_and_dashboard_is_in_the_release() -> None:
    """Law: nothing in the two folders is left behind."""
    objects = rendered({**LEAST, "prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}})
    boards = {
        name for each in objects if each["kind"] == "ConfigMap" for name in each["data"] if name.endswith(".json")
    }
    assert boards == {path.name for path in (CHART / "dashboards").glob("*.json")}
    assert bool(one(objects, "PrometheusRule")["spec"]["groups"]) == any((CHART / "rules").glob("*.yaml"))


def test_the_guide_names_every_example_and_every_setting_that_the_chart_owns() -> None:
    """Law: docs/deploy.md leaves out no value set and no setting that stands outside `settings:`."""
    guide = (CHART.parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES} <= set(re.findall(r"`([a-z-]+\.yaml)`", guide))
    assert OWNED.keys() <= set(re.findall(r"`([a-z_]+)`", guide))
