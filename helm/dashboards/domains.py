"""Domains and their adapters: who gets the traffic, what is in memory, what was refused, canaries and shadows."""

from __future__ import annotations

from helm.dashboards.panels import Panel, Query, Row, board, heat, lines, quantiles, rate


def domains() -> str:
    """What happens to domains and adapters."""
    traffic = [
        lines(
            "Busiest domains",
            "Rows scored a second; domains beyond the busiest count as `other`.",
            "rowsps",
            Query("topk(15, sum by (domain) (rate(espalier_domain_rows_total{}[$__rate_interval])))", "{{domain}}"),
            stacked=True,
        ),
        lines(
            "Fallbacks of the busiest domains",
            "Answers a second that no live adapter scored.",
            "reqps",
            Query(
                "topk(15, sum by (domain) (rate(espalier_domain_fallbacks_total{}[$__rate_interval])))", "{{domain}}"
            ),
        ),
    ]
    memory = [
        lines(
            "Adapters in memory",
            "Prepared adapters of each replica.",
            "short",
            Query("sum by (instance) (espalier_resident_adapters{})", "{{instance}}"),
        ),
        lines(
            "Memory of adapters",
            "Bytes of prepared adapters, and the limit.",
            "bytes",
            Query("sum by (instance) (espalier_resident_adapter_bytes{})", "{{instance}}"),
            Query("max(espalier_resident_limit_bytes{})", "limit"),
        ),
        lines(
            "Evictions",
            "Adapters that left memory a second, and those within a minute of their load (churn).",
            "short",
            rate("espalier_evictions_total"),
            rate("espalier_churned_adapters_total"),
        ),
    ]
    changes = [
        lines(
            "Loads",
            "Attempts to load an adapter a second, by outcome.",
            "short",
            rate("espalier_adapter_loads_total", "outcome"),
        ),
        lines(
            "Refused adapters",
            "Adapters refused a second, by reason; which and why stands in the log.",
            "short",
            Query(
                "sum by (reason) (rate(espalier_adapter_rejects_total{}[$__rate_interval])) or vector(0)", "{{reason}}"
            ),
        ),
        lines("Time of a swap", "From reading a record to scoring by it.", "s", *quantiles("espalier_swap_seconds")),
        lines(
            "Propagation",
            "From writing a record to scoring by it here.",
            "s",
            *quantiles("espalier_propagation_seconds"),
        ),
    ]
    trials: list[Panel] = [
        lines("Canary rows", "Rows scored by canaries a second.", "rowsps", rate("espalier_canary_rows_total")),
        lines(
            "Scores of canaries and of live",
            "Median probability where a canary runs.",
            "percentunit",
            *(
                Query(
                    f"histogram_quantile(0.5, sum by (le) (rate(espalier_{role}_score_bucket{{}}[$__rate_interval])))",
                    role,
                )
                for role in ("canary", "live")
            ),
        ),
        heat(
            "Shadow differences",
            "Absolute difference between a shadow's probability and the one answered.",
            "percentunit",
            "espalier_shadow_difference",
        ),
        lines(
            "Shadow rank correlation",
            "Spearman's, over the items of a request.",
            "short",
            *quantiles("espalier_shadow_rank_correlation"),
        ),
    ]
    return board(
        "espalier-domains",
        "Espalier / Domains and adapters",
        "Which domains get traffic, what happens to their adapters, and how well they score.",
        [
            Row("Traffic", traffic),
            Row("Memory", memory),
            Row("Changes", changes),
            Row("Canary and shadow", trials),
            Row("How well the busiest domains are scored", _online()),
            Row("Feedback and age", _feedback()),
        ],
    )


def _online() -> list[Panel]:
    """The worst of the busiest domains, by what feedback and the scores themselves say."""
    return [
        lines(
            "Drift of the scores",
            "Population stability index against the first scores of the live revision; from 0.25 on the two differ.",
            "short",
            Query("topk(10, max by (domain) (espalier_score_psi{}))", "{{domain}}"),
        ),
        lines(
            "Online AUC",
            "Of the last labelled rows; the ten lowest domains.",
            "percentunit",
            Query("bottomk(10, min by (domain) (espalier_online_auc{}))", "{{domain}}"),
        ),
        lines(
            "Observed over predicted positives",
            "Of the last labelled rows; 1 is calibrated; the ten highest domains.",
            "short",
            Query("topk(10, max by (domain) (espalier_online_calibration_ratio{}))", "{{domain}}"),
        ),
    ]


def _feedback() -> list[Panel]:
    """What comes back, where it lies, and how old what scores is."""
    return [
        lines(
            "Feedback",
            "Events a second by what became of them.",
            "short",
            rate("espalier_feedback_events_total", "outcome"),
        ),
        lines(
            "Feedback on the local disk alone",
            "Bytes that no object store has, of the fullest replica, and past how many feedback is refused.",
            "bytes",
            Query("max(espalier_feedback_unshipped_bytes{})", "alone"),
            Query("max(espalier_feedback_limit_bytes{})", "limit"),
        ),
        lines(
            "Age of what scores",
            "By request: since the adapter that scored it was made.",
            "s",
            *quantiles("espalier_adapter_age_seconds"),
        ),
    ]
