"""Fields and divisions, as manifests carry them. Unknown keys survive a round trip, so newer writers lose nothing."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

# No dot: tensor names are `<field>.values`, so a dot in a field's name would be ambiguous.
FieldName = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,127}\z")]
DomainName = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_:=.-]{0,127}\z")]
Kind = Literal["sparse", "multi_hot", "dense"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Normalization(_Frozen):
    """How a dense field is scaled: encoded = (raw - shift) / scale."""

    method: Literal["min_max", "standard"]
    shift: float
    scale: float

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not math.isfinite(self.shift) or not math.isfinite(self.scale) or self.scale <= 0:
            raise ValueError(f"normalization needs a finite shift and a scale > 0, got {self.shift} and {self.scale}")
        return self

    def encode(self, raw: float) -> float:
        """Scale one raw value."""
        return (raw - self.shift) / self.scale


class Field(_Frozen):
    """One input of the network.

    Args:
        name: unique in the spec.
        kind: sparse (one vocabulary row), multi_hot (a list of them) or dense (a number).
        of: where its value comes from.
        id: whether it is the raw id of the user or item; overlays act on these.
        vocabulary_size: rows of its table, row 0 (out of vocabulary) included; 0 for dense.
        width: width of its vector; 1 for dense.
        normalization: of a dense field; None leaves values as they are.
        missing: encoded value of a missing dense value.
        frozen: whether a sparse field's vectors are given and never trained; not written where they are not.
    """

    name: FieldName
    kind: Kind
    of: Literal["user", "item", "context", "domain"]
    id: bool = False
    vocabulary_size: int = 0
    width: int = 1
    normalization: Normalization | None = None
    missing: float = 0.0
    frozen: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "dense" and (self.vocabulary_size != 0 or self.width != 1):
            raise ValueError(f"dense field {self.name!r} must have vocabulary_size 0 and width 1")
        if self.kind != "dense" and (self.vocabulary_size < 1 or self.width < 1):
            raise ValueError(f"{self.kind} field {self.name!r} needs vocabulary_size >= 1 and width >= 1")
        if self.id and (self.kind != "sparse" or self.of not in ("user", "item")):
            raise ValueError(f"id field {self.name!r} must be sparse and of user or item")
        if self.of == "domain" and self.kind != "sparse":
            raise ValueError(f"field {self.name!r} of domain must be sparse")
        if not math.isfinite(self.missing):
            raise ValueError(f"field {self.name!r}: missing must be finite")
        if self.frozen and self.kind != "sparse":
            raise ValueError(f"field {self.name!r} is {self.kind}; given vectors belong to a sparse field")
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A trained field is written as it was before there were frozen ones: fingerprints stay."""
        content: dict[str, Any] = serialize(self)
        if not self.frozen:
            content.pop("frozen", None)
        return content


class Division(_Frozen):
    """A rule that splits samples into domains.

    Args:
        name: unique among divisions.
        natural: the business division, chosen by a request's domain_id; every other one is auxiliary.
        of: what decides the domain.
        field: the field or column that the rule reads.
        rule: how domains follow from it; see `training.divisions`.
        domains: ids, unique over all divisions; tables store positions in this list.
    """

    name: DomainName
    natural: bool
    of: Literal["domain", "context", "user", "item"]
    field: str | None = None
    rule: str | None = None
    domains: tuple[DomainName, ...]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        if not self.domains:
            raise ValueError(f"division {self.name!r} has no domains")
        if len(set(self.domains)) != len(self.domains):
            raise ValueError(f"division {self.name!r} names a domain twice")
        return self
