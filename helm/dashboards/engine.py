"""The engine: batches, the queue in front of it, and the processes that hold it."""

from __future__ import annotations

from helm.dashboards.panels import Panel, Query, Row, board, heat, lines, quantiles


def engine() -> str:
    """Batches, queue, processes."""
    batches: list[Panel] = [
        heat("Rows of a batch", "How full batches are.", "short", "espalier_batch_rows"),
        heat("Segments of a batch", "Adapters side by side in one batch.", "short", "espalier_batch_segments"),
        lines(
            "Batches",
            "Batches a second.",
            "ops",
            Query("sum by (instance) (rate(espalier_batch_rows_count{}[$__rate_interval]))", "{{instance}}"),
        ),
    ]
    times = [
        lines(
            "Engine time",
            "Of a batch.",
            "s",
            *quantiles("espalier_stage_seconds", where='stage="engine"'),
        ),
        lines("Queue time", "Of a request.", "s", *quantiles("espalier_stage_seconds", where='stage="queue"')),
        lines(
            "Rows a second of engine time",
            "Rows scored by a second of the engine; the batch's share of overhead shows here.",
            "rowsps",
            Query(
                "sum(rate(espalier_batch_rows_sum{}[$__rate_interval])) / "
                'sum(rate(espalier_stage_seconds_sum{stage="engine"}[$__rate_interval]))',
                "rows/s",
            ),
        ),
    ]
    queue = [
        lines(
            "Queue",
            "Rows that wait for the engine, and how many may.",
            "short",
            Query("max by (instance) (espalier_queue_rows{})", "{{instance}}"),
            Query("max(espalier_queue_limit_rows{})", "limit"),
        ),
        lines(
            "Processor",
            "Cores used by each replica's serving processes.",
            "short",
            Query("sum by (instance) (rate(process_cpu_seconds_total{}[$__rate_interval]))", "{{instance}}"),
        ),
        lines(
            "Resident memory",
            "Of each replica's serving processes, shared pages counted in each.",
            "bytes",
            Query("sum by (instance) (process_resident_memory_bytes{})", "{{instance}}"),
        ),
        lines(
            "Open files",
            "File descriptors of each replica's serving processes.",
            "short",
            Query("sum by (instance) (process_open_fds{})", "{{instance}}"),
        ),
    ]
    return board(
        "espalier-engine",
        "Espalier / Engine",
        "How full the engine's batches are, and what they cost.",
        [Row("Batches", batches), Row("Time", times), Row("Queue and processes", queue)],
    )
