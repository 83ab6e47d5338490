"""SECURITY.md: what it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:tests|service|adapters_store|cli)/[\w/]+\.py)(?:::(\w+))?`", TEXT)))


def test_the_document_names_tests_and_code() -> None:
    """Law: the search below looks for something."""
    assert len([test for _, test in NAMED if test]) > 30


@pytest.mark.parametrize(("path", "test"), NAMED, ids=["::".join(filter(None, each)) for each in NAMED])
def test_what_the_document_names_is_there(path: str, test: str) -> None:
    """Law: a promise that names its test loses it only together with this one."""
    assert (ROOT / path).is_file()
    if test:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert test in defined
