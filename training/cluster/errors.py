"""Errors of training on a cluster.

TrainingError
└── ClusterError           training on Ray cannot go on
    ├── PartitionError     a domain's rows cannot be written or read
    ├── ClusterUnreachable no Ray cluster answers, or it has too little room
    ├── ActorLost          a process died; training goes back to the last checkpoint
    ├── ClusterLost        processes died again and again without one round completed in between
    ├── RoundFailed        a round broke by an error in our own code or settings, so that to repeat it would not help
    └── LedgerError        a phase of a domain would count twice
"""

from __future__ import annotations

from training.errors import TrainingError


class ClusterError(TrainingError):
    """Training on Ray cannot go on."""


class PartitionError(ClusterError):
    """A domain's rows cannot be written or read."""


class ClusterUnreachable(ClusterError):
    """No Ray cluster answers at the address, or it has too little room."""


class ActorLost(ClusterError):
    """A worker's or a shard's process died; what it did since the last checkpoint is lost."""


class ClusterLost(ClusterError):
    """Processes died again and again without one round completed in between."""


class RoundFailed(ClusterError):
    """A round broke by an error in code or settings; repeating it would not help."""


class LedgerError(ClusterError):
    """A (epoch, phase, domain) would be counted twice."""
