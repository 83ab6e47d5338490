"""Is the service well: traffic, errors, latency, fallbacks, the store, and what is deployed."""

from __future__ import annotations

from helm.dashboards.panels import Query, Row, board, figure, lines, quantiles, rate

SCORE = 'route="/score"'
REQUESTS = f"sum(rate(espalier_requests_total{{{SCORE}}}[$__rate_interval]))"
ERRORS = f'(sum(rate(espalier_requests_total{{{SCORE},status=~"5.."}}[$__rate_interval])) or vector(0))'
FALLBACKS = "(sum(rate(espalier_fallbacks_total{}[$__rate_interval])) or vector(0))"


def overview() -> str:
    """The first board to open."""
    now = [
        figure("Requests", "Score requests answered a second.", "reqps", Query(REQUESTS, "requests")),
        figure(
            "Errors",
            "Share of score requests answered 5xx; the objective is 0.1% over 30 days.",
            "percentunit",
            Query(f"{ERRORS} / {REQUESTS}", "errors"),
        ),
        figure(
            "p99",
            "99th percentile of the time from a score request's arrival to its answer.",
            "s",
            quantiles("espalier_request_seconds", where=SCORE)[2],
        ),
        figure(
            "Fallbacks",
            "Share of answers that no live adapter scored.",
            "percentunit",
            Query(f"{FALLBACKS} / {REQUESTS}", "fallbacks"),
        ),
    ]
    traffic = [
        lines(
            "Requests by status", "Score requests a second.", "reqps", rate("espalier_requests_total", "status", SCORE)
        ),
        lines("Rows", "User and item pairs scored a second.", "rowsps", rate("espalier_rows_total")),
        lines(
            "Other routes", "Requests a second.", "reqps", rate("espalier_requests_total", "route", 'route!="/score"')
        ),
    ]
    latency = [
        lines("Latency", "Of score requests.", "s", *quantiles("espalier_request_seconds", where=SCORE)),
        lines(
            "Time by stage, p99",
            "99th percentile of each stage of a request.",
            "s",
            quantiles("espalier_stage_seconds", "stage")[2],
        ),
        lines(
            "Deadlines missed",
            "Requests a second whose deadline passed, by where that was noticed.",
            "reqps",
            Query(
                "sum by (where) (rate(espalier_deadline_misses_total{}[$__rate_interval])) or vector(0)", "{{where}}"
            ),
        ),
    ]
    quality = [
        lines(
            "Fallbacks by reason",
            "Answers a second that no live adapter scored.",
            "reqps",
            Query("sum by (reason) (rate(espalier_fallbacks_total{}[$__rate_interval])) or vector(0)", "{{reason}}"),
        ),
        lines(
            "Score distribution",
            "Quantiles of the probabilities answered; a step without a release is worth a look.",
            "percentunit",
            *quantiles("espalier_score"),
        ),
        lines(
            "Store reachable",
            "1 while a replica reaches its store; scoring goes on without it.",
            "short",
            Query("min by (instance) (espalier_store_reachable{})", "{{instance}}"),
        ),
        lines(
            "Replicas by build",
            "Replicas that answer scrapes, by version.",
            "short",
            Query("count by (version) (espalier_build_info{})", "{{version}}"),
        ),
    ]
    return board(
        "espalier-overview",
        "Espalier / Overview",
        "Whether users get scores, how fast, and by what.",
        [Row("Now", now), Row("Traffic", traffic), Row("Latency", latency), Row("Quality and health", quality)],
    )
