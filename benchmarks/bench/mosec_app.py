"""The plain backbone behind mosec, batched as its documentation says: `... mosec_app --port N`."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from benchmarks.bench.plain_service import MAX_BATCH, WAIT_MS, PlainService

mosec: Any = importlib.import_module("mosec")  # optional, and without types


class Scores(mosec.Worker):  # type: ignore[misc]
    """One process that scores batches of requests."""

    def __init__(self) -> None:
        super().__init__()
        self._service = PlainService()

    def deserialize(self, data: bytes) -> Any:
        """A body; msgspec reads it faster than mosec's own json."""
        return msgspec.json.decode(data)

    def serialize(self, data: Any) -> bytes:
        """An answer."""
        return msgspec.json.encode(data)

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A batch."""
        return [{"scores": scores} for scores in self._service.score(data)]


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Scores, num=1, max_batch_size=MAX_BATCH, max_wait_time=WAIT_MS)
    server.run()
