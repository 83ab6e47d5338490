"""Results of trials on disk: one JSON file each, written whole or not at all, found again by what decided them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters_store.canonical import canonical_json, digest
from adapters_store.durable import write_durably
from training.trials.errors import KeptBroken

Found = dict[str, Any]
ANY_COMMIT = "any"
"""The commit of results that are taken whatever code they came from."""
_KEY_DIGITS = 16
_NOT_A_NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class TrialKey:
    """What decides a result.

    Args:
        method: that was trained.
        seed: that it was trained with.
        config: digest of every other setting, and of the data.
        commit: of the code, as `training.trials.code.code_commit` gives it, or `ANY_COMMIT`.
    """

    method: str
    seed: int
    config: str
    commit: str

    @property
    def name(self) -> str:
        """A file's name, without its ending: readable, and another one for any other key."""
        return f"{self.stem}{digest(canonical_json(asdict(self)))[:_KEY_DIGITS]}"

    @property
    def stem(self) -> str:
        """What the names of this method's results with this seed begin with."""
        return f"{_NOT_A_NAME.sub('_', self.method)[:60]}-{self.seed}-"


class KeptResults:
    """Results of trials in one folder.

    Args:
        folder: made when the first result is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: TrialKey) -> Found | None:
        """Return the result of a trial, None where none is kept.

        Raises:
            KeptBroken: its file cannot be read, or holds the result of something else.
        """
        path = self._path(key)
        if not path.exists():
            return None
        found_key, found = _read(path)
        if found_key != asdict(key):
            raise KeptBroken(f"{path} is the result of {found_key}: move it away, and the trial is run again")
        return found

    def of_other_commits(self, key: TrialKey) -> dict[str, Found]:
        """Return the results that differ from a trial in nothing but the commit; by commit, the newest file last.

        Raises:
            KeptBroken: a file cannot be read.
        """
        return {found_key["commit"]: found for found_key, found in self._others(key)}

    def put(self, key: TrialKey, found: Mapping[str, Any]) -> None:
        """Keep a result; it is there, whole, once this returns.

        Raises:
            ValueError: it holds what JSON does not have, such as NaN.
            OSError: the file system refuses.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"key": asdict(key), "found": found}, indent=1, allow_nan=False) + "\n"
        write_durably(self._path(key), content.encode())

    def _others(self, key: TrialKey) -> Iterator[tuple[dict[str, Any], Found]]:
        for path in sorted(self._folder.glob(f"{key.stem}*.json"), key=lambda path: path.stat().st_mtime_ns):
            found_key, found = _read(path)
            if {**found_key, "commit": key.commit} == asdict(key) and found_key["commit"] != key.commit:
                yield found_key, found

    def _path(self, key: TrialKey) -> Path:
        return self._folder / f"{key.name}.json"


def _read(path: Path) -> tuple[dict[str, Any], Found]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["key"]), dict(content["found"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeptBroken(f"{path} is no kept result ({error}): move it away, and the trial is run again") from None
