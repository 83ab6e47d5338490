"""Panels and boards as this project's dashboards use them, on Grafana's own builders."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
CHOSEN = 'job=~"$job",instance=~"$instance"'
_HEIGHT = 8
_WIDTH = 24

Panel = timeseries.Panel | stat.Panel | heatmap.Panel


@dataclass(frozen=True)
class Query:
    """One line, or one for each label value.

    Args:
        expr: PromQL in which every metric has its braces, if empty ones: the choice of replicas is put into each.
        legend: of each line; Grafana's `{{label}}`.
    """

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Row:
    """A titled row of panels.

    Args:
        title: of the row.
        panels: side by side, equally wide; four at most in a line.
    """

    title: str
    panels: Sequence[Panel]


def lines(title: str, description: str, unit: str, *queries: Query, stacked: bool = False) -> timeseries.Panel:
    """Lines over time."""
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE).min(0)
    panel = panel.show_points(common.VisibilityMode.NEVER).fill_opacity(30 if stacked else 5)
    panel = panel.legend(
        common_builders.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
    )
    if stacked:
        panel = panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    return panel.targets([_target(query) for query in queries])


def figure(title: str, description: str, unit: str, query: Query) -> stat.Panel:
    """The newest value, large."""
    panel = stat.Panel().title(title).description(description).unit(unit).datasource(SOURCE)
    return panel.graph_mode(common.BigValueGraphMode.AREA).targets([_target(query)])


def heat(title: str, description: str, unit: str, histogram: str, where: str = "") -> heatmap.Panel:
    """A histogram's buckets over time; `where` are further matchers."""
    expr = f"sum by (le) (rate({histogram}_bucket{{{where}}}[$__rate_interval]))"
    target = _target(Query(expr, "{{le}}")).format(PromQueryFormat.HEATMAP)
    axis = heatmap.YAxisConfig().unit(unit).axis_placement(common.AxisPlacement.LEFT)
    panel = heatmap.Panel().title(title).description(description).unit(unit).datasource(SOURCE)
    return panel.calculate(False).y_axis(axis).color(_COLORS).targets([target])


def quantiles(histogram: str, by: str = "", where: str = "") -> list[Query]:
    """The median, 95th and 99th percentile of a histogram, for each value of the label `by`."""
    kept = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    buckets = f"sum by ({kept}) (rate({histogram}_bucket{{{where}}}[$__rate_interval]))"
    return [Query(f"histogram_quantile({q}, {buckets})", f"{legend}p{100 * q:g}") for q in (0.5, 0.95, 0.99)]


def rate(counter: str, by: str = "", where: str = "") -> Query:
    """A counter's growth a second over all replicas, for each value of the label `by`."""
    grouped = f" by ({by})" if by else ""
    legend = f"{{{{{by}}}}}" if by else counter.removeprefix("espalier_").removesuffix("_total")
    return Query(f"sum{grouped} (rate({counter}{{{where}}}[$__rate_interval]))", legend)


def board(uid: str, title: str, description: str, rows: Sequence[Row]) -> str:
    """A dashboard as JSON.

    Args:
        uid: of it, part of its address.
        title: as it is listed.
        description: what it answers.
        rows: from top to bottom.
    """
    made = (
        boards.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["espalier"])
        .timezone("browser")
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(boards.DatasourceVariable("source").label("Data source").type("prometheus"))
        .with_variable(_choice("job", "Job", "label_values(espalier_build_info, job)"))
        .with_variable(_choice("instance", "Replica", 'label_values(espalier_build_info{job=~"$job"}, instance)'))
    )
    numbers = itertools.count(1)
    for row in rows:
        made = made.with_row(boards.Row(row.title))
        width = _WIDTH // min(4, len(row.panels))
        for panel in row.panels:
            made = made.with_panel(panel.id(next(numbers)).height(_HEIGHT).span(width))
    content = json.loads(JSONEncoder().encode(made.build()))
    for variable in content["templating"]["list"]:
        # the builders write these of interval variables into every one; Grafana's own types refuse that
        for key in ("auto", "auto_count", "auto_min"):
            variable.pop(key, None)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


_COLORS = (
    heatmap.HeatmapColorOptions()
    .mode(heatmap_models.HeatmapColorMode.SCHEME)
    .scheme("Spectral")
    .steps(64)
    .exponent(0.5)
    .fill("dark-orange")
    .reverse(False)
)


def _choice(name: str, label: str, query: str) -> boards.QueryVariable:
    chosen = boards.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    return chosen.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True).all_value(".*")


def _target(query: Query) -> prometheus.Dataquery:
    chosen = re.sub(r"\{(?=[^}])", f"{{{CHOSEN},", query.expr).replace("{}", f"{{{CHOSEN}}}")
    return prometheus.Dataquery().expr(chosen).legend_format(query.legend).datasource(SOURCE)
