"""What the chooser leaves behind: a table, the data with the chosen divisions, and the configuration that reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from adapters_store.durable import write_durably
from training.chooser.candidates import OF, Of, table_of, with_columns
from training.chooser.findings import Ranking
from training.config import TrainingConfig
from training.errors import PreparedError
from training.prepared import PreparedDataset


def write_choice(
    ranking: Ranking, proposed: PreparedDataset, prepared: PreparedDataset, config: TrainingConfig, folder: Path
) -> None:
    """Write table.json, table.md, prepared/ and, last of all, config.yaml.

    Args:
        ranking: of all candidates.
        proposed: the data with the columns of all candidates.
        prepared: the data as it was.
        config: as it was.
        folder: where; made if it is not there.

    Raises:
        PreparedError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").unlink(missing_ok=True)
        record = json.dumps(ranking.record(), indent=1, allow_nan=False) + "\n"
        write_durably(folder / "table.json", record.encode())
        write_durably(folder / "table.md", ("\n".join(_page(ranking)) + "\n").encode())
        with_choice(ranking, proposed, prepared).write(folder / "prepared")
        write_durably(folder / "config.yaml", _configured(ranking, config, folder / "prepared").encode())
    except OSError as error:
        raise PreparedError(f"cannot write {folder}: {error.strerror}") from None


def with_choice(ranking: Ranking, proposed: PreparedDataset, prepared: PreparedDataset) -> PreparedDataset:
    """The data with the natural division and the chosen ones, and with the columns that these need alone."""
    found = prepared
    for of in OF:
        made = [candidate.column for candidate in ranking.chosen if candidate.of == of and candidate.column]
        found = _taking(found, proposed, of, made)
    natural = [division for division in prepared.spec.divisions if division.natural]
    divisions = (*natural, *(candidate.division for candidate in ranking.chosen))
    spec = prepared.spec.model_copy(update={"divisions": divisions})
    return PreparedDataset(spec, found.interactions, found.users, found.items)


def _taking(found: PreparedDataset, proposed: PreparedDataset, of: Of, made: list[str]) -> PreparedDataset:
    return with_columns(found, of, [table_of(proposed, of)[name] for name in made]) if made else found


def _configured(ranking: Ranking, config: TrainingConfig, data: Path) -> str:
    """The configuration as YAML, what equals the defaults left out."""
    content = config.model_dump(mode="json", exclude_defaults=True) | {"data": str(data)}
    head = [
        f"# {ranking.line()}; written by `espalier train divisions`.",
        "# The chosen divisions stand in spec.json of the data; table.md beside this file says why.",
    ]
    return "\n".join(head) + "\n" + yaml.safe_dump(content, sort_keys=False)


def _page(ranking: Ranking) -> Iterator[str]:
    table = ranking.table()
    yield from ("# Divisions", "", f"{ranking.line()}.", "")
    yield from (_line(table.header), _line(["---"] * len(table.header)), *(_line(row) for row in table.rows))
    yield from ("", "Gain: by the own domain's adapter over another's, less the same of a placebo; nats a row.")
    yield f"Intervals hold together with confidence {ranking.confidence:g}."
    if ranking.skipped:
        yield from ("", "## Not tried", "", *(f"- {name}: {reason}" for name, reason in ranking.skipped.items()))


def _line(cells: object) -> str:
    assert isinstance(cells, list | tuple)
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
