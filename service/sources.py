"""What every setting is, and where that was said: for people who wonder why a server does what it does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic_settings import EnvSettingsSource

from service.redaction import redacted
from service.settings import Settings, load_settings, read_file

Source = Literal["default", "file", "variable", "option"]


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting as a server would have it.

    Args:
        name: of it.
        value: as it may be shown; without the passwords that a URL may hold.
        source: the place that decided.
        means: what it is for.
    """

    name: str
    value: str
    source: Source
    means: str


def effective_settings(
    overrides: Mapping[str, object], config: Path | None = None, environ: Mapping[str, str] = os.environ
) -> list[Effective]:
    """Every setting with its source, in the order of their definition.

    Args:
        overrides: command line options; a None is one that was not given.
        config: YAML file of settings.
        environ: variables, searched for unknown names with our prefix.

    Raises:
        SettingsInvalid: as `load_settings`.
    """
    settings = load_settings(overrides, config, environ)
    options = {name for name, value in overrides.items() if value is not None}
    variables, file = set(EnvSettingsSource(Settings)()), set(read_file(config))

    def source(name: str) -> Source:
        if name in options:
            return "option"
        if name in variables:
            return "variable"
        return "file" if name in file else "default"

    return [
        Effective(name, shown(getattr(settings, name)), source(name), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def shown(value: object) -> str:
    """A value as a settings file would have it, without the secrets that a URL may hold."""
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(map(str, value)) or "-"
        case str() if "://" in value:
            return redacted(value)
        case _:
            return str(value)
