"""Manifests: what must agree inside one, unknown keys, newer schemas."""

from __future__ import annotations

from typing import Any

import pytest

from adapters_store.canonical import canonical_json, parse_json
from adapters_store.errors import MalformedArtifact
from adapters_store.manifest import (
    AdapterManifest,
    BackboneManifest,
    FusionManifest,
    manifest_content,
    parse_manifest,
)

SHA = "ab" * 32
LORA: dict[str, Any] = {
    "schema": 1,
    "kind": "lora",
    "domain": "theme-1",
    "division": "theme",
    "fingerprint": SHA,
    "ranks": {"tower.0": 8},
}
FUSED: dict[str, Any] = LORA | {
    "kind": "fused",
    "mode": "attention",
    "auxiliary": ["gender"],
    "pairs": [{"domains": ["f"], "rows": 5}],
    "fuses": {"f": SHA},
    "fusion": SHA,
    "golden_divisions": {"gender": ["f"]},
}
BACKBONE: dict[str, Any] = {
    "fields": [{"name": "age", "kind": "dense", "of": "user"}],
    "tower": [4],
    "divisions": [{"name": "theme", "natural": True, "of": "domain", "domains": ["a", "b"]}],
}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (LORA, AdapterManifest),
        (LORA | {"division": "gender", "fusion": SHA}, AdapterManifest),
        (FUSED, AdapterManifest),
        (BACKBONE, BackboneManifest),
        ({"fingerprint": SHA, "ranks": {"tower.0": 3}}, FusionManifest),
    ],
)
def test_unknown_keys_survive_a_round_trip(content: dict[str, Any], kind: type[AdapterManifest]) -> None:
    """Law: an older build hands on what a newer one wrote, byte for byte."""
    manifest = parse_manifest(content | {"novel": {"deep": [1, None]}}, kind)
    written = canonical_json(manifest_content(manifest))
    assert manifest_content(manifest)["novel"] == {"deep": [1, None]}
    assert manifest_content(manifest)["schema"] == 1
    assert canonical_json(manifest_content(parse_manifest(parse_json(written), kind))) == written


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"schema": 2, "kind": "novel"}, "schema 2 is newer than 1, the newest that this build reads"),
        ({"schema": 0}, "schema: input should be greater than or equal to 1"),
        ({"kind": "delta"}, "kinds 'lora' and 'fused' have ranks, kind 'delta' has none"),
        ({"kind": "delta", "ranks": {}, "mode": "avg"}, "kind 'delta' has mode 'single', not 'avg'"),
        ({"kind": "bundle"}, "kind: input should be 'lora', 'fused' or 'delta', got 'bundle'"),
        ({"domain": "../etc"}, "'../etc' is no domain id"),
        ({"division": ""}, "'' is no division name"),
        ({"fingerprint": "AB" * 32}, "is no revision"),
        ({"ranks": {}}, "kinds 'lora' and 'fused' have ranks, kind 'delta' has none"),
        ({"ranks": {"tower.0": 0}}, r"ranks.tower\.0: input should be greater than or equal to 1, got 0"),
        ({"strength": 1.5}, "strength: input should be less than or equal to 1"),
        ({"calibration": {"slope": float("inf")}}, "calibration.slope: input should be a finite number"),
        ({"mode": "avg"}, "kind 'lora' has mode 'single', not 'avg'"),
        ({"fuses": {"f": SHA}}, "kind 'lora' has no fuses"),
        ({"fusion": "x"}, "'x' is no revision"),
        ({"kind": "delta", "ranks": {}, "fusion": SHA}, "kind 'delta' has no fusion"),
        ({"domain": None}, "domain: input should be a valid string"),
    ],
)
def test_faulty_lora_manifest_is_refused_by_key(changes: dict[str, Any], fault: str) -> None:
    """Law: each fault is named with its key."""
    with pytest.raises(MalformedArtifact, match=fault):
        parse_manifest(LORA | changes, AdapterManifest)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"mode": "single"}, "kind 'fused' names its auxiliary divisions and has mode attention, add or avg"),
        ({"auxiliary": []}, "kind 'fused' names its auxiliary divisions"),
        ({"fusion": None}, "mode 'attention' pins a fusion, and no other mode does"),
        ({"mode": "avg"}, "mode 'attention' pins a fusion, and no other mode does"),
        ({"fusion": "x"}, "'x' is no revision"),
        ({"fuses": {"f": "x"}}, "'x' is no revision"),
        ({"fuses": {"a b": SHA}}, "'a b' is no domain id"),
        ({"auxiliary": ["theme"], "golden_divisions": {"theme": []}}, "must all be different divisions"),
        ({"auxiliary": ["gender", "gender"]}, "must all be different divisions"),
        ({"golden_divisions": {}}, "golden_divisions must name exactly the auxiliary divisions"),
        ({"pairs": [{"domains": ["f", "g"]}]}, r"pairs\.0 names 2 domains for 1 auxiliary divisions"),
        ({"pairs": [{"domains": ["m"]}]}, r"pairs\.0 names domain 'm', which fuses does not pin"),
        ({"pairs": [{"domains": ["f"]}, {"domains": ["f"]}]}, r"pairs\.1 is a repetition"),
        ({"pairs": [{"domains": [None]}]}, r"pairs\.0 is a repetition, or names no domain at all"),
    ],
)
def test_faulty_fused_manifest_is_refused_by_key(changes: dict[str, Any], fault: str) -> None:
    """Law: pins, pairs and divisions of one manifest agree."""
    with pytest.raises(MalformedArtifact, match=fault):
        parse_manifest(FUSED | changes, AdapterManifest)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"kind": "fm"}, "kind: input should be 'mlp'"),
        ({"fields": []}, "fields: list should have at least 1 item"),
        ({"fields": BACKBONE["fields"] * 2}, "field 'age' stands twice"),
        ({"divisions": BACKBONE["divisions"] * 2}, "division 'theme' stands twice"),
        (
            {"divisions": [BACKBONE["divisions"][0], BACKBONE["divisions"][0] | {"name": "x"}]},
            "domain 'a' stands twice",
        ),
        ({"norm_eps": 0}, "norm_eps: input should be greater than 0"),
        ({"files": [{"name": "../x", "bytes": 1, "sha256": SHA}]}, r"files\.0\.name: string should match pattern"),
        ({"files": [{"name": "x", "bytes": -1, "sha256": SHA}]}, r"files\.0\.bytes: input should be greater"),
        ({"files": [{"name": "x", "bytes": 1, "sha256": "0"}]}, r"files\.0\.sha256: '0' is no revision"),
    ],
)
def test_faulty_backbone_manifest_is_refused_by_key(changes: dict[str, Any], fault: str) -> None:
    """Law: a bundle's manifest names no file outside its folder and nothing twice."""
    with pytest.raises(MalformedArtifact, match=fault):
        parse_manifest(BACKBONE | changes, BackboneManifest)


def test_a_bundle_says_no_calibration_that_does_nothing() -> None:
    """Law: manifests of builds that knew none keep their bytes; one that moves a logit is kept whole."""
    plain, identity = (
        parse_manifest(BACKBONE | changes, BackboneManifest)
        for changes in ({}, {"calibration": {"slope": 1.0, "intercept": 0.0}})
    )
    assert "calibration" not in manifest_content(plain)
    assert manifest_content(identity) == manifest_content(plain)
    line = {"slope": 1.0, "intercept": -2.0}
    shifted = parse_manifest(BACKBONE | {"calibration": line}, BackboneManifest)
    assert manifest_content(shifted)["calibration"] == line
    with pytest.raises(MalformedArtifact, match=r"calibration\.intercept: input should be a finite number"):
        parse_manifest(BACKBONE | {"calibration": {"intercept": float("inf")}}, BackboneManifest)


@pytest.mark.parametrize("content", [None, 7, "text", [], [LORA]])
def test_what_is_no_object_is_no_manifest(content: object) -> None:
    """Law: any JSON value may stand where a manifest should, and is refused."""
    with pytest.raises(MalformedArtifact, match="manifest: "):
        parse_manifest(content, AdapterManifest)
