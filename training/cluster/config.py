"""How a training is spread over processes; what it learns is said elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from training.cluster.combining import Combine
from training.config import Positive, Rate, Section
from training.errors import ConfigError
from training.frameworks.config import MamdrConfig


class ClusterConfig(Section):
    """Shards, workers, and when they wait for each other.

    Args:
        workers: processes that own domains; domains are dealt out by their number of training rows.
        shards: processes that hold parameters.
        mode: `sync` takes the changes of all workers in at once after each round, in the order of their numbers;
            `async` takes each in when it comes, and holds back a worker that is too far ahead.
        staleness: (async) epochs by which a worker may be ahead of the slowest one.
        combine: (sync) how changes of several workers become one, see `training.cluster.combining`: `bounded` adds them
            up, but moves no parameter beyond the mean of the workers' ends; `sum` adds them up whatever comes of it;
            `mean` moves by beta times their mean.
        restarts: how often in a row dead processes are replaced without one round completed in between.
        object_store_bytes: memory of a Ray that is started here for objects that travel.
        start_timeout_s: how long the processes may take to come up.
    """

    workers: Positive = 2
    shards: Positive = 1
    mode: Literal["sync", "async"] = "sync"
    staleness: Annotated[int, Field(ge=0)] = 1
    combine: Combine = "bounded"
    restarts: Annotated[int, Field(ge=0)] = 3
    object_store_bytes: Annotated[int, Field(ge=80 * 2**20)] = 200 * 2**20
    start_timeout_s: Rate = 120.0

    @property
    def stale_commits(self) -> int:
        """Bound on the outer updates that a pseudo-gradient may miss.

        In async mode each other worker can commit the epochs from `staleness` behind to `staleness` ahead of a worker's
        own while that one is at it; in sync mode nobody commits during a round.
        """
        return 0 if self.mode == "sync" else (self.workers - 1) * (2 * self.staleness + 1)


def refuse_unspreadable(config: MamdrConfig) -> None:
    """Refuse what cannot be trained by workers that own domains.

    Raises:
        ConfigError: the message names the key, and what to write instead.
    """
    if config.framework not in ("dn", "mamdr"):
        raise ConfigError(
            f"framework {config.framework} cannot be trained on a cluster: set it to dn or mamdr, or leave --ray out"
        )
    if config.inner.reset != "loop":
        raise ConfigError("an inner optimizer that is never reset cannot be shared by workers: set inner.reset to loop")
    if config.embeddings == "copies":
        raise ConfigError(
            "a copy of all rows for each domain fits no worker: set embeddings to shared, deltas or frozen"
        )
    if config.regularization.start != "zeros":
        raise ConfigError("a worker does not hold the whole network's start: set regularization.start to zeros")
