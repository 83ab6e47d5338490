"""docs/api.md says what the service says of itself."""

from __future__ import annotations

import re
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.forge import Run
from tests.docs_api import PAGE, described, reference

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def description(random_run: Run) -> dict[str, Any]:
    """OpenAPI, as a service answers it."""
    return await described(random_run)


async def test_the_committed_reference_is_what_is_generated(description: dict[str, Any]) -> None:
    """Law: after a change of the routes `python -m tests.docs_api` was run."""
    assert PAGE.read_text() == reference(description)


async def test_a_changed_route_changes_the_reference(description: dict[str, Any]) -> None:
    """Law: the test above can fail: a parameter more, or a route less, shows."""
    paths = description["paths"]
    less = {**description, "paths": {path: item for path, item in paths.items() if path != "/feedback"}}
    assert reference(less) != reference(description)


async def test_every_link_of_the_reference_leads_to_a_heading(description: dict[str, Any]) -> None:
    """Law: what a table links is on the page."""
    page = reference(description)
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
