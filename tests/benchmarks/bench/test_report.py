"""Laws of the page: only its generated part changes, and it says all that was measured."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.bench import ours, web
from benchmarks.bench.batches import LITERAL, Batch
from benchmarks.bench.cold import COLD, WARM, Cold
from benchmarks.bench.domains import FEW_RESIDENT, MANY, MANY_RESIDENT, ONE, Domains
from benchmarks.bench.everything import Bench, Where
from benchmarks.bench.peers_onnx import PLAIN
from benchmarks.bench.plot import draw
from benchmarks.bench.report import replaced, written
from benchmarks.bench.rounds import Trial
from benchmarks.bench.shapes import MAIN
from benchmarks.bench.web import Web


def bench() -> Bench:
    """Invented figures."""
    times = Trial(3200, [{PLAIN: [2.0] * 3, ours.MULTI: [1.6] * 3}])
    batch = Batch("MovieLens", MAIN, 2, times, {LITERAL: 1e-7, ours.MULTI: 2e-7}, {"peer": "not installed"})
    spread = Trial(3200, [{ONE: [1.0] * 3, MANY: [1.1] * 3}])
    held = Trial(3200, [{FEW_RESIDENT: [1.0] * 3, MANY_RESIDENT: [1.2] * 3}])
    served = Trial(100, [{web.PLAIN: [0.002] * 3, web.BF16: [0.001] * 3}])
    return Bench(
        Where("a processor", "abc1234", "2026-01-01", {"onnxruntime": "1"}),
        [batch],
        [Domains("MovieLens", "fp32", "avx2", spread)],
        [Domains("MovieLens", "fp32", "avx2", held)],
        [Cold("Ali-CCP", "fp32", "redis", Trial(100, [{COLD: [0.03] * 3, WARM: [0.02] * 3}]))],
        [Web("Ali-CCP", served, {web.PLAIN: 0.2, web.BF16: 0.4}, {"engine": 900.0}, {"mosec": "not installed"})],
        [],
    )


def test_only_the_generated_part_of_a_page_is_replaced() -> None:
    """Law: what people wrote before and after it stays, and writing twice is writing once."""
    page = "# Title\n\nbefore\n\n<!-- make bench: begin -->\nold\n<!-- make bench: end -->\n\nafter\n"
    once = replaced(page, "new")
    assert once == page.replace("old", "new")
    assert replaced(once, "new") == once
    assert replaced("# Title\n", "new") == "# Title\n\n<!-- make bench: begin -->\nnew\n<!-- make bench: end -->\n"


def test_the_page_says_every_figure() -> None:
    """Law: ratios with quartiles, errors, who is absent and why, and where it was measured stand on the page."""
    page = written(bench())
    for said in (
        "on a processor",
        "abc1234",
        f"| **{ours.MULTI}** | 1.250 (1.250 to 1.250) | 2,000 |",
        f"{ours.MULTI} 2.0e-07",
        "peer (not installed)",
        "| MovieLens fp32 avx2 | 1.100 (1.100 to 1.100) | 1.200 (1.200 to 1.200) |",
        "| Ali-CCP fp32, Redis | 1.500 (1.500 to 1.500) |",
        f"| {web.BF16} | 1,000 | 2.000 (2.000 to 2.000) | 40% |",
        "engine 900",
        "mosec (not installed)",
    ):
        assert said in page, said
    assert "mean nothing" not in page


def test_figures_are_read_as_they_were_kept() -> None:
    """Law: a page can be written again from the kept figures."""
    assert msgspec.json.decode(msgspec.json.encode(bench()), type=Bench) == bench()


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    """Law: a PNG with a panel for each network."""
    draw(bench().batches, tmp_path / "images" / "plot.png")
    assert (tmp_path / "images" / "plot.png").read_bytes().startswith(b"\x89PNG")
