"""Requests a second of one server core, 100 items a request, against the same stack around the plain backbone."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import web
from benchmarks.bench.part import Asked, measured
from benchmarks.bench.web import Web
from benchmarks.claims import line
from benchmarks.claims.engine_lines import absent, on_amx, reaches, told
from benchmarks.claims.line import Line
from benchmarks.claims.workplace import Workplace

BF16_JSON = {"Ali-CCP": (2.7, 4), "MovieLens": (1.3, 2)}
BINARY, TWO_WORKERS = 1.4, 1.6


def lines(work: Workplace) -> Iterator[Line]:
    """Both networks on one core, then two workers."""
    for shape in BF16_JSON:
        yield from judged(measured(Asked("web", shape, quick=work.quick), Web, work.folder / "bench"))
    yield from judged_workers(measured(Asked("workers", "Ali-CCP", quick=work.quick), Web, work.folder / "bench"))


def judged(found: Web) -> Iterator[Line]:
    """The lines of one network on one core."""
    name, trial = f"{found.shape}, one server core", found.trial
    bound, aim = BF16_JSON[found.shape]
    claim = f"{name}: bf16, JSON, requests/s over the plain backbone's"
    if trial is None or web.BF16 in found.absent:
        yield absent(claim, f">= {bound:g}x", found.absent.get(web.BF16, "nothing was measured"))
    else:
        yield on_amx(reaches(claim, trial, web.BF16, web.PLAIN, bound, aim))
    if trial is None:
        return
    yield told(f"{name}: fp32, JSON, over the same", trial, web.FP32, web.PLAIN)
    yield from binary(found)
    for peer in ("mosec", "litserve"):
        claim = f"{name}: {peer} around the plain backbone, over the same"
        if peer in found.absent:
            yield absent(claim, "", found.absent[peer])
        else:
            yield told(claim, trial, peer, web.PLAIN)
    for target in trial.names:
        rate = trial.rate(target) / trial.rows
        yield line.measured(
            f"{name}: {target}", f"{rate:,.0f} requests/s, client {found.client_share[target]:.0%} of a core"
        )
    where = ", ".join(f"{stage} {us:.0f}" for stage, us in found.stages.items())
    yield line.measured(f"{name}: where a request's time goes under this load, us by the wall clock", where)


def binary(found: Web) -> Iterator[Line]:
    """The binary body, by the fastest precision that there is."""
    trial = found.trial
    assert trial is not None
    packed, json = (web.BF16_BINARY, web.BF16) if web.BF16 in trial.names else (web.FP32_BINARY, web.FP32)
    claim = f"{found.shape}, one server core: {packed} over JSON"
    if found.shape == "MovieLens":
        yield reaches(claim, trial, packed, json, BINARY)
    else:
        yield told(claim, trial, packed, json)


def judged_workers(found: Web) -> Iterator[Line]:
    """Two workers over one."""
    claim = f"{found.shape}: requests/s of two workers on two cores over one on one"
    if found.trial is None:
        yield absent(claim, f">= {TWO_WORKERS:g}x", found.absent[web.TWO])
        return
    yield reaches(claim, found.trial, web.TWO, web.ONE, TWO_WORKERS)
    shares = ", ".join(f"{name}: {share:.0%}" for name, share in found.client_share.items())
    yield line.measured(f"{found.shape}: the client's share of a core meanwhile", shares)
