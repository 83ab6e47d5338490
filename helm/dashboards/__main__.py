"""Write the dashboards that the chart and compose.yaml provision: `python -m helm.dashboards`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from helm.dashboards.domains import domains
from helm.dashboards.engine import engine
from helm.dashboards.load import load
from helm.dashboards.overview import overview
from helm.dashboards.store import store

FOLDER = Path(__file__).parents[1] / "espalier" / "dashboards"
BOARDS: Mapping[str, Callable[[], str]] = {
    "overview": overview,
    "domains": domains,
    "store": store,
    "engine": engine,
    "load": load,
}


def main() -> None:
    """One file for each board."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, made in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
