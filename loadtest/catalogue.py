"""The file that `espalier load-catalogue` writes: domains, users, items, and adapters to publish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError

SCHEMA = 1
LISTS = ("domains", "cold", "users", "items")


@dataclass(frozen=True, slots=True)
class Dye:
    """A revision of a domain whose calibration is known: probability = sigmoid(slope * logit + intercept).

    All dyes of a domain have the same tensors, so the logit before calibration is the same for all of them.

    Args:
        domain: whose.
        revision: sha256 (hex) of the artifact.
        path: the artifact; None for a revision that is live but cannot be published from here.
        slope: factor on the logit.
        intercept: added to it.
    """

    domain: str
    revision: str
    path: Path | None
    slope: float
    intercept: float


@dataclass(frozen=True)
class Catalogue:
    """What a load test knows of a store.

    Args:
        domains: that are scored, most popular first.
        cold: further domains, asked for rarely.
        users: ids.
        items: ids.
        dyes: domain -> its dyes.
    """

    domains: tuple[str, ...]
    cold: tuple[str, ...]
    users: tuple[str, ...]
    items: tuple[str, ...]
    dyes: Mapping[str, tuple[Dye, ...]]


def read_catalogue(path: Path) -> Catalogue:
    """Read a catalogue.

    Raises:
        LoadTestError: it cannot be read, or is of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise LoadTestError(f"{path} has schema {content['schema']}; this load test reads {SCHEMA}")
        domains, cold, users, items = (tuple(map(str, content[name])) for name in LISTS)
        dyes = {d: tuple(_dye(d, entry, path.parent) for entry in found) for d, found in content["dyes"].items()}
        catalogue = Catalogue(domains, cold, users, items, dyes)
    except OSError as error:
        raise LoadTestError(f"{path} cannot be read: {error.strerror}; `espalier load-catalogue` writes it") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadTestError(f"{path} is no catalogue: {error!r}; `espalier load-catalogue` writes it") from error
    if not (catalogue.domains and catalogue.users and catalogue.items):
        raise LoadTestError(f"{path} lists no domains, no users or no items: there is nothing to score")
    return catalogue


def _dye(domain: str, entry: Mapping[str, Any], folder: Path) -> Dye:
    path = None if entry["file"] is None else folder / entry["file"]
    return Dye(domain, str(entry["revision"]), path, float(entry["slope"]), float(entry["intercept"]))
