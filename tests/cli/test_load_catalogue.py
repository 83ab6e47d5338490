"""`espalier load-catalogue`: what a load test is told of a store."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from adapters_store.artifact import Adapter, decode_adapter
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.forge import Run
from cli.main import app
from tests.cli.serving import file_store

runner = CliRunner()


@pytest.fixture
async def store(tmp_path: Path, random_run: Run) -> str:
    """URL of a store with four live themes."""
    return await file_store(tmp_path / "store", random_run)


def call(store: str, out: Path, *options: str) -> Result:
    """Run the command."""
    return runner.invoke(app, ["load-catalogue", "--store", store, "--out", str(out), *options])


def catalogue(store: str, out: Path, *options: str) -> Any:
    """What it wrote."""
    done = call(store, out, *options)
    assert done.exit_code == 0, done.output
    return json.loads((out / "catalogue.json").read_text())


def live_of(store: str, domain: str) -> Adapter:
    """The live adapter of a domain's record."""

    async def read() -> Adapter:
        opened = AdapterStore(open_backend(store), time.time)
        try:
            record = await opened.domain(domain)
            assert record is not None
            assert record.live is not None
            return decode_adapter(await opened.get(record.live.revision))
        finally:
            await opened.close()

    return asyncio.run(read())


def test_catalogue_lists_natural_domains_and_ids_of_the_bundle(store: str, tmp_path: Path) -> None:
    """Law: natural domains with an adapter, ids of the bundle's tables; no auxiliary domain, and nothing is written."""
    found = catalogue(store, tmp_path / "out", "--users", "10", "--items", "1000")
    assert found["domains"] == ["theme-1", "theme-2", "theme-3", "theme-4"]
    assert found["cold"] == []
    assert len(found["users"]) == len(set(found["users"])) == 10
    assert len(found["items"]) == 120
    assert "item-1" in found["items"]


def test_dyes_are_the_live_adapter_with_another_intercept(store: str, tmp_path: Path) -> None:
    """Law: a dye has the live adapter's tensors, the calibration that is listed, and the revision of its bytes."""
    found = catalogue(store, tmp_path / "out", "--dyed", "2", "--dyes", "3")
    assert sorted(found["dyes"]) == ["theme-1", "theme-2"]
    live = live_of(store, "theme-1")
    *dyes, own = found["dyes"]["theme-1"]
    calibration = live.manifest.calibration
    known = {"slope": calibration.slope, "intercept": calibration.intercept}
    assert own == {"revision": live.revision, "file": None, **known}
    assert [dye["intercept"] for dye in dyes] == [-1.4, 0.0, 1.4]
    for dye in dyes:
        adapter = decode_adapter((tmp_path / "out" / dye["file"]).read_bytes())
        assert adapter.revision == dye["revision"]
        assert adapter.manifest.calibration.intercept == dye["intercept"]
        assert adapter.manifest.calibration.slope == dye["slope"] == live.manifest.calibration.slope
        assert all(np.array_equal(adapter.tensors[name], live.tensors[name]) for name in live.tensors)


def test_copies_are_live_and_made_once(store: str, tmp_path: Path) -> None:
    """Law: a copy scores as its source does, under its own domain id; a second call adds nothing and dyes no copy."""
    found = catalogue(store, tmp_path / "out", "--copies", "5")
    assert found["cold"] == [f"copy-{number:05d}" for number in range(5)]
    copy, source = live_of(store, "copy-00004"), live_of(store, "theme-1")
    assert copy.manifest.domain == "copy-00004"
    assert all(np.array_equal(copy.tensors[name], source.tensors[name]) for name in source.tensors)
    assert catalogue(store, tmp_path / "out", "--copies", "5") == found
    assert live_of(store, "copy-00004").revision == copy.revision


def test_each_copy_leaves_an_audit_line(store: str, tmp_path: Path) -> None:
    """Law: who made which copy live stands in the audit, once; a call that adds nothing leaves no line."""
    arguments = ["load-catalogue", "--store", store, "--out", str(tmp_path / "out"), "--copies", "2"]
    told = []
    for _ in range(2):
        done = runner.invoke(app, arguments, env={"ESPALIER_BY": "ada"})
        told.append([json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")])
    first, again = told
    named = [(line["action"], line["outcome"], line["by"], line["domain"], line["to"]) for line in first]
    assert named == [
        ("publish", "changed", "ada (espalier load-catalogue)", name, live_of(store, name).revision)
        for name in ("copy-00000", "copy-00001")
    ]
    assert again == []


def test_a_store_without_adapters_is_told(tmp_path: Path) -> None:
    """Law: where there is nothing to score the command says so and writes no catalogue."""

    async def empty() -> None:
        await AdapterStore(open_backend((tmp_path / "store").as_uri(), create=True), time.time).close()

    asyncio.run(empty())
    done = call((tmp_path / "store").as_uri(), tmp_path / "out")
    assert done.exit_code == 1
    assert "espalier publish" in done.output
    assert not (tmp_path / "out" / "catalogue.json").exists()
