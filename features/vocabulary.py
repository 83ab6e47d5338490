"""Raw values of each field, and the table rows they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MalformedTensors
from features.fields import Field
from features.index import RawIndex
from features.keys import Tensors
from features.question import Ids


class Vocabulary:
    """One index for each sparse and multi-hot field: value i has table row i + 1, row 0 is out of vocabulary.

    Args:
        indices: field name -> the index of its raw values.
    """

    def __init__(self, indices: Mapping[str, RawIndex]) -> None:
        self._indices = dict(indices)

    def __getitem__(self, field: str) -> RawIndex:
        return self._indices[field]

    def rows(self, field: str, values: Ids) -> NDArray[np.int32]:
        """Table rows of raw `values` of `field`; int32 (n,), 0 where unknown."""
        return (self._indices[field].find(values) + 1).astype(np.int32)

    def size(self, field: str) -> int:
        """Rows of the table of `field`, row 0 included."""
        return len(self._indices[field]) + 1

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of `vocabulary.safetensors`."""
        return {
            name: array for field, index in self._indices.items() for name, array in index.to_tensors(field).items()
        }

    @classmethod
    def from_tensors(cls, tensors: Tensors, fields: Iterable[Field]) -> Vocabulary:
        """Read `vocabulary.safetensors`.

        Raises:
            MalformedTensors: an index is missing or broken, or its size is not the field's.
        """
        indices = {field.name: RawIndex.from_tensors(tensors, field.name) for field in fields if field.kind != "dense"}
        for field in fields:
            if field.kind != "dense" and len(indices[field.name]) + 1 != field.vocabulary_size:
                raise MalformedTensors(
                    f"field {field.name!r} declares vocabulary_size {field.vocabulary_size}, "
                    f"its index gives {len(indices[field.name]) + 1}"
                )
        return cls(indices)
