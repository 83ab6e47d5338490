"""The JSON that describes an artifact: of a backbone bundle, an adapter, a fusion, a feature table.

Unknown keys are kept, so an older build hands a newer manifest on unharmed; a newer `schema` is refused by its name.
"""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from adapters_store.errors import BadId, MalformedArtifact
from adapters_store.ids import check_division, check_domain, check_revision
from adapters_store.validation import explain
from features.fields import Division
from features.fields import Field as FeatureField

SCHEMA = 1

FileName = Annotated[str, Field(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\z")]
Rank = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Layers = Annotated[int, Field(ge=1, le=64)]
Kind = Literal["mlp", "wide_deep", "deepfm", "dcn", "dcn_v2", "neurfm", "autoint"]
FIRST_ORDER: frozenset[Kind] = frozenset({"wide_deep", "deepfm", "neurfm"})
"""Kinds with one weight for each feature value."""
FIELD_VECTORS: frozenset[Kind] = frozenset({"deepfm", "neurfm", "autoint"})
"""Kinds that need a vector of one width of every field."""
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


class _Manifest(BaseModel):
    """What every manifest has: a schema number, unknown keys kept, no change after it was made."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_: int = Field(default=SCHEMA, alias="schema", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _refuse_newer(cls, content: Any) -> Any:
        schema = content.get("schema") if isinstance(content, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise ValueError(
                f"schema {schema} is newer than {SCHEMA}, the newest that this build reads: update Espalier"
            )
        return content


class FileEntry(BaseModel):
    """One file of a bundle.

    Args:
        name: File name, no folder.
        bytes: Its size.
        sha256: Its digest, in hex.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: FileName
    bytes: Count
    sha256: str

    @field_validator("sha256")
    @classmethod
    def _is_digest(cls, sha256: str) -> str:
        return _checked(check_revision, sha256)


class Attention(BaseModel):
    """The attention over fields of kind autoint.

    Args:
        layers: How many follow each other.
        heads: Of each layer.
        head_width: Width of one head.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    layers: Layers
    heads: Annotated[int, Field(ge=1, le=256)]
    head_width: Annotated[int, Field(ge=1, le=4096)]


class Calibration(BaseModel):
    """Straight line on the logit that turns it into a calibrated one: slope * logit + intercept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    slope: FiniteFloat = 1.0
    intercept: FiniteFloat = 0.0


class BackboneManifest(_Manifest):
    """Describes a bundle; its canonical JSON is `manifest.json`, whose sha256 is the bundle's revision.

    Args:
        kind: Network family.
        fields: In the order in which their vectors are concatenated.
        tower: Widths of the hidden layers.
        norm: Whether a norm follows each hidden layer; not written where it does.
        cross_layers: Of kinds dcn and dcn_v2; not written for others.
        attention: Of kind autoint; not written for others.
        norm_eps: Added to a variance before its root.
        divisions: How samples split into domains.
        calibration: Applied to the logit where no natural domain's adapter scores; not written where it does nothing.
        metrics: What evaluation found.
        training: How it was trained.
        fingerprint: sha256 over what an adapter depends on; filled in by `write_bundle`.
        files: Every other file of the bundle; filled in by `write_bundle`.
        created_at: RFC 3339 time, or null.
    """

    kind: Kind = "mlp"
    fields: list[FeatureField] = Field(min_length=1)
    tower: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    norm: bool = True
    cross_layers: Layers | None = None
    attention: Attention | None = None
    norm_eps: float = Field(default=1e-5, gt=0, allow_inf_nan=False)
    divisions: list[Division] = Field(default_factory=list)
    calibration: Calibration = Calibration()
    metrics: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str = ""
    files: list[FileEntry] = Field(default_factory=list)
    created_at: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (
            ("field", [field.name for field in self.fields]),
            ("division", [division.name for division in self.divisions]),
            ("domain", [domain for division in self.divisions for domain in division.domains]),
            ("file", [entry.name for entry in self.files]),
        ):
            if len(set(names)) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{what} {twice!r} stands twice")
        for division in self.divisions:
            _checked(check_division, division.name)
            for domain in division.domains:
                _checked(check_domain, domain)
        return self

    @model_validator(mode="after")
    def _kind_and_sizes_agree(self) -> Self:
        if (self.cross_layers is not None) != (self.kind in ("dcn", "dcn_v2")):
            raise ValueError(f"kinds dcn and dcn_v2 have cross_layers, and no other has; this is kind {self.kind!r}")
        if (self.attention is not None) != (self.kind == "autoint"):
            raise ValueError(f"kind autoint has attention, and no other has; this is kind {self.kind!r}")
        widths = {field.width for field in self.fields if field.kind != "dense" and not field.frozen}
        if self.kind in FIELD_VECTORS and len(widths) != 1:
            raise ValueError(f"kind {self.kind!r} needs one width of all trained tables; fields have {sorted(widths)}")
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is as it was before these keys existed is written without them: bytes and fingerprints stay."""
        content: dict[str, Any] = serialize(self)
        silent = {"norm": True, "cross_layers": None, "attention": None, "calibration": Calibration().model_dump()}
        return {key: value for key, value in content.items() if key not in silent or value != silent[key]}

    def division(self, name: str) -> Division | None:
        """The division of this name, or None."""
        return next((division for division in self.divisions if division.name == name), None)


class Pair(BaseModel):
    """One combination of auxiliary domains that has norms of its own.

    Args:
        domains: One domain (or null: absent) for each auxiliary division, in the manifest's order.
        rows: Training rows that its moments were taken from.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    domains: list[str | None] = Field(min_length=1)
    rows: Count = 0


class AdapterManifest(_Manifest):
    """Describes what is specific to one domain.

    Args:
        kind: `lora` (its own LoRAs and norms), `fused` (the same, norms per pair, and pins) or `delta` (what it adds to
            each of the backbone's weights). Any of them may carry an id overlay, which its tensors alone tell.
        mode: How divisions combine; `lora` and `delta` are always `single`, `fused` never.
        domain: Whose adapter it is.
        division: The division of that domain.
        fingerprint: Of the backbone that it was trained on.
        ranks: LoRA rank by module; none for a delta.
        auxiliary: Auxiliary divisions, in the order in which they are fused (and dropped, last first).
        pairs: Combinations with norms of their own; `pair.<i>.` tensors belong to `pairs[i]`.
        fuses: Pinned adapters: auxiliary domain to revision.
        fusion: Pinned fusion: for mode `attention`; for a `lora` of an auxiliary division the one trained with it,
            which weighs it where it serves a domain without a natural adapter.
        golden_divisions: Per auxiliary division the domains that `golden.division.<name>` counts.
        strength: Already folded into the tensors, recorded only.
        calibration: Applied to the logit by the engine.
        metrics: What evaluation found.
        gate: What the publish gate found, or null.
        training: How it was trained.
        created_at: RFC 3339 time, or null.
    """

    kind: Literal["lora", "fused", "delta"]
    mode: Literal["attention", "add", "avg", "single"] = "single"
    domain: str
    division: str
    fingerprint: str
    ranks: dict[str, Rank] = Field(default_factory=dict)
    auxiliary: list[str] = Field(default_factory=list)
    pairs: list[Pair] = Field(default_factory=list)
    fuses: dict[str, str] = Field(default_factory=dict)
    fusion: str | None = None
    golden_divisions: dict[str, list[str]] = Field(default_factory=dict)
    strength: float = Field(default=1.0, ge=0, le=1)
    calibration: Calibration = Calibration()
    metrics: dict[str, Any] = Field(default_factory=dict)
    gate: dict[str, Any] | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    created_at: str | None = None

    @model_validator(mode="after")
    def _ids_are_ids(self) -> Self:
        _checked(check_domain, self.domain)
        _checked(check_division, self.division)
        _checked(check_revision, self.fingerprint)
        for domain, revision in self.fuses.items():
            _checked(check_domain, domain)
            _checked(check_revision, revision)
        if self.fusion is not None:
            _checked(check_revision, self.fusion)
        return self

    @model_validator(mode="after")
    def _kind_and_pins_agree(self) -> Self:
        if bool(self.ranks) != (self.kind != "delta"):
            raise ValueError("kinds 'lora' and 'fused' have ranks, kind 'delta' has none")
        if self.kind != "fused":
            for name in ("auxiliary", "pairs", "fuses", "fusion", "golden_divisions"):
                # whether a lora's division is auxiliary, so that it may pin a fusion, only its backbone tells
                if getattr(self, name) and (self.kind, name) != ("lora", "fusion"):
                    raise ValueError(f"kind {self.kind!r} has no {name}; kind 'fused' does")
            if self.mode != "single":
                raise ValueError(f"kind {self.kind!r} has mode 'single', not {self.mode!r}")
            return self
        if self.mode == "single" or not self.auxiliary:
            raise ValueError("kind 'fused' names its auxiliary divisions and has mode attention, add or avg")
        if (self.mode == "attention") != (self.fusion is not None):
            raise ValueError("mode 'attention' pins a fusion, and no other mode does")
        return self

    @model_validator(mode="after")
    def _divisions_agree(self) -> Self:
        if len({self.division, *self.auxiliary}) != len(self.auxiliary) + 1:
            raise ValueError("division and auxiliary must all be different divisions")
        if set(self.golden_divisions) != set(self.auxiliary):
            raise ValueError("golden_divisions must name exactly the auxiliary divisions")
        seen: set[tuple[str | None, ...]] = set()
        for i, pair in enumerate(self.pairs):
            combination = tuple(pair.domains)
            unpinned = [domain for domain in combination if domain is not None and domain not in self.fuses]
            if len(combination) != len(self.auxiliary):
                raise ValueError(
                    f"pairs.{i} names {len(combination)} domains for {len(self.auxiliary)} auxiliary divisions"
                )
            if unpinned:
                raise ValueError(f"pairs.{i} names domain {unpinned[0]!r}, which fuses does not pin")
            if combination in seen or not any(combination):
                raise ValueError(f"pairs.{i} is a repetition, or names no domain at all")
            seen.add(combination)
        return self


class FusionManifest(_Manifest):
    """Describes how the divisions' LoRA outputs combine; one artifact for all domains.

    Args:
        kind: Always `fusion`.
        fingerprint: Of the backbone that it was trained on.
        divisor: What divides q.k: the fusion rank, or its root.
        ranks: Fusion rank by module.
        divisions: The divisions that it was trained to fuse.
        metrics: What evaluation found.
        training: How it was trained.
        created_at: RFC 3339 time, or null.
    """

    kind: Literal["fusion"] = "fusion"
    fingerprint: str
    divisor: Literal["r", "sqrt_r"] = "r"
    ranks: dict[str, Rank] = Field(min_length=1)
    divisions: list[str] = Field(default_factory=list)
    metrics: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    created_at: str | None = None

    @model_validator(mode="after")
    def _ids_are_ids(self) -> Self:
        _checked(check_revision, self.fingerprint)
        for division in self.divisions:
            _checked(check_division, division)
        return self


class FeatureManifest(_Manifest):
    """Describes one layer of a feature table.

    Args:
        kind: Always `features`.
        side: Whose ids.
        layer: `full` stands alone; `delta` changes its parent.
        parent: Of a delta: the layer below, or the bundle's own file; null for a full one.
        deltas: Deltas down to the full layer, itself included.
        fingerprint: Of the backbone whose vocabulary its rows are of.
        rows: Ids that have a row here.
        deleted: Ids that a delta takes away.
        unknown_values: Field to how many of its values the vocabulary does not have.
        divisions: Division to its domains, as `division.<name>` counts them.
    """

    kind: Literal["features"] = "features"
    side: Literal["users", "items"]
    layer: Literal["full", "delta"]
    parent: str | None = None
    deltas: Count = 0
    fingerprint: str
    rows: Count
    deleted: Count = 0
    unknown_values: dict[str, Count] = Field(default_factory=dict)
    divisions: dict[str, list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _layer_and_parent_agree(self) -> Self:
        _checked(check_revision, self.fingerprint)
        if self.parent is not None:
            _checked(check_revision, self.parent)
        if (self.layer == "delta") != (self.parent is not None) or (self.layer == "delta") != (self.deltas > 0):
            raise ValueError("layer 'delta' names its parent and counts itself in deltas, layer 'full' does neither")
        if self.layer == "full" and self.deleted:
            raise ValueError("layer 'full' deletes nothing")
        return self


ManifestT = TypeVar("ManifestT", bound=_Manifest)


def parse_manifest(content: object, kind: type[ManifestT]) -> ManifestT:
    """Check parsed JSON as a manifest.

    Args:
        content: What `parse_json` returned.
        kind: Which manifest it must be.

    Returns:
        The manifest.

    Raises:
        MalformedArtifact: It is not one; the message names each key at fault.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise MalformedArtifact(f"manifest: {explain(error, kind)}") from None
    except RecursionError:
        raise MalformedArtifact("manifest: nested too deeply") from None


def manifest_content(manifest: BaseModel) -> dict[str, Any]:
    """The manifest as plain JSON values, unknown keys included, ready for `canonical_json`."""
    return manifest.model_dump(mode="json", by_alias=True)


def _checked(check: Any, text: str) -> str:
    try:
        return str(check(text))
    except BadId as error:
        raise ValueError(str(error)) from None
