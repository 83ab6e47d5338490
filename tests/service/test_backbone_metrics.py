"""Laws of the metrics of backbones."""

from __future__ import annotations

import io
import json

from service.logs import open_log
from service.metrics import Metrics

BLUE, GREEN, RED = (letter * 64 for letter in "abc")


def test_a_series_stands_for_each_bundle_and_goes_with_it() -> None:
    """Law: at most three series, none of a bundle that is gone; the reason of a refusal is in the log, and no label."""
    stream = io.StringIO()
    metrics = Metrics(open_log(stream=stream))
    metrics.backbones(BLUE, None, None, None)
    metrics.backbones(GREEN, BLUE, RED, "two backbones are in memory")
    shown = metrics.exposition().decode()
    assert "espalier_resident_backbones 2.0" in shown
    series = {line for line in shown.splitlines() if line.startswith("espalier_backbone_info{")}
    roles = {"default": GREEN, "beside": BLUE, "refused": RED}
    expected = {f'espalier_backbone_info{{revision="{each}",role="{role}"}} 1.0' for role, each in roles.items()}
    assert series == expected
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["info", "error"]
    assert lines[-1]["reason"] == "two backbones are in memory"
    metrics.backbones(GREEN, None, None, None)
    assert f'{{revision="{BLUE}"' not in metrics.exposition().decode()
