"""From the positives of every domain to one prepared data set, in as many processes as one likes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Protocol

import polars as pl

from features.fields import Division
from training.builders.rules import Positives, build_domain, ratios
from training.errors import TrainingError
from training.prepared import PARTS, SPLIT, DatasetSpec, FieldSpec, PreparedDataset, dataset_facts
from training.progress import Meter

FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item_id", kind="sparse", of="item", column="item_id", id=True),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
)


class DomainSource(Protocol):
    """Where the positives of one domain come from; it can be sent to another process."""

    @property
    def domain(self) -> str:
        """Id of the domain."""
        ...

    def positives(self) -> Positives:
        """Read them.

        Raises:
            SourceError: a file is missing or broken.
        """
        ...


@dataclass(frozen=True)
class Held:
    """Positives that were read already."""

    held: Positives

    @property
    def domain(self) -> str:
        """Id of the domain."""
        return self.held.domain

    def positives(self) -> Positives:
        """Return them."""
        return self.held


@dataclass(frozen=True)
class BuildOptions:
    """How a set is built; none of it changes the numbers of rows.

    Args:
        seed: decides which negatives are drawn and which row is in which part.
        processes: how many work at a time; it changes nothing in the result.
        any_size: accept files of other sizes than the public ones.
        vectors: users and items bring the vectors of the source's embedding files, in the place of trained tables.
    """

    seed: int = 0
    processes: int = 1
    any_size: bool = False
    vectors: bool = False


def assemble(
    name: str, division: str, sources: Sequence[DomainSource], options: BuildOptions, meter: Meter
) -> PreparedDataset:
    """Build every domain by the rules and join them.

    Args:
        name: of the set.
        division: name of the natural division.
        sources: one a domain, in the order in which the set lists its domains.
        options: seed and processes.
        meter: told of every domain as it is built.

    Returns:
        The prepared data, with its split; domain by domain, each sorted by user and item.

    Raises:
        SourceError: a source is missing or broken.
        TrainingError: a process died.
    """
    shares = dict(zip((source.domain for source in sources), ratios(len(sources)), strict=True))
    frames = []
    for source, frame in zip(sources, _built(sources, list(shares.values()), options), strict=True):
        meter.say(f"{source.domain}: {len(frame):,} rows, positives per negative {shares[source.domain]:.2f}")
        frames.append(frame)
    facts = {"seed": options.seed, "ratios": shares}
    return joined(name, division, list(shares), frames, facts)


def joined(
    name: str, division: str, domains: Sequence[str], frames: Sequence[pl.DataFrame], facts: Mapping[str, Any]
) -> PreparedDataset:
    """Make prepared data of the rows of each domain.

    Args:
        name: of the set.
        division: name of the natural division.
        domains: their ids.
        frames: user_id, item_id, domain_id, label, split of each.
        facts: what else is known.
    """
    interactions = pl.concat(frames, rechunk=True)
    users = interactions.select(pl.col("user_id").unique().sort())
    items = interactions.select(pl.col("item_id").unique().sort())
    parts = {part: int((interactions[SPLIT] == part).sum()) for part in PARTS}
    known = dataset_facts(interactions, parts=parts, **facts)
    natural = Division(name=division, natural=True, of="domain", domains=tuple(domains))
    spec = DatasetSpec(name=name, fields=FIELDS, divisions=(natural,), facts=known)
    return PreparedDataset(spec, interactions, users, items)


def _built(sources: Sequence[DomainSource], shares: Sequence[float], options: BuildOptions) -> Iterator[pl.DataFrame]:
    seeds = [options.seed] * len(sources)
    if options.processes == 1:
        yield from map(_build, sources, shares, seeds)
        return
    # fresh interpreters: a fork would copy the locks of polars' threads in whatever state they are
    workers = min(options.processes, len(sources))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(_build, sources, shares, seeds)
        except BrokenProcessPool:
            raise TrainingError(
                f"one of {workers} processes died, most likely for want of memory; build with fewer --processes"
            ) from None


def _build(source: DomainSource, share: float, seed: int) -> pl.DataFrame:
    return build_domain(source.positives(), share, seed)
