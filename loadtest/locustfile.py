"""What `locust -f loadtest/locustfile.py` runs: options, the load's shape, and the verdict as an exit code."""

from __future__ import annotations

import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, events
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment
from locust.runners import LocalRunner

from loadtest.answers import Judge
from loadtest.catalogue import read_catalogue
from loadtest.dispatcher import ClosedLoop, OpenLoop
from loadtest.errors import LoadTestError
from loadtest.ledger import Ledger
from loadtest.marks import Marks
from loadtest.options import add_options, bounds_of, plan_of
from loadtest.results import lines, results, write_results
from loadtest.standing import read_standing
from loadtest.traffic import Traffic
from loadtest.trial import Trial
from loadtest.users import CHANGE_S, CanaryUser, ColdUser, EspalierUser, PublishingUser, ScoringUser
from loadtest.warming import warm
from loadtest.watch import Watch

__all__ = ["CanaryUser", "ColdUser", "PublishingUser", "ScoringUser", "Shape"]

CANNOT_RUN = 2
FAILED = 1
START_S = 60.0
SPAWN_RATE = 100.0


class Shape(LoadTestShape):
    """How many users there are: all from the start in an open loop, as many as the stage says in a closed one."""

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many may be added a second; None when the test is over."""
        stage = EspalierUser.trial.stage()
        stuck = not EspalierUser.trial.began and time.perf_counter() - self.start_time > START_S
        if stage is None or self.runner is None or stuck:
            return None
        environment = self.runner.environment
        options: Any = environment.parsed_options
        others = sum(kind.fixed_count for kind in environment.user_classes)
        scoring = any(not kind.fixed_count for kind in environment.user_classes)
        wanted = options.connections if options.pacing == "open" else max(1, round(stage.load))
        return others + wanted * scoring, SPAWN_RATE


def prepare(environment: Environment, **_: Any) -> None:
    """Read the catalogue, ask the server what is live, and hand every user the same trial."""
    try:
        _prepare(environment)
    except LoadTestError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(CANNOT_RUN)


def _prepare(environment: Environment) -> None:
    options: Any = environment.parsed_options
    if not isinstance(environment.runner, LocalRunner):
        raise LoadTestError("one Locust process keeps the book of changes: run without --master, --worker, --processes")
    catalogue, plan, bounds = read_catalogue(options.catalogue), plan_of(options), bounds_of(options)
    rng = random.Random(options.seed)
    traffic = Traffic(catalogue, exponent=options.zipf, items=options.items, rng=rng)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **_authorization(options.token_file)}
    ledger = Ledger(options.propagation_s)
    client: Any = FastHttpSession(
        environment.host, environment.events.request, None, insecure=False, network_timeout=options.timeout_s
    )
    read_standing(client, headers, ledger)
    warm(client, headers, traffic.each(), gevent.sleep)
    trial = Trial(catalogue, plan, bounds, traffic, ledger, Judge(ledger, Marks(catalogue.dyes)))
    EspalierUser.trial, EspalierUser.headers = trial, headers
    EspalierUser.pacing = OpenLoop(trial, rng) if options.pacing == "open" else ClosedLoop(trial)
    EspalierUser.network_timeout = EspalierUser.connection_timeout = options.timeout_s
    EspalierUser.every_s = {kind: getattr(options, f"{kind}_every_s") for kind in ("publish", "flip", "cold")}
    # a change that is cut off may be made all the same, after the next test has read what is live
    environment.stop_timeout = max(options.timeout_s, CHANGE_S) + 1
    Run(environment, trial, Watch(options.server_pid), options).listen()


class Run:
    """Starts the clock when all users are there, and gives the verdict when they are gone.

    Args:
        environment: of Locust.
        trial: that runs.
        watch: of what it costs.
        options: of the command line.
    """

    def __init__(self, environment: Environment, trial: Trial, watch: Watch, options: Any) -> None:
        self._environment = environment
        self._trial = trial
        self._watch = watch
        self._options = options

    def listen(self) -> None:
        """Follow the test's events."""
        events: Any = self._environment.events
        events.spawning_complete.add_listener(self.start)
        events.quitting.add_listener(self.judge)

    def start(self, **_: Any) -> None:
        """Begin the plan; later calls are of a closed loop that adds users."""
        if not self._trial.began:
            self._trial.begin()
            gevent.spawn(EspalierUser.pacing.run)
            gevent.spawn(self._look)

    def judge(self, **_: Any) -> None:
        """Write the results, say them, and fail the process where an assertion does not hold."""
        self._environment.process_exit_code = CANNOT_RUN  # stands if anything below raises
        content = results(self._trial, self._watch, self._options.pacing)
        write_results(self._options.results, content)
        sys.stdout.write("\n".join(lines(content)) + "\n")
        self._environment.process_exit_code = 0 if content["passed"] else FAILED

    def _look(self) -> None:
        while True:
            gevent.sleep(1.0)
            self._watch.look(self._trial.offset())


def _authorization(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        return {"Authorization": f"Bearer {file.read_text(encoding='utf-8').strip()}"}
    except OSError as error:
        raise LoadTestError(f"the token file {file} cannot be read: {error.strerror}") from error


# Locust loads this file for its side effects: there is no other place to add options and listeners
hooks: Any = events
hooks.init_command_line_parser.add_listener(add_options)
hooks.init.add_listener(prepare)
