"""Laws of the engine's claims: each can hold, can fall short, and says what this machine lacks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.bench import ours, peers_onnx, peers_openvino, peers_peft, web
from benchmarks.bench.accuracy import Moved
from benchmarks.bench.batches import LITERAL, Batch
from benchmarks.bench.cold import COLD, WARM, Cold
from benchmarks.bench.company import Company
from benchmarks.bench.domains import FEW_RESIDENT, MANY, MANY_RESIDENT, ONE, Domains
from benchmarks.bench.rounds import Trial
from benchmarks.bench.shapes import MAIN
from benchmarks.bench.web import Web
from benchmarks.claims import (
    engine_accuracy,
    engine_cold,
    engine_company,
    engine_domains,
    engine_gpu,
    engine_http,
    engine_speed,
    engine_suites,
)
from benchmarks.claims.engine_lines import on_amx, reaches, within

NO_OPENVINO = dict.fromkeys(peers_openvino.NAMES.values(), "openvino is not installed")


def trial(**speeds: float) -> Trial:
    """Names, with the speed of each."""
    return Trial(100, [{name: [1 / speed] * 9 for name, speed in speeds.items()}])


def batch(
    multi: float = 1.0, half: float = 6.0, error: float = 1e-7, shape: str = "MovieLens", layers: int = 2
) -> Batch:
    """Invented figures, relative to the plain backbone in ONNX Runtime."""
    speeds = {peers_onnx.PLAIN: 1.0, ours.MULTI: multi, ours.UNSHARED: multi, ours.SINGLE: multi, ours.ALONE: multi}
    speeds |= {ours.MULTI_BF16: half, ours.SINGLE_BF16: half, ours.ONNX: 0.5}
    speeds |= {peers_onnx.LITERAL: 0.5, peers_onnx.FOLDED: 0.5, peers_onnx.ADAPTERS: 0.4, peers_peft.NAME: 0.4}
    return Batch(shape, MAIN, layers, trial(**speeds), {LITERAL: 3e-6, ours.MULTI: error}, NO_OPENVINO)


def verdicts(found: Batch) -> Counter[str]:
    """How many lines of each verdict."""
    return Counter(line.verdict for line in engine_speed.judged(found))


def test_a_ratio_holds_at_its_bound_and_falls_short_below() -> None:
    """Law: faster is more for one kind of line, slower is more for the other; both attempts are printed."""
    found = trial(fast=2.0, slow=1.0)
    assert reaches("", found, "fast", "slow", 2.0).verdict == "holds"
    assert reaches("", found, "fast", "slow", 2.1).verdict == "falls short"
    assert within("", found, "slow", "fast", 2.0).verdict == "holds"
    assert within("", found, "slow", "fast", 1.9).verdict == "falls short"
    twice = Trial(1, [{"a": [1.0], "b": [1.0]}, {"a": [1.0], "b": [3.0]}])
    line = reaches("", twice, "a", "b", 3.0, aim=4)
    assert (line.verdict, line.bound) == ("holds", ">= 3x, aim 4")
    assert line.figure == "1.000 (1.000 to 1.000), again 3.000 (3.000 to 3.000)x"


def test_a_figure_that_is_no_number_falls_short() -> None:
    """Law: NaN never holds."""
    broken = Trial(1, [{"a": [math.nan], "b": [1.0]}])
    assert reaches("", broken, "a", "b", 0.0).verdict == "falls short"
    assert within("", broken, "a", "b", 99.0).verdict == "falls short"


def test_without_amx_a_bound_for_amx_can_hold_but_not_fall_short() -> None:
    """Law: what falls short without AMX is not measurable here, its figure still printed; with AMX it falls short."""
    short = reaches("", trial(a=1.0, b=1.0), "a", "b", 4.0)
    assert on_amx(short, [ours.AMX]).verdict == "falls short"
    without = on_amx(short, ["avx512_bf16"])
    assert (without.verdict, without.figure) == ("not measurable here", short.figure)
    assert "no AMX" in without.why
    holds = reaches("", trial(a=5.0, b=1.0), "a", "b", 4.0)
    assert on_amx(holds, []).verdict == "holds"


def test_every_fp32_line_of_a_batch_can_fall_short() -> None:
    """Law: good figures hold; a slow engine falls short of all four bounds in fp32, a wrong one of its error."""
    assert "falls short" not in verdicts(batch())
    assert verdicts(batch(multi=0.3))["falls short"] == 4
    assert verdicts(batch(error=3e-6))["falls short"] == 1
    assert verdicts(batch(error=math.nan))["falls short"] == 1


def test_deep_networks_may_err_as_the_literal_one_does() -> None:
    """Law: to four layers 2e-6; past that twice the error of the literal float32 network, if that is more."""
    assert engine_speed.error(batch(error=5e-6, shape="Amazon", layers=4)).verdict == "falls short"
    assert engine_speed.error(batch(error=5e-6, shape="Ali-CCP", layers=7)).verdict == "holds"
    assert engine_speed.error(batch(error=7e-6, shape="Ali-CCP", layers=7)).verdict == "falls short"


def test_a_line_whose_peer_is_absent_says_why() -> None:
    """Law: neither holds nor falls short."""
    lines = [line for line in engine_speed.judged(batch()) if "OpenVINO" in line.claim]
    assert {line.verdict for line in lines} == {"not measurable here"}
    assert all("not installed" in line.why for line in lines)


@pytest.mark.parametrize(("part", "names"), [("in_a_batch", (ONE, MANY)), ("resident", (FEW_RESIDENT, MANY_RESIDENT))])
def test_lines_of_domains_can_fall_short(part: str, names: tuple[str, str]) -> None:
    """Law: 64 domains, or 10,000 resident ones, may cost so much and no more; without room it is not measurable."""
    few, many = names
    good = Domains("Amazon", "fp32", "avx2", trial(**{few: 1.0, many: 1 / 1.14}))
    assert engine_domains.judged(part, good).verdict == "holds"
    assert engine_domains.judged(part, replace(good, trial=trial(**{few: 1.0, many: 0.8}))).verdict == "falls short"
    missing = replace(good, trial=None, absent="no room")
    assert engine_domains.judged(part, missing).verdict == "not measurable here"


@pytest.mark.parametrize(("source", "precision"), engine_cold.BOUNDS)
def test_lines_of_cold_domains_can_fall_short(source: str, precision: str) -> None:
    """Law: each source and precision has its own bound."""
    bound = engine_cold.BOUNDS[source, precision]
    for factor, verdict in ((0.99, "holds"), (1.01, "falls short")):
        found = Cold("Ali-CCP", precision, source, trial(**{WARM: 1.0, COLD: 1 / (bound * factor)}), 9, 9)
        assert engine_cold.judged(found).verdict == verdict


def test_loads_that_took_no_prepared_blob_are_no_figure_of_prepared_blobs() -> None:
    """Law: a fast answer falls short all the same where the server counted no blob that was used."""
    found = Cold("Ali-CCP", "fp32", "prepared", trial(**{WARM: 1.0, COLD: 1.0}), 9, 9)
    assert engine_cold.judged(found).verdict == "holds"
    line = engine_cold.judged(replace(found, blobs=0))
    assert line.verdict == "falls short"
    assert "0 of 9 loads" in line.figure


def served(shape: str, bf16: float, binary: float) -> Web:
    """Invented figures of one core, relative to the plain backbone."""
    speeds = {web.PLAIN: 1.0, web.BF16: bf16, web.BF16_BINARY: bf16 * binary, web.FP32: 1.0, web.FP32_BINARY: 1.0}
    peers = {"mosec": "mosec is not installed", "litserve": "litserve is not installed"}
    return Web(shape, trial(**speeds), dict.fromkeys(speeds, 0.5), {"engine": 100.0}, peers)


def test_lines_of_http_can_fall_short() -> None:
    """Law: the binary body is held to its bound on MovieLens alone, bf16 on both networks."""
    good = [line.verdict for line in engine_http.judged(served("MovieLens", 1.4, 1.5))]
    assert good.count("holds") == 2
    bad = list(engine_http.judged(served("MovieLens", 1.0, 1.1)))
    assert [line.verdict for line in bad if "binary body" in line.claim and line.bound] == ["falls short"]
    assert bad[0].verdict in ("falls short", "not measurable here")
    assert sum(bool(line.bound) for line in engine_http.judged(served("Ali-CCP", 3.0, 1.1))) == 1


def test_two_workers_are_held_to_their_bound() -> None:
    """Law: 1.6 times one worker, and the client's share is printed; one core cannot measure it."""
    for speed, verdict in ((1.7, "holds"), (1.5, "falls short")):
        found = Web("Ali-CCP", trial(**{web.ONE: 1.0, web.TWO: speed}), {web.ONE: 0.2, web.TWO: 0.4})
        bounded, share = engine_http.judged_workers(found)
        assert bounded.verdict == verdict
        assert share.figure == "one worker: 20%, two workers: 40%"
    (alone,) = engine_http.judged_workers(Web("Ali-CCP", None, absent={web.TWO: "there is one core"}))
    assert alone.verdict == "not measurable here"


