"""Where the knee is, and whether a test passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.plan import Plan
from loadtest.samples import Row


@dataclass(frozen=True, slots=True)
class Bounds:
    """What must hold.

    Args:
        p99_ms: of scoring requests, from when they were due.
        error_share: of scoring requests, and of changes.
        fallback_share: of scoring requests for popular domains.
        knee: least load that the knee must have; None asks for any.
    """

    p99_ms: float = 50.0
    error_share: float = 0.001
    fallback_share: float = 0.01
    knee: float | None = None

    def hold(self, row: Row) -> bool:
        """Whether a stage is within them."""
        return (
            row.requests > 0
            and row.p99_ms <= self.p99_ms
            and row.error_share <= self.error_share
            and row.fallback_share <= self.fallback_share
            and row.wrong == 0
        )


@dataclass(frozen=True, slots=True)
class Knee:
    """The highest load that still held.

    Args:
        load: as the stage asked for it: requests a second, or users in a closed loop.
        answered_per_s: scores answered a second there.
        p99_ms: there.
        reached: whether a higher load did not hold; if False, the true knee lies above.
    """

    load: float
    answered_per_s: float
    p99_ms: float
    reached: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One assertion of a test: what, the figure, the bound, and whether it holds."""

    name: str
    figure: float
    bound: str
    holds: bool


def knee(rows: Sequence[Row], bounds: Bounds) -> Knee | None:
    """The highest load at which every bound held; None if none did.

    Args:
        rows: of stages, by rising load.
        bounds: p99 above all: it leaves its bound where answers stop following the load.
    """
    held = [number for number, row in enumerate(rows) if bounds.hold(row)]
    if not held:
        return None
    row = rows[held[-1]]
    return Knee(row.load, row.answered_per_s, row.p99_ms, reached=held[-1] < len(rows) - 1)


def past_knee(rows: Sequence[Row], bounds: Bounds) -> bool:
    """Whether two loads in a row did not hold, so that higher ones tell nothing new."""
    return len(rows) >= 2 and not any(bounds.hold(row) for row in rows[-2:])


def judge(plan: Plan, rows: Sequence[Row], cold: Row, changes: Row, wrong: int, bounds: Bounds) -> list[Finding]:
    """The assertions of a test.

    Args:
        plan: that was run.
        rows: of its stages that ran to their end.
        cold: requests for cold domains, over the whole test.
        changes: publishes and canary flips, over the whole test.
        wrong: answers by a wrong revision, of any kind, at any time.
        bounds: to hold.
    """
    found = [Finding("answers scored by a wrong revision", wrong, "= 0", wrong == 0)]
    if plan.shape == "step":
        found += _of_knee(rows, bounds)
    else:
        judged = [row for row, stage in zip(rows, plan.stages, strict=False) if stage.judged]
        found += [finding for row in judged for finding in _of_stage(row, bounds)]
        missing = len(plan.stages) - len(rows)
        found.append(Finding("stages that did not run to their end", missing, "= 0", missing == 0))
    # in steps, the overload past the knee reaches changes and cold domains too
    if plan.shape == "soak":
        found += [_share(f"{row.name}: share of errors", row, bounds) for row in (cold, changes) if row.requests]
    return found


def _of_knee(rows: Sequence[Row], bounds: Bounds) -> list[Finding]:
    found = knee(rows, bounds)
    load = 0.0 if found is None else found.load
    wanted = bounds.knee
    holds = found is not None and (wanted is None or load >= wanted)
    return [Finding("knee, load", load, "> 0" if wanted is None else f">= {wanted:g}", holds)]


def _of_stage(row: Row, bounds: Bounds) -> list[Finding]:
    p99 = Finding(f"{row.name}: p99, ms", row.p99_ms, f"<= {bounds.p99_ms:g}", row.p99_ms <= bounds.p99_ms)
    limit, share = bounds.fallback_share, row.fallback_share
    return [
        p99,
        _share(f"{row.name}: share of errors", row, bounds),
        Finding(f"{row.name}: share of fallbacks", share, f"<= {limit:g}", share <= limit),
    ]


def _share(name: str, row: Row, bounds: Bounds) -> Finding:
    return Finding(name, row.error_share, f"<= {bounds.error_share:g}", row.error_share <= bounds.error_share)
