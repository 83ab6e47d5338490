"""docs/benchmarks.md from what was measured: the generated part alone is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from benchmarks.bench import ours, web
from benchmarks.bench.batches import LITERAL, Batch
from benchmarks.bench.cold import COLD, WARM, Cold
from benchmarks.bench.domains import FEW_RESIDENT, MANY, MANY_RESIDENT, ONE, Domains
from benchmarks.bench.everything import Bench
from benchmarks.bench.peers_onnx import PLAIN
from benchmarks.bench.web import Web

BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
PLOT = "images/benchmarks.png"
OURS = frozenset({ours.MULTI, ours.SINGLE, ours.MULTI_BF16, ours.SINGLE_BF16})


def replaced(page: str, part: str) -> str:
    """The page with its generated part replaced; it is put at the end of a page that has none."""
    if BEGIN not in page or END not in page:
        return f"{page.rstrip()}\n\n{BEGIN}\n{part.strip()}\n{END}\n"
    before, rest = page.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{part.strip()}\n{END}{after}"


def written(bench: Bench) -> str:
    """The generated part."""
    where = bench.where
    versions = ", ".join(f"{name} {found}" for name, found in where.versions.items())
    head = [f"Measured {where.date} at commit {where.commit} on {where.processor}: {versions}."]
    if where.quick:
        head.append("**In small sizes, to see that it runs: these figures mean nothing.**")
    head.append(f"\n![Rows a second of a mixed batch, relative to the plain backbone in ONNX Runtime]({PLOT})")
    parts = [
        *batches(bench.batches),
        *domains(bench.in_a_batch, bench.resident),
        *cold(bench.cold),
        *served(bench.web, bench.workers),
    ]
    return "\n".join([*head, *parts])


def batches(found: Sequence[Batch]) -> Iterator[str]:
    """A table for each network, a column for each batch."""
    for shape, group in groupby(found, key=lambda batch: batch.shape):
        own = list(group)
        yield f"\n#### {shape}: rows/s over the plain backbone in ONNX Runtime (quartiles)\n"
        yield table(["", *(f"{batch.batching}" for batch in own), f"rows/s, {own[0].batching}"], _batch_rows(own))
        errors = ", ".join(f"{name} {own[0].errors[name]:.1e}" for name in (*ours_in(own[0]), LITERAL))
        yield f"\nLargest distance of a probability from float64, {own[0].batching}: {errors}."
        tuned = "; ".join(f"{name}: {form}" for name, form in own[0].tuned.items())
        yield f"Chosen as fastest for each, {own[0].batching}: {tuned}."
        if own[0].absent:
            yield "Absent: " + "; ".join(f"{name} ({why})" for name, why in own[0].absent.items()) + "."


def ours_in(batch: Batch) -> list[str]:
    """Those of ours that took part, of bounded claims."""
    return [name for name in batch.trial.names if name in OURS]


def _batch_rows(own: Sequence[Batch]) -> Iterator[list[str]]:
    for name in own[0].trial.names:
        ratios = [batch.trial.said(name, PLAIN) if name in batch.trial.names else "-" for batch in own]
        yield [f"**{name}**" if name in OURS else name, *ratios, f"{own[0].trial.rate(name):,.0f}"]


def domains(in_a_batch: Sequence[Domains], resident: Sequence[Domains]) -> Iterator[str]:
    """How many times as long more domains take."""
    yield "\n#### More domains: how many times as long the same rows take\n"
    heading = ["", f"{ONE} -> {MANY} in a batch", f"{FEW_RESIDENT} -> {MANY_RESIDENT}"]
    rows = [
        [f"{a.shape} {a.precision} {a.isa}", _slower(a, MANY, ONE), _slower(b, MANY_RESIDENT, FEW_RESIDENT)]
        for a, b in zip(in_a_batch, resident, strict=True)
    ]
    yield table(heading, rows)


def _slower(found: Domains, slow: str, fast: str) -> str:
    return found.absent if found.trial is None else f"{found.trial.said(fast, slow)}"


def cold(found: Sequence[Cold]) -> Iterator[str]:
    """The first scores of a cold domain."""
    yield "\n#### The first 100 scores of a cold domain over the same warm, by HTTP\n"
    rows = [
        [
            f"{one.shape} {one.precision}, {'prepared blob' if one.source == 'prepared' else 'Redis'}",
            one.absent if one.trial is None else one.trial.said(WARM, COLD),
        ]
        for one in found
    ]
    yield table(["", "times as long"], rows)


def served(one_core: Sequence[Web], workers: Sequence[Web]) -> Iterator[str]:
    """Requests a second over HTTP."""
    for found in one_core:
        yield f"\n#### {found.shape} over HTTP: requests/s of one server core, 100 items each\n"
        yield table(
            ["", "requests/s", "over the plain backbone", "client's share of a core"], _web_rows(found, web.PLAIN)
        )
        where = ", ".join(f"{stage} {us:.0f}" for stage, us in found.stages.items())
        yield f"\nWhere a request's time goes under this load (microseconds by the wall clock): {where}."
        if found.absent:
            yield "Absent: " + "; ".join(f"{name} ({why})" for name, why in found.absent.items()) + "."
    for found in workers:
        yield f"\n#### {found.shape} over HTTP: two workers\n"
        yield table(["", "requests/s", "over one worker", "client's share of a core"], _web_rows(found, web.ONE))


def _web_rows(found: Web, base: str) -> Iterator[list[str]]:
    trial = found.trial
    for name in trial.names if trial else ():
        assert trial is not None
        rate = f"{trial.rate(name) / trial.rows:,.0f}"
        yield [name, rate, trial.said(name, base), f"{found.client_share[name]:.0%}"]


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
