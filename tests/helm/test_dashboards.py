"""The Grafana dashboards: what is committed is what the code builds, and every panel says what it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helm.dashboards.__main__ import BOARDS, FOLDER

ROOT = Path(__file__).parents[2]
SUFFIXES = r"_(?:bucket|count|sum)$"


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of all rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def documented() -> set[str]:
    """Metrics that docs/metrics.md lists, which another test holds to what the service shows."""
    return set(re.findall(r"`(espalier_[a-z_]+|process_[a-z_]+)", (ROOT / "docs" / "metrics.md").read_text()))


def metrics_of(expression: str) -> set[str]:
    """Those that a query asks for, without the endings of histograms."""
    named = re.findall(r"\b((?:espalier|process)_[a-z_]+)", re.sub(r"\{[^}]*\}", "", expression))
    return {re.sub(SUFFIXES, "", name) for name in named}


@pytest.mark.parametrize("name", BOARDS)
def test_what_is_committed_is_what_is_built(name: str) -> None:
    """Law: `python -m helm.dashboards` changes nothing."""
    assert (FOLDER / f"{name}.json").read_text() == BOARDS[name]()


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_says_what_it_shows(name: str) -> None:
    """Law: a title, a description that ends as a sentence, a unit, and queries of the chosen replicas only."""
    board = json.loads(BOARDS[name]())
    found = list(panels(board))
    assert found
    for panel in found:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for target in panel["targets"]:
            selectors = re.findall(r"\{[^}]*\}", target["expr"])
            assert selectors
            assert all('job=~"$job",instance=~"$instance"' in selector for selector in selectors)
    assert len({panel["id"] for panel in found}) == len(found)


@pytest.mark.parametrize("name", BOARDS)
def test_every_query_asks_for_metrics_that_exist(name: str) -> None:
    """Law: a metric of a query is in docs/metrics.md."""
    asked = {
        metric
        for panel in panels(json.loads(BOARDS[name]()))
        for target in panel["targets"]
        for metric in metrics_of(target["expr"])
    }
    assert asked <= documented()


def test_the_uids_differ() -> None:
    """Law: no board replaces another when they are provisioned."""
    uids = [json.loads(made())["uid"] for made in BOARDS.values()]
    assert len(set(uids)) == len(uids)
