"""The papers' networks and the batches that engines are measured on."""

from __future__ import annotations

from dataclasses import dataclass

from features.fields import Field

WIDTH = 16


@dataclass(frozen=True)
class Shape:
    """One paper's network.

    The papers give towers, ranks and input widths; which inputs belong to the user is ours to say. What that choice
    gives is seen beside the engine's `share=False`, where nothing is computed once for a request.

    Args:
        name: of the data set.
        user: vocabulary sizes of what a request's rows share: fields of the user, the context, the domain.
        item: of the rest.
        dense: numbers of the user and of the item.
        tower: widths.
        ranks: of the natural, the auxiliary and the fusion's matrices, by layer.
    """

    name: str
    user: tuple[int, ...]
    item: tuple[int, ...]
    dense: tuple[int, int]
    tower: tuple[int, ...]
    ranks: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """Width of the first layer's input."""
        return WIDTH * (len(self.user) + len(self.item)) + sum(self.dense)

    def fields(self) -> list[Field]:
        """The backbone's fields; the first sparse one of each side is its id."""
        fields = []
        for side, sizes, dense in (("user", self.user, self.dense[0]), ("item", self.item, self.dense[1])):
            for i, size in enumerate(sizes):
                kind = {"kind": "sparse", "of": side, "id": i == 0, "vocabulary_size": size, "width": WIDTH}
                fields.append(Field.model_validate({"name": f"{side}-{i}", **kind}))
            numbers = ({"name": f"{side}-number-{i}", "kind": "dense", "of": side} for i in range(dense))
            fields += [Field.model_validate(number) for number in numbers]
        return fields


@dataclass(frozen=True)
class Batching:
    """A batch: so many requests, each of its own domain, of so many items."""

    requests: int
    items: int

    @property
    def rows(self) -> int:
        """Of all requests."""
        return self.requests * self.items

    def __str__(self) -> str:
        return f"{self.requests} x {self.items}"


MAIN = Batching(32, 100)
BATCHINGS = (MAIN, Batching(8, 500), Batching(64, 10), Batching(1, 1000), Batching(32, 1))

SHAPES = (
    # 7 sparse fields and the age: methods.md 1
    Shape("MovieLens", (6041, 3, 22, 3440, 33), (3707, 19), (1, 0), (256, 128), (8, 8)),
    # user and item alone: input 32
    Shape("Amazon", (50_000,), (50_000,), (0, 0), (1024, 512, 256, 64), (16, 16, 8, 8)),
    # input 408: 25 sparse fields and 8 numbers, of which we count 16 and 4 as the user's or the context's
    Shape(
        "Ali-CCP",
        (60_000, 98, 14, 3, 8, 4, 4, 3, 5, 12_000, 100_000, 80_000, 20_000, 3, 4, 4),
        (100_000, 9000, 80_000, 60_000, 20_000, 8000, 60_000, 100_000, 60_000),
        (4, 4),
        (1024, 512, 512, 256, 256, 64, 64),
        (32, 32, 32, 16, 16, 8, 8),
    ),
)

SMALL = (
    Shape("MovieLens", (60, 3, 22, 34, 33), (37, 19), (1, 0), (24, 16), (3, 2)),
    Shape("Amazon", (50,), (50,), (0, 0), (32, 24, 16, 8), (4, 4, 2, 2)),
    Shape("Ali-CCP", (60, 9, 14), (100, 9), (2, 1), (32, 24, 24, 16, 16, 8, 8), (4, 4, 4, 3, 3, 2, 2)),
)
"""The same names, layers and sides in small, for `--quick`: whether everything runs, not how fast."""


def shapes(quick: bool) -> tuple[Shape, ...]:
    """The networks to measure."""
    return SMALL if quick else SHAPES
