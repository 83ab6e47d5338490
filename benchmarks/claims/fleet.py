"""Many domains for the price of few: artifacts that differ in their domain alone, put into a store in bulk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adapters_store.artifact import encode_adapter
from adapters_store.manifest import AdapterManifest
from adapters_store.store import AdapterStore
from benchmarks.forge import Run
from benchmarks.oracle_files import read_safetensors


@dataclass(frozen=True)
class Fleet:
    """Unfused adapters of ranks [8, 8]: one trained one, given to many domains.

    The golden rows stay right, for they speak of tensors and not of names; every artifact has bytes of its own.

    Args:
        run: the trained run.
        size: how many domains.
    """

    run: Run
    size: int

    @property
    def domains(self) -> list[str]:
        """Their names."""
        return [f"tenant-{number:05d}" for number in range(self.size)]

    def artifacts(self, build: int, domains: Sequence[str]) -> Iterator[bytes]:
        """The artifacts of one build of the fleet."""
        source = self.run.natural("single")[self.run.domains[0]].read_bytes()
        raw, content = read_safetensors(source)
        tensors = {name: np.array(value) for name, value in raw.items()}
        for domain in domains:
            manifest = {**content, "domain": domain, "created_at": f"2026-01-0{build}T00:00:00Z"}
            yield encode_adapter(AdapterManifest.model_validate(manifest), tensors)

    async def publish(self, store: AdapterStore, domains: Sequence[str], contents: Sequence[bytes]) -> float:
        """Put artifacts and make them live, in bulk; seconds it took.

        Raises:
            StoreError: one of them was refused.
        """
        began = time.perf_counter()
        revisions = await store.put_many(contents)
        division = self.run.natural_division
        intents = [
            store.activation(domain, division, revision, "claims")
            for domain, revision in zip(domains, revisions, strict=True)
        ]
        for outcome in await store.change_many(intents):
            if outcome.error is not None:
                raise outcome.error
        return time.perf_counter() - began
