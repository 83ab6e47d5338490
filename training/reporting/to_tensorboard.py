"""RUN/tensorboard, for `tensorboard --logdir`. The one file that loads TensorBoard."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from training.reporting.errors import SinkFailed
from training.reporting.outcome import Outcome, Point

_EVENTS = "events.out.tfevents.*"


class TensorBoardSink:
    """Writes a folder of events; what an earlier sending of the run wrote there is replaced.

    Args:
        folder: where.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, outcome: Outcome) -> str:
        """Write the folder; see `Sink.send`."""
        draft = self._folder.with_name(f"{self._folder.name}.part")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            _write(draft, outcome)
            self._replace(draft)
        except OSError as error:
            raise SinkFailed(f"{self._folder} cannot be written ({error})") from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return str(self._folder)

    def _replace(self, draft: Path) -> None:
        self._folder.mkdir(exist_ok=True)
        before = list(self._folder.glob(_EVENTS))
        for path in draft.iterdir():
            path.replace(self._folder / path.name)
        for path in before:
            path.unlink(missing_ok=True)


def _write(folder: Path, outcome: Outcome) -> None:
    summary = import_module("tensorboard.compat.proto.summary_pb2").Summary
    event = import_module("tensorboard.compat.proto.event_pb2").Event
    text = import_module("tensorboard.plugins.text.summary_v2")
    now = time.time()
    writer = import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter(str(folder))
    try:
        settings = text.text_pb("settings", _table(outcome.settings))
        writer.add_event(event(wall_time=now, step=0, summary=settings))
        for point in _points(outcome):
            value: Any = summary.Value(tag="/".join(point.tag), simple_value=point.value)
            writer.add_event(event(wall_time=now, step=point.step, summary=summary(value=[value])))
    finally:
        writer.close()


def _points(outcome: Outcome) -> Iterable[Point]:
    return (*outcome.figures, *outcome.curves)


def _table(settings: Mapping[str, str]) -> str:
    """The settings as Markdown, which TensorBoard shows as a table."""
    rows = (f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in settings.items())
    return "\n".join(("| setting | value |", "|---|---|", *rows))
