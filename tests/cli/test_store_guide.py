"""docs/store.md says what the program has: commands and their options, settings, metrics, URLs, files."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from adapters_store.object_urls import parse_object_url
from adapters_store.redis_urls import parse_redis_url
from cli.main import app
from service.logs import open_log
from service.metrics import Metrics
from service.settings import Settings

GUIDE = Path(__file__).parents[2] / "docs" / "store.md"
TEXT = GUIDE.read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
COMMANDS = [found[1] for line in LINES if (found := re.match(r"(?:[A-Z_]+=\S+ )?(espalier .*)", line))]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_guide_exists_with_its_options(line: str) -> None:
    """Law: what a reader types is known to the program, to the last option."""
    words = shlex.split(line, comments=True)[1:]
    command = get_command(app)
    while isinstance(command, TyperGroup):
        command = command.commands[words.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_command_on_a_store_stands_in_the_guide() -> None:
    """Law: a command that is added without a line in the guide fails here."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    for name in ("adapters", "release", "store", "features"):
        group = root.commands[name]
        assert isinstance(group, TyperGroup)
        missing = [each for each in group.commands if f"espalier {name} {each}" not in TEXT]
        assert not missing, name


def test_every_setting_and_metric_of_the_guide_exists() -> None:
    """Law: names in the tables are the program's own, and the defaults told are its defaults."""
    rows = re.findall(r"^\| (`.*?`.*?) \| (.*?) \|", TEXT[TEXT.index("## Settings") :], re.MULTILINE)
    settings = {name for row, _ in rows for name in re.findall(r"`([a-z_]+)`", row) if name in Settings.model_fields}
    assert {"workers", "cache_dir", "cache_bytes", "memory_bytes", "pinned", "store_timeout_s"} <= settings
    shown = Metrics(open_log(stream=io.StringIO())).exposition().decode()
    for metric in set(re.findall(r"`(espalier_[a-z_]+)", TEXT)):
        assert f"# HELP {metric} " in shown, metric
    assert Settings.model_fields["cache_bytes"].default == 10 << 30
    assert Settings.model_fields["memory_bytes"].default == 2 << 30


def test_the_urls_of_the_guide_are_understood() -> None:
    """Law: the options that the guide lists are those that a URL takes."""
    for option in ("prefix=x", "min_replicas=1", "wait_ms=5"):
        parse_redis_url(f"redis://host?{option}")
    parse_redis_url("redis+sentinel://host/service?sentinel_user=u&sentinel_password=p")
    for option in ("endpoint=http://127.0.0.1:1", "region=eu", "poll_s=10", "skip_signature=false"):
        parse_object_url(f"s3://bucket?{option}")


def test_the_links_of_the_guide_lead_somewhere() -> None:
    """Law: a file that the guide points to is there."""
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (GUIDE.parent / target).exists(), target
