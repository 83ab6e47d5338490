"""A load test: what it asks for beside what the service answers."""

from __future__ import annotations

from helm.dashboards.overview import ERRORS, REQUESTS, SCORE
from helm.dashboards.panels import Query, Row, board, lines, quantiles, rate


def load() -> str:
    """To be watched while `make load` or Locust runs."""
    answers = [
        lines("Load", "Score requests a second.", "reqps", Query(REQUESTS, "requests"), rate("espalier_rows_total")),
        lines(
            "Latency",
            "Of score requests, as the service sees it.",
            "s",
            *quantiles("espalier_request_seconds", where=SCORE),
        ),
        lines(
            "Errors", "Share of score requests answered 5xx.", "percentunit", Query(f"{ERRORS} / {REQUESTS}", "errors")
        ),
    ]
    limits = [
        lines(
            "Refused",
            "Requests a second refused because of a limit: 429 queue or rate, 413 size, 504 deadline.",
            "reqps",
            Query(
                'sum by (status) (rate(espalier_requests_total{status=~"413|429|504"}[$__rate_interval])) or vector(0)',
                "{{status}}",
            ),
        ),
        lines(
            "Beyond a token's limits",
            "Requests a second that were refused because their token asks too often, or for too many rows.",
            "reqps",
            Query("sum by (token) (rate(espalier_rate_limited_total{}[$__rate_interval])) or vector(0)", "{{token}}"),
        ),
        lines(
            "Queue",
            "Share of the queue that is taken.",
            "percentunit",
            Query("max(espalier_queue_rows{} / espalier_queue_limit_rows{})", "queue"),
        ),
        lines(
            "Processor",
            "Cores used; the knee is near where this stops growing with the load.",
            "short",
            Query("sum(rate(process_cpu_seconds_total{}[$__rate_interval]))", "cores"),
        ),
        lines(
            "Swaps",
            "Adapters activated a second while the load runs.",
            "ops",
            rate("espalier_adapter_loads_total", "outcome"),
        ),
    ]
    return board(
        "espalier-load",
        "Espalier / Load test",
        "Load, latency and limits beside each other.",
        [Row("Answers", answers), Row("Limits", limits)],
    )
