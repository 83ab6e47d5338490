"""Parameter counts are those of methods.md."""

from __future__ import annotations

import pytest

from network.backbone import Backbone
from network.counts import adapter_counts, backbone_counts, fusion_counts
from network.fusion import Fusion
from network.inputs import FieldShape, NetworkShape
from network.lora import DomainAdapter

MOVIELENS_ROWS = (6041, 3707, 3, 22, 3440, 19, 4)
"""Users, rated movies, genders, occupations, zips, first genres, age domains: 13,229 values and 7 rows 0."""


def movielens() -> NetworkShape:
    fields = tuple(FieldShape(f"field-{i}", "sparse", rows) for i, rows in enumerate(MOVIELENS_ROWS))
    return NetworkShape((*fields, FieldShape("age", "dense")))


def shape_of(input_width: int, tower: tuple[int, ...]) -> NetworkShape:
    return NetworkShape(tuple(FieldShape(str(i), "dense") for i in range(input_width)), tower=tower)


def test_backbone_counts_are_those_of_movielens() -> None:
    """Law: the MovieLens backbone has the counts of methods.md 1."""
    assert sum(rows - 1 for rows in MOVIELENS_ROWS) == 13_229
    assert backbone_counts(movielens()) == {
        "linear weights and biases": 62_080,
        "norm weights and biases": 768,
        "output layer": 129,
        "tower": 62_977,
        "embeddings of known values": 13_229 * 16,
        "backbone": 274_641,
        "backbone with out-of-vocabulary rows": 274_753,
    }


def test_counts_are_what_the_modules_hold() -> None:
    """Law: the printed counts are the sizes of the parameters."""
    shape = movielens()
    backbone = Backbone(shape)
    counts = backbone_counts(shape)
    assert sum(p.numel() for p in backbone.parameters()) == counts["backbone with out-of-vocabulary rows"]
    adapter = DomainAdapter(shape, (8, 8))
    wanted = adapter_counts(shape, (8, 8))["down, up, scale, shift, norm weights and biases"]
    assert sum(p.numel() for p in adapter.parameters()) == wanted
    fusion = sum(p.numel() for p in Fusion(shape, (8, 8)).parameters())
    assert {"fusion query and key": fusion} == fusion_counts(shape, (8, 8))


@pytest.mark.parametrize(
    ("input_width", "tower", "ranks", "expected"),
    [
        (113, (256, 128), (8, 8), (6_024, 6_792, 7_560, 6_144)),
        (32, (1024, 512, 256, 64), (16, 16, 8, 8), (50_176, 53_888, 57_600, 54_272)),
        (408, (1024, 512, 512, 256, 256, 64, 64), (32, 32, 32, 16, 16, 8, 8), (151_808, 157_184, 162_560, 149_504)),
    ],
    ids=["movielens", "amazon", "ali-ccp"],
)
def test_adapter_and_fusion_counts_are_the_papers(
    input_width: int, tower: tuple[int, ...], ranks: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """Law: adapters and fusions have the counts of methods.md 2, for all three towers."""
    shape = shape_of(input_width, tower)
    assert (*adapter_counts(shape, ranks).values(), *fusion_counts(shape, ranks).values()) == expected
