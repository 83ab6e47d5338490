"""What each method predicted for the test rows of a run, kept in RUN/predictions.parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import PredictionsError

PREDICTIONS_FILE = "predictions.parquet"
_LOGIT = "logit."


@dataclass(frozen=True)
class Predictions:
    """The test rows as every method scored them.

    Args:
        logits: method (backbone, single_lora, multi_lora, ...) -> float64 (n,), before the sigmoid.
        label: (n,) of 0 and 1.
        domain: int (n,) position in `domains`; -1 is no natural domain.
        domains: names of the natural division's domains.
        user: int (n,) whose row it is.
        probability: float64 (n,) true probability of a click, where the data is synthetic.

    Raises:
        PredictionsError: arrays of different lengths, no method, a logit that is not finite, or another label.
    """

    logits: Mapping[str, NDArray[np.float64]]
    label: NDArray[Any]
    domain: NDArray[Any]
    domains: tuple[str, ...]
    user: NDArray[Any]
    probability: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if not self.logits:
            raise PredictionsError("no method has predictions: give the logits of at least one")
        columns: dict[str, NDArray[Any]] = {"label": self.label, "domain": self.domain, "user": self.user}
        columns |= self.logits
        if self.probability is not None:
            columns["probability"] = self.probability
        for name, column in columns.items():
            if column.shape != (len(self.label),):
                raise PredictionsError(f"{name} has shape {column.shape}, the labels are {len(self.label)} rows")
        for name, logit in self.logits.items():
            if not np.isfinite(logit).all():
                raise PredictionsError(f"{name} has logits that are not finite: was its training stable?")
        if not np.isin(self.label, (0, 1)).all():
            raise PredictionsError("labels must be 0 or 1")
        if len(self.domain) and not -1 <= self.domain.min() <= self.domain.max() < len(self.domains):
            raise PredictionsError(f"a domain position lies outside the {len(self.domains)} domains")


def write_predictions(run: Path, predictions: Predictions) -> Path:
    """Write predictions into a run folder.

    Args:
        run: the run folder.
        predictions: of its test rows.

    Returns:
        The file, RUN/predictions.parquet: label, user, domain (a name), probability where known, logit.<method>.
    """
    named = np.array([*predictions.domains, None], dtype=object)[predictions.domain]  # -1 is the last: None
    domain = pl.Series(named.tolist(), dtype=pl.Enum(list(predictions.domains)))
    columns: dict[str, Any] = {"label": predictions.label.astype(np.int8), "user": predictions.user, "domain": domain}
    if predictions.probability is not None:
        columns["probability"] = predictions.probability
    columns |= {_LOGIT + method: logit.astype(np.float64) for method, logit in predictions.logits.items()}
    path = run / PREDICTIONS_FILE
    pl.DataFrame(columns).write_parquet(path)
    return path


def read_predictions(run: Path) -> Predictions:
    """Read the predictions of a run folder.

    Args:
        run: the run folder.

    Returns:
        What `write_predictions` wrote.

    Raises:
        PredictionsError: there are none, or the file is not such a table.
    """
    path = run / PREDICTIONS_FILE
    if not path.is_file():
        raise PredictionsError(f"{path} is not there: `espalier train all` or `espalier train fuse` writes it")
    try:
        table = pl.read_parquet(path)
        domain = table["domain"]
        if not isinstance(domain.dtype, pl.Enum):
            raise PredictionsError(f"{path} is no table of predictions: its column domain has no list of names")
        return Predictions(
            {name.removeprefix(_LOGIT): table[name].to_numpy() for name in table.columns if name.startswith(_LOGIT)},
            table["label"].to_numpy(),
            domain.to_physical().cast(pl.Int64).fill_null(-1).to_numpy(),
            tuple(domain.dtype.categories),
            table["user"].to_numpy(),
            table["probability"].to_numpy() if "probability" in table.columns else None,
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PredictionsError(f"{path} is no table of predictions: {error}") from error
