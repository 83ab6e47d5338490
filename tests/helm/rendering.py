"""The chart rendered by Helm's own engine, without a cluster and without the helm command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helm_python
import yaml

from tests.helm.settings_schema import CHART

EXAMPLES = sorted((CHART.parent / "examples").glob("*.yaml"))
# what every release must give; tests add to it
LEAST: dict[str, Any] = {
    "store": {"existingSecret": {"name": "espalier-store"}},
    "tokens": {"existingSecret": {"name": "espalier-tokens"}},
}

Object = dict[str, Any]


def example(name: str) -> dict[str, Any]:
    """The values of one example."""
    values: dict[str, Any] = yaml.safe_load((CHART.parent / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def rendered(values: dict[str, Any], chart: Path = CHART) -> list[Object]:
    """Every object that a release with these values creates, as the API server would get it."""
    with helm_python.Chart.load(chart) as loaded:
        files = loaded.render(values, name="demo", namespace="ranking", revision=7)
    texts = (text for name, text in sorted(files.items()) if not name.endswith("NOTES.txt"))
    # libyaml's loader: the dashboards are thousands of lines, and the pure one takes a second for them
    return [found for text in texts for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def one(objects: list[Object], kind: str, suffix: str = "") -> Object:
    """The only object of a kind whose name ends so."""
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(suffix)]
    return found


def pods(objects: list[Object]) -> dict[str, Object]:
    """The spec of every pod that the objects bring, by kind."""
    found = {}
    for each in objects:
        spec = each.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template is not None:
            found[each["kind"]] = template["spec"]
    return found


def settings_of(objects: list[Object]) -> dict[str, Any]:
    """The settings file that the service's pods read."""
    settings: dict[str, Any] = yaml.safe_load(service_config(objects)["data"]["espalier.yaml"])
    return settings


def service_config(objects: list[Object]) -> Object:
    """The ConfigMap of the settings file."""
    (found,) = [o for o in objects if o["kind"] == "ConfigMap" and "espalier.yaml" in o["data"]]
    return found


def schema() -> dict[str, Any]:
    """The schema of the chart's values."""
    content: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return content
