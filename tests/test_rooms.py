"""The table of docs/architecture.md: which room may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("adapters_store", "cli", "features", "loadtest", "network", "service", "training")
ALLOWED = {
    "features": set(),
    "network": set(),
    "loadtest": set(),
    "adapters_store": {"features"},
    "training": {"features", "network", "adapters_store"},
    "service": {"features", "adapters_store"},
    "cli": {"features", "network", "adapters_store", "training", "service"},
}
LIBRARIES_OF_OTHERS = {
    "features": {"torch", "fastapi", "polars", "onnxruntime"},
    "adapters_store": {"torch", "fastapi", "polars", "onnxruntime"},
    "network": {"fastapi", "polars", "onnxruntime"},
    "loadtest": {"torch", "fastapi", "polars", "onnxruntime", "safetensors", "asyncio"},
    "training": {"fastapi", "onnxruntime"},
    "service": {"torch", "polars", "pyarrow", "pandas"},
}


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_the_rooms_it_may(room: str) -> None:
    """Law: a room imports no room outside its row of the table, and never tests or benchmarks."""
    allowed = ALLOWED[room] | {room}
    for path in sources(room):
        strangers = (imports_of(path) & {*ROOMS, "tests", "benchmarks"}) - allowed
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


@pytest.mark.parametrize("room", sorted(LIBRARIES_OF_OTHERS))
def test_room_imports_no_library_that_belongs_elsewhere(room: str) -> None:
    """Law: torch stays in network and training, the web framework in service, parquet readers in training and cli."""
    for path in sources(room):
        strangers = imports_of(path) & LIBRARIES_OF_OTHERS[room]
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


def test_gevent_stays_where_locust_runs() -> None:
    """Law: only what Locust itself loads imports it, so that tests and plots may import all the rest beside asyncio."""
    found = {path.name for path in sources("loadtest") if imports_of(path) & {"locust", "gevent"}}
    assert found == {"dispatcher.py", "locustfile.py", "users.py"}


@pytest.mark.parametrize(
    ("library", "files"),
    [
        ("optuna", {"training/search/journal.py"}),
        ("ray", {"training/cluster/ray_engine.py"}),
        ("espalier_kernels", {"service/engines/native.py", "service/engines/chosen.py"}),
    ],
)
def test_an_optional_library_is_imported_where_it_is_wrapped(library: str, files: set[str]) -> None:
    """Law: what may be absent is imported in its own files alone."""
    found = {str(path.relative_to(ROOT)) for room in ROOMS for path in sources(room) if library in imports_of(path)}
    assert found <= files


def test_every_room_has_sources() -> None:
    """Law: the two tests above look at real files."""
    for room in ROOMS:
        assert len(sources(room)) > 1, room
