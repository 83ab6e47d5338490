"""Feedback segments as training rows: read, join, keep the last label of each row, check against prepared data.

A row is one item shown in one response: (request_id, item_id). An event without request_id belongs to the last response
before it that showed the item to the user in that domain, if some event of the feedback names that response; else
(user, item, domain) is a row of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from adapters_store.feedback_lines import SCHEMA, FeedbackLine
from training.errors import FeedbackUnusable, PreparedError
from training.prepared import PreparedDataset, domain_facts

REPORT = "feedback.json"
MOST_NAMED = 10_000
_LINE: dict[str, pl.DataType] = {
    "segment": pl.String(),
    "line": pl.Int64(),
    "at": pl.Float64(),
    "request_id": pl.String(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "domain_id": pl.String(),
    "label": pl.Int8(),
    "completes": pl.Boolean(),
}
_WHOSE = ("user_id", "domain_id")
_TOLD = (*_WHOSE, "context")
_ROW = ("user_id", "item_id", "domain_id")


@dataclass(frozen=True)
class Rejected:
    """A line that gave no row.

    Args:
        segment: file name.
        line: in it, counted from 1.
        reason: what is wrong; names no id.
    """

    segment: str
    line: int
    reason: str


@dataclass
class Tally:
    """What became of the lines.

    Args:
        segments: that were read.
        lines: in them.
        completing: lines that only complete another one.
        torn: last lines without an end, of segments that are being written or that a crash cut; never acknowledged.
        rows: training rows.
        duplicates: events that repeat a row's label, or that a later one of the same row overrules.
        relabelled: rows whose events disagree; the last label stands.
        rejected: lines that gave no row, by reason.
        named: the first of them.
    """

    segments: int = 0
    lines: int = 0
    completing: int = 0
    torn: int = 0
    rows: int = 0
    duplicates: int = 0
    relabelled: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    named: list[Rejected] = field(default_factory=list)

    def reject(self, segment: str, line: int, reason: str) -> None:
        """Count a line that gives no row, and name it while there is room."""
        self.rejected[reason] += 1
        if len(self.named) < MOST_NAMED:
            self.named.append(Rejected(segment, line, reason))


class FeedbackReader:
    """Reads segments one after the other.

    Args:
        context: names of the context fields that training rows need.
    """

    def __init__(self, context: Iterable[str]) -> None:
        self.tally = Tally()
        self._context = tuple(context)
        self._decoder = msgspec.json.Decoder(FeedbackLine)
        self._parts: list[pl.DataFrame] = []

    def add(self, segment: str, content: bytes) -> None:
        """Read one segment; a line that cannot be read is named in the tally."""
        self.tally.segments += 1
        lines = content.split(b"\n")
        if lines.pop():
            self.tally.torn += 1
        self.tally.lines += len(lines)
        read = [(number, line) for number, raw in enumerate(lines, 1) if (line := self._line(segment, number, raw))]
        columns: dict[str, list[Any]] = {
            "segment": [segment] * len(read),
            "line": [number for number, _ in read],
            **{name: [getattr(line, name) for _, line in read] for name in list(_LINE)[2:]},
        }
        context = [_context_text(line.context, self._context) for _, line in read]
        self._parts.append(pl.DataFrame({**columns, "context": context}, schema={**_LINE, "context": pl.String()}))

    def events(self) -> pl.DataFrame:
        """All lines in the order of their time; `context` is JSON of the context fields, or null."""
        schema = {**_LINE, "context": pl.String()}
        events = pl.concat(self._parts) if self._parts else pl.DataFrame(schema=schema)
        return events.sort("at", maintain_order=True)

    def _line(self, segment: str, number: int, raw: bytes) -> FeedbackLine | None:
        try:
            line = self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            # the library's text names the place in the line and quotes nothing of it
            self.tally.reject(segment, number, f"it is no line of feedback: {error}")
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.tally.reject(segment, number, "it is no JSON")
            return None
        if line.schema != SCHEMA:
            self.tally.reject(segment, number, f"schema {line.schema} is not of this build, which reads {SCHEMA}")
            return None
        return line


def feedback_rows(reader: FeedbackReader, base: PreparedDataset, *, append: bool = False) -> PreparedDataset:
    """Training rows of what a reader has read, over the users, items, fields and divisions of prepared data.

    Args:
        reader: has read all segments; its tally is completed.
        base: knows every user, item and domain that a row may have.
        append: put the rows behind those of `base`; else they stand alone.

    Returns:
        Prepared data that `espalier train` takes.

    Raises:
        FeedbackUnusable: no line gives a row.
    """
    tally = reader.tally
    joined = _joined(reader.events(), tally)
    rows = _known(_last_labels(joined, tally), base, tally)
    tally.rows = len(rows)
    if not len(rows):
        raise FeedbackUnusable(f"no training row can be made of {tally.lines:,} lines: {_reasons(tally)}")
    interactions = _as_interactions(rows, base)
    if append:
        interactions = pl.concat([base.interactions.select(interactions.columns), interactions])
    facts = {
        "rows": len(interactions),
        "users": interactions["user_id"].n_unique(),
        "items": interactions["item_id"].n_unique(),
        "positive": interactions["label"].mean(),
        "domains": domain_facts(interactions),
        "feedback_rows": len(rows),
    }
    spec = base.spec.model_copy(update={"facts": facts})
    return PreparedDataset(spec, interactions, base.users, base.items)


def write_report(tally: Tally, folder: Path) -> None:
    """Write the tally beside the rows; it names lines, and no user.

    Raises:
        PreparedError: the folder cannot be written.
    """
    try:
        (folder / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(tally), indent=2) + b"\n")
    except OSError as error:
        raise PreparedError(f"cannot write {folder / REPORT}: {error.strerror}") from None


def context_fields(base: PreparedDataset) -> list[str]:
    """Names of the context fields of prepared data."""
    return [spec.name for spec in base.spec.fields if spec.of == "context"]


def _context_text(context: Mapping[str, Any] | None, fields: tuple[str, ...]) -> str | None:
    known = {name: context[name] for name in fields if name in context} if context else {}
    return msgspec.json.encode(known).decode() if known else None


def _joined(events: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """Events with user and domain: their own, else those that other events of the same request tell."""
    told = events.filter(pl.all_horizontal(pl.col("request_id", *_WHOSE).is_not_null()))
    # a request_id that a client used for two users tells nothing
    requests = (
        told.group_by("request_id", maintain_order=True)
        .agg(
            pl.col(*_WHOSE).first(),
            pl.col("context").drop_nulls().first(),
            pl.struct(_WHOSE).n_unique().alias("whose"),
        )
        .filter(pl.col("whose") == 1)
        .select("request_id", *_TOLD)
    )
    tally.completing = int(events["completes"].sum())
    joined = events.filter(~pl.col("completes")).join(
        requests, on="request_id", how="left", suffix="!", maintain_order="left"
    )
    joined = joined.with_columns(pl.coalesce(name, f"{name}!") for name in _TOLD).drop(f"{name}!" for name in _TOLD)
    lost = pl.any_horizontal(pl.col(*_WHOSE).is_null())
    _reject(joined.filter(lost), "its response is not known: send user_id and domain_id with it", tally)
    return joined.filter(~lost)


def _last_labels(events: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """One line for each row, with its last label and the context of its response."""
    shown = (
        events.filter(pl.col("request_id").is_not_null())
        .group_by("request_id", *_ROW, maintain_order=True)
        .agg(pl.col("at").first())
        .sort("at", maintain_order=True)
        .rename({"request_id": "response"})
    )
    events = events.with_row_index("order")
    alone = events.filter(pl.col("request_id").is_null()).join_asof(shown, on="at", by=_ROW, check_sortedness=False)
    named = events.filter(pl.col("request_id").is_not_null()).with_columns(response=pl.col("request_id"))
    rows = (
        pl.concat([named, alone])
        .sort("order")
        .group_by("response", *_ROW, maintain_order=True)
        .agg(
            pl.col("segment", "line", "label").last(),
            pl.col("context").drop_nulls().first(),
            pl.col("label").n_unique().alias("labels"),
        )
    )
    tally.duplicates = len(events) - len(rows)
    tally.relabelled = int((rows["labels"] > 1).sum())
    return rows


def _known(rows: pl.DataFrame, base: PreparedDataset, tally: Tally) -> pl.DataFrame:
    """The rows whose user, item and domain the prepared data knows, with ids of its types."""
    for name, known in (
        ("user_id", base.users["user_id"]),
        ("item_id", base.items["item_id"]),
        ("domain_id", pl.Series(base.spec.natural.domains, dtype=pl.String)),
    ):
        typed = pl.col(name).cast(known.dtype, strict=False)
        # only its decimal string is an integer's other form: "07" is another id than 7
        same = (typed.cast(pl.String) == pl.col(name)) & typed.is_in(known.implode())
        _reject(rows.filter(~same.fill_null(False)), f"the prepared data does not know its {name}", tally)
        rows = rows.filter(same.fill_null(False)).with_columns(typed)
    return rows


def _as_interactions(rows: pl.DataFrame, base: PreparedDataset) -> pl.DataFrame:
    """Rows with the columns and types of the prepared data's own; context that is not known is empty."""
    types = base.interactions.schema
    columns = [pl.col(name).cast(types[name]) for name in (*_ROW, "label")]
    frame = rows.select(columns)
    contexts = [json.loads(text) if text else {} for text in rows["context"].to_list()]
    for spec in base.spec.fields:
        if spec.of == "context":
            values = [_value(context.get(spec.name), types[spec.column]) for context in contexts]
            frame = frame.with_columns(pl.Series(spec.column, values, types[spec.column]))
    return frame


def _value(value: Any, wanted: pl.DataType | pl.datatypes.DataTypeClass) -> Any:
    """A context value in a column's type; None where it has no such form."""
    if value is None:
        return None
    if isinstance(wanted, pl.List):
        return [_value(one, wanted.inner) for one in value] if isinstance(value, list) else None
    try:
        if wanted.is_integer():
            return int(value)
        return float(value) if wanted.is_numeric() else str(value)
    except (TypeError, ValueError):
        return None


def _reject(lines: pl.DataFrame, reason: str, tally: Tally) -> None:
    for segment, line in lines.select("segment", "line").iter_rows():
        tally.reject(segment, line, reason)


def _reasons(tally: Tally) -> str:
    most = tally.rejected.most_common(3)
    return "; ".join(f"{reason} ({count:,} lines)" for reason, count in most) or "there is none"
