"""What a supervisor hands to a new worker over stdin; no command line or environment of ours holds a password."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from service.settings import Settings


class Handover(BaseModel):
    """Read once by `service.worker`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    settings: Settings
    config: Path | None = None  # where the settings stood, to read what may change
