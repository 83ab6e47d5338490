"""The store as the replicas see it: reachable, fast, followed."""

from __future__ import annotations

from helm.dashboards.panels import Query, Row, board, lines, quantiles, rate


def store() -> str:
    """Store calls, the feed, releases and tables."""
    calls = [
        lines(
            "Calls",
            "Calls to the store a second, by operation.",
            "ops",
            Query("sum by (operation) (rate(espalier_store_call_seconds_count{}[$__rate_interval]))", "{{operation}}"),
        ),
        lines(
            "Time of a call, p99",
            "99th percentile by backend and operation.",
            "s",
            Query(
                "histogram_quantile(0.99, sum by (le, backend, operation) "
                "(rate(espalier_store_call_seconds_bucket{}[$__rate_interval])))",
                "{{backend}} {{operation}}",
            ),
        ),
        lines(
            "Errors",
            "Calls to the store that failed, a second.",
            "ops",
            Query(
                "sum by (backend, operation) (rate(espalier_store_errors_total{}[$__rate_interval])) or vector(0)",
                "{{backend}} {{operation}}",
            ),
        ),
    ]
    feed = [
        lines("Feed lag", "From writing a change to being told of it.", "s", *quantiles("espalier_feed_lag_seconds")),
        lines(
            "Feed age",
            "Since the feed last answered; some seconds are usual, for it is asked patiently.",
            "s",
            Query("max by (instance) (espalier_feed_age_seconds{})", "{{instance}}"),
        ),
        lines(
            "Full comparisons",
            "Comparisons with every record and re-syncs of the feed, a second.",
            "ops",
            rate("espalier_reconciles_total"),
            rate("espalier_feed_resyncs_total"),
        ),
        lines(
            "Records found moved",
            "Records that a comparison found changed, a second; steady growth means that the feed misses some.",
            "ops",
            rate("espalier_reconciled_records_total"),
        ),
    ]
    fleet = [
        lines(
            "Staged release",
            "Adapters of the staged release that are prepared, and all of them.",
            "short",
            Query("sum by (instance) (espalier_staged_prepared_adapters{})", "{{instance}} prepared"),
            Query("max(espalier_staged_adapters{})", "all"),
        ),
        lines("Table swaps", "Feature tables swapped a second.", "ops", rate("espalier_table_swaps_total", "side")),
        lines(
            "Table rows",
            "Rows of the feature tables.",
            "short",
            Query("max by (side) (espalier_table_rows{})", "{{side}}"),
        ),
        lines(
            "Only the backbone",
            "1 while the switch keeps every adapter out.",
            "short",
            Query("max(espalier_adapters_only_backbone{})", "switch"),
        ),
    ]
    return board(
        "espalier-store",
        "Espalier / Store",
        "How the store answers, and how closely it is followed.",
        [Row("Calls", calls), Row("Change feed", feed), Row("Releases and tables", fleet)],
    )
