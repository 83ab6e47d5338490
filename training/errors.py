"""Errors of training.

TrainingError
├── ConfigError        a training configuration that cannot be used: which key, and what to write instead
├── RunExists          the run folder already holds this stage
├── StageMissing       a stage needs the state of an earlier one, which is not there
├── StateMismatch      the state in the run folder was written by another configuration or other data
├── SourceError        a source file that is missing, cut or broken: which file and line, and what to do
├── PreparedError      a prepared data folder that does not hold what its spec.json says
├── PredictionsError   a run folder without usable predictions
├── FeedbackUnusable   feedback that no training row can be made of
└── CompressionRefused a delta that no LoRA stands in for within the bound on AUC
"""

from __future__ import annotations

from pathlib import Path


class TrainingError(Exception):
    """Any error that this package raises on purpose."""


class ConfigError(TrainingError):
    """The training configuration cannot be used; the message names each key."""


class RunExists(TrainingError):
    """The run folder already holds this stage, and nobody asked to resume it."""


class StageMissing(TrainingError):
    """A stage needs the state of an earlier one, which is not in the run folder."""


class StateMismatch(TrainingError):
    """The state in the run folder was written by another configuration or from other data."""


class SourceError(TrainingError):
    """A source file cannot be used.

    Args:
        file: the file at fault.
        line: its line, counted from 1; None where the whole file is meant.
        fault: what is wrong.
        remedy: what to do.
    """

    def __init__(self, file: Path, line: int | None, fault: str, remedy: str) -> None:
        place = f"{file}" if line is None else f"{file}, line {line}"
        super().__init__(f"{place}: {fault}; {remedy}")
        self.file = file
        self.line = line
        self._parts = (file, line, fault, remedy)

    def __reduce__(self) -> tuple[type[SourceError], tuple[Path, int | None, str, str]]:
        """An exception is rebuilt from its message alone otherwise, and would not come back from another process."""
        return type(self), self._parts


class PreparedError(TrainingError):
    """A prepared data folder does not hold what its spec.json says."""


class PredictionsError(TrainingError):
    """A run folder holds no predictions, or they cannot be evaluated."""


class FeedbackUnusable(TrainingError):
    """No training row can be made of the feedback; the message says why."""


class CompressionRefused(TrainingError):
    """No LoRA stands in for a delta within the bound on validation AUC; the message says what it costs and why."""
