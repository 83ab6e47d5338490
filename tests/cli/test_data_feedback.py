"""Laws of `espalier data from-feedback`: from a folder or an object store to a folder that training loads."""

from __future__ import annotations

import asyncio
import json
import re
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters_store.feedback_lines import parse_name
from adapters_store.feedback_objects import open_feedback_objects
from cli.data import app
from tests.servers.s3 import serve_s3
from tests.training.movielens_files import write_movielens
from training.prepared import PreparedDataset

NAME = "20251121T172000{:03d}Z-replica-1-00000001"


def line(user: object, item: object, label: int, domain: str, at: float = 0.0) -> str:
    fields = {"schema": 1, "at": at, "user_id": str(user), "item_id": str(item), "label": label, "domain_id": domain}
    return json.dumps(fields) + "\n"


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A small prepared folder of MovieLens' form."""
    source = write_movielens(tmp_path / "source")
    command = ["prepare", "movielens-1m", "--source", str(source), "--out", str(tmp_path / "data"), "--any-size"]
    assert CliRunner().invoke(app, command).exit_code == 0
    return tmp_path / "data"


def segments(folder: Path, prepared: Path) -> Path:
    """Three segments with four usable lines, one of them repeated; one line of an unknown user, one torn."""
    one, two, *_ = PreparedDataset.load(prepared).interactions.iter_rows(named=True)
    folder.mkdir()
    first = line(one["user_id"], one["item_id"], 1, one["domain_id"]) + line("no-one", "1", 1, one["domain_id"])
    (folder / f"{NAME.format(1)}.shipped.ndjson").write_text(first)
    (folder / f"{NAME.format(2)}.ndjson").write_text(line(two["user_id"], two["item_id"], 0, two["domain_id"], 2.0))
    again = line(one["user_id"], one["item_id"], 0, one["domain_id"], 3.0)
    (folder / f"{NAME.format(3)}.open.ndjson").write_text(again + '{"schema":1,"at')
    (folder / "notes.ndjson").write_text("nobody's\n")
    return folder


def run(source: object, prepared: Path, out: Path, *options: str) -> tuple[int, str]:
    command = ["from-feedback", str(source), "--prepared", str(prepared), "--out", str(out), *options]
    result = CliRunner().invoke(app, command)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def test_a_folder_of_segments_becomes_a_prepared_folder(tmp_path: Path, prepared: Path) -> None:
    """Law: every state of a segment is read; the rows load as prepared data; rejected lines are named on the screen."""
    code, said = run(segments(tmp_path / "f", prepared), prepared, tmp_path / "out")
    assert code == 0, said
    rows = PreparedDataset.load(tmp_path / "out").interactions
    assert sorted(rows["label"].to_list()) == [0, 0]
    assert "2 rows from 4 lines in 3 segments" in said
    assert "1 duplicates, 1 changed labels, 1 rejected lines, 0 completing lines, 1 torn ends" in said
    assert f"does not know its user_id, first {NAME.format(1)}.shipped.ndjson line 2" in said
    report = json.loads((tmp_path / "out/feedback.json").read_text())
    assert report["named"][0]["line"] == 2
    assert "no-one" not in json.dumps(report)


def test_append_keeps_the_prepared_rows(tmp_path: Path, prepared: Path) -> None:
    """Law: with --append the folder's own rows stand first."""
    before = PreparedDataset.load(prepared).interactions
    code, said = run(segments(tmp_path / "f", prepared), prepared, tmp_path / "out", "--append")
    assert code == 0, said
    rows = PreparedDataset.load(tmp_path / "out").interactions
    assert rows.head(len(before)).equals(before)
    assert len(rows) == len(before) + 2


def test_segments_in_an_object_store_are_read(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same segments give the same rows from where they were shipped to."""
    folder = segments(tmp_path / "f", prepared)
    assert run(folder, prepared, tmp_path / "local")[0] == 0
    with serve_s3() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)

        async def ship() -> None:
            objects = open_feedback_objects(server.url("some/store"), timeout_s=5)
            assert objects is not None
            for path in folder.iterdir():
                if (named := parse_name(path.name)) is not None:
                    await objects.put(named.key, path.read_bytes())
            await objects.close()

        code, said = run(server.url("some/store"), prepared, tmp_path / "empty")
        assert (code, "holds no segments" in said) == (1, True)
        asyncio.run(ship())
        code, said = run(server.url("some/store"), prepared, tmp_path / "shipped")
        assert code == 0, said
    rows = [PreparedDataset.load(tmp_path / name).interactions for name in ("local", "shipped")]
    assert rows[0].equals(rows[1])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "holds no segments"),
        ("redis://user:hidden@host", "feedback is read from a folder"),
        ("redis+s3://bucket/x?redis=redis%3A%2F%2Fhidden%40host&unknown=1", "unknown option 'unknown'"),
    ],
)
def test_a_source_without_segments_is_refused_in_words(tmp_path: Path, prepared: Path, source: str, said: str) -> None:
    """Law: one line on stderr that says what to do, status 1, no folder, and nothing of a URL's secrets."""
    code, output = run(source, prepared, tmp_path / "out")
    assert code == 1
    assert said in output
    assert "hidden" not in output
    assert not (tmp_path / "out").exists()


def test_out_may_not_be_the_prepared_folder(tmp_path: Path, prepared: Path) -> None:
    """Law: the folder that is read is never written."""
    code, output = run(segments(tmp_path / "f", prepared), prepared, prepared)
    assert code == 2
    assert "another folder" in output


def test_the_guide_s_way_to_delete_a_user_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the lines of docs/feedback.md take a user's lines out of closed segments, and nothing else."""
    guide = (Path(__file__).parents[2] / "docs/feedback.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    day = tmp_path / "feedback/2025-11-21"
    day.mkdir(parents=True)
    mine, other = line("42", "a", 1, "women"), line("43", "a", 1, "women")
    paths = [day / f"{NAME.format(1)}.shipped.ndjson", day / f"{NAME.format(2)}.ndjson"]
    opened = tmp_path / f"feedback/{NAME.format(3)}.open.ndjson"
    for path in (*paths, opened):
        path.write_text(mine + other + mine)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/feedback.md", "exec"), {})
    assert [path.read_text() for path in paths] == [other, other]
    assert stat.S_IMODE(paths[0].stat().st_mode) == 0o600
    assert opened.read_text() == mine + other + mine
    assert len(list(day.iterdir())) == 2
