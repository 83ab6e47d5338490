"""The plain backbone behind LitServe, batched as its documentation says: `... litserve_app N`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from benchmarks.bench.plain_service import MAX_BATCH, WAIT_MS, PlainService

litserve: Any = importlib.import_module("litserve")  # optional, and without types


class Scores(litserve.LitAPI):  # type: ignore[misc]
    """One process that scores batches of requests."""

    def setup(self, device: str) -> None:
        """Once, in the process that scores."""
        self._service = PlainService()

    # annotated, its type would become the route's, which cannot read it from here
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """A body."""
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Requests stay apart until they are rows."""
        return inputs

    def predict(self, inputs: list[dict[str, Any]]) -> list[list[float]]:
        """A batch."""
        return self._service.score(inputs)

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """One answer a request."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        """An answer."""
        return {"scores": output}


if __name__ == "__main__":
    api = Scores(max_batch_size=MAX_BATCH, batch_timeout=WAIT_MS / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=60, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
