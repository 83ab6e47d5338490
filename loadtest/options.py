"""Options of a load test, beside Locust's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loadtest.plan import SHAPES, Plan, soak, spike, step
from loadtest.verdicts import Bounds


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser."""
    add = parser.add_argument_group("Espalier").add_argument
    add("--catalogue", type=Path, required=True, help="file that `espalier load-catalogue` wrote")
    add("--token-file", type=Path, help="file with a token that may score, read and publish")
    add("--results", type=Path, default=Path(".load/results.json"), help="where the figures go, as JSON")
    add("--server-pid", type=int, help="process of the server on this machine, to watch its memory and files")

    add("--shape", choices=SHAPES, default="step", help="of the load over time")
    add("--pacing", choices=("open", "closed"), default="open", help="requests due by a clock, or one after the other")
    add("--load", type=float, default=50.0, help="first load: requests/s, or users in a closed loop")
    add("--factor", type=float, default=1.4, help="of each step on the one before, or of the spike on the calm")
    add("--stages", type=int, default=14, help="steps at most")
    add("--stage-s", type=float, default=6.0, help="how long a step or a part of the spike lasts")
    add("--soak-s", type=float, default=60.0, help="how long a soak lasts")

    add("--items", type=int, default=100, help="items in one scoring request")
    add("--zipf", type=float, default=1.0, help="exponent of the domains' popularity")
    add("--connections", type=int, default=64, help="requests under way at once in an open loop, at most")
    add("--timeout-s", type=float, default=5.0, help="longest wait for one answer")
    add("--publish-every-s", type=float, default=1.0, help="time between two publishes")
    add("--flip-every-s", type=float, default=1.0, help="time between two steps of a canary")
    add("--cold-every-s", type=float, default=0.2, help="time between two requests for cold domains")
    add("--seed", type=int, default=0, help="of everything that is drawn")

    add("--p99-ms", type=float, default=50.0, help="bound of p99, from when requests were due; it defines the knee")
    add("--max-error-share", type=float, default=0.001, help="bound of the share of errors")
    add("--max-fallback-share", type=float, default=0.01, help="bound of the share of fallbacks")
    add("--min-knee", type=float, help="least load that the knee must have")
    add("--propagation-s", type=float, default=0.0, help="how long replicas may take to follow one another")


def plan_of(options: Any) -> Plan:
    """The plan that the options ask for.

    Raises:
        LoadTestError: they ask for none that can be run.
    """
    if options.shape == "step":
        return step(options.load, options.factor, options.stages, options.stage_s)
    if options.shape == "spike":
        return spike(options.load, options.factor, options.stage_s)
    return soak(options.load, options.soak_s)


def bounds_of(options: Any) -> Bounds:
    """The bounds that the options name."""
    return Bounds(options.p99_ms, options.max_error_share, options.max_fallback_share, options.min_knee)