def test_company_is_judged_by_bits_for_native_and_by_distance_for_others() -> None:
    """Law: one changed bit is too many for the native engine; others have 2e-6."""
    assert engine_company.judged(Company("native fp32", 9, 99, 1, 1e-9)).verdict == "falls short"
    assert engine_company.judged(Company("native fp32", 9, 99, 0, 0.0)).verdict == "holds"
    assert engine_company.judged(Company("onnx", 9, 99, 50, 1e-7)).verdict == "holds"
    assert engine_company.judged(Company("onnx", 9, 99, 50, 3e-6)).verdict == "falls short"
    assert engine_company.judged(Company("torch")).verdict == "falls short"
    assert engine_company.judged(Company("torch", absent="no torch")).verdict == "not measurable here"


def test_an_auc_that_moves_falls_short() -> None:
    """Law: 1e-4 of AUC, up or down; an AUC that is no number falls short."""
    for exact, half, verdict in ((0.8, 0.80009, "holds"), (0.8, 0.7998, "falls short"), (math.nan, 0.8, "falls short")):
        bounded, _ = engine_accuracy.judged(Moved(10, exact, half, 1e-3, "avx512_bf16"))
        assert bounded.verdict == verdict


def test_a_suite_holds_when_all_pass() -> None:
    """Law: a failure, a skipped test among others, or no test at all falls short; all skipped cannot run here."""
    assert engine_suites.judged("onnx", 14, 0, 14, "").verdict == "holds"
    assert engine_suites.judged("onnx", 13, 0, 14, "one (failure)").verdict == "falls short"
    assert engine_suites.judged("onnx", 13, 1, 14, "one (skipped)").verdict == "falls short"
    assert engine_suites.judged("onnx", 0, 0, 0, "").verdict == "falls short"
    assert engine_suites.judged("native", 0, 14, 14, "one (skipped)").verdict == "not measurable here"


def test_a_gpu_line_is_read_from_what_the_script_prints() -> None:
    """Law: rate and ratio are those of its row; a row that is missing falls short."""
    row = "  {:38} {:14,.0f} rows/s  {:.3f} (0.700 to 0.800)  remark\n"
    output = row.format(engine_gpu.MULTI, 12_345_678, 0.75) + row.format(engine_gpu.CEILING, 24_691_356, 2.0)
    first, share, whole = engine_gpu.judged(output + row.format("MultiLoRA, run", 5_000_000, 0.3))
    assert (first.verdict, first.figure, share.figure, whole.figure) == ("holds", "0.750", "0.500", "5,000,000 rows/s")
    assert "12,345,678 rows/s" in first.claim
    slow, *_ = engine_gpu.judged(output.replace("0.750", "0.650"))
    assert slow.verdict == "falls short"
    nothing, *_ = engine_gpu.judged("")
    assert nothing.verdict == "falls short"
