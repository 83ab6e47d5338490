"""Where a finished run is told besides its own folder; nowhere by default."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class MlflowConfig(BaseModel):
    """An MLflow tracking server.

    Args:
        uri: of the server, such as `http://mlflow:5000`; without user and password, for the configuration is kept in
            reports.
        experiment: that the run becomes a part of; made if it is not there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: Annotated[str, Field(min_length=1)]
    experiment: Annotated[str, Field(min_length=1)] = "espalier"

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str) -> str:
        if "@" in urlsplit(uri).netloc:
            raise ValueError(
                "a URI here holds no user and no password: give them as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return uri


class SinksConfig(BaseModel):
    """Which sinks take a finished run.

    Args:
        tensorboard: write RUN/tensorboard.
        mlflow: send it to this server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensorboard: bool = False
    mlflow: MlflowConfig | None = None
