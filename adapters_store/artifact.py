"""Adapters and fusions: one safetensors file each, whose one metadata entry is the manifest.

Decoding checks the form only; whether an artifact fits a backbone is `verification`'s question.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters_store.canonical import digest
from adapters_store.manifest import AdapterManifest, FusionManifest, manifest_content, parse_manifest
from adapters_store.pausing import Pause, no_pause
from adapters_store.structure import check_adapter, check_fusion
from adapters_store.tensors import Array, Bfloat16, TensorLimits, read_tensors, write_tensors

DEFAULT_LIMITS = TensorLimits()


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What is specific to one domain.

    Args:
        revision: sha256 of the file.
        manifest: What it says about itself.
        tensors: Name to array, as stored (BF16 decoded to float32).
        size_bytes: Of the file.
        folded: Filled by `folding`: per module and factor what this adapter gives to every combination it is part of.
        keys: Likewise: per module what it is found by in the latest fusion.
    """

    revision: str
    manifest: AdapterManifest
    tensors: dict[str, Array]
    size_bytes: int
    folded: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False, init=False)
    keys: dict[str, Any] = field(default_factory=dict, repr=False, init=False)


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """How the divisions' LoRA outputs combine; shared by all domains.

    Args:
        revision: sha256 of the file.
        manifest: What it says about itself.
        tensors: Name to array, as stored (BF16 decoded to float32).
        size_bytes: Of the file.
        queries: Filled by `folding`: per module the folded query, which depends on this fusion and the one backbone of
            its fingerprint only, so that all adapters of this fusion share the arrays.
    """

    revision: str
    manifest: FusionManifest
    tensors: dict[str, Array]
    size_bytes: int
    queries: dict[str, tuple[Array, Array]] = field(default_factory=dict, repr=False, init=False)


def encode_adapter(manifest: AdapterManifest, tensors: Mapping[str, Array | Bfloat16]) -> bytes:
    """Write an adapter file, and check it as a reader will.

    Args:
        manifest: What it says about itself.
        tensors: `<module>.{down (r,k), up (d,r), scale (d,), shift (d,)}`, `<module>.norm.{weight,bias,mean,var} (d,)`,
            for kind fused `pair.<i>.<module>.norm.*`, and the golden rows (docs/architecture.md).

    Returns:
        The file; its sha256 is the revision.

    Raises:
        ArtifactError: The tensors are not what the manifest says; named.
    """
    content = write_tensors(tensors, manifest_content(manifest))
    decode_adapter(content)
    return content


def decode_adapter(
    content: bytes | memoryview, limits: TensorLimits = DEFAULT_LIMITS, pause: Pause = no_pause
) -> Adapter:
    """Read an adapter file without trust.

    Args:
        content: The file.
        limits: What it may be at most.
        pause: Called between two steps.

    Returns:
        The adapter; its arrays are views of `content`.

    Raises:
        ArtifactError: It is refused; the message names the tensor, the place or the manifest key.
    """
    file = read_tensors(content, limits)
    pause()
    manifest = parse_manifest(file.metadata, AdapterManifest)
    check_adapter(manifest, file, limits)
    return Adapter(digest(content), manifest, file.tensors, len(content))


def encode_fusion(manifest: FusionManifest, tensors: Mapping[str, Array | Bfloat16]) -> bytes:
    """Write a fusion file, and check it as a reader will.

    Args:
        manifest: What it says about itself.
        tensors: `fusion.<module>.query` and `fusion.<module>.key`, each (rf, d).

    Returns:
        The file; its sha256 is the revision.

    Raises:
        ArtifactError: The tensors are not what the manifest says; named.
    """
    content = write_tensors(tensors, manifest_content(manifest))
    decode_fusion(content)
    return content


def decode_fusion(content: bytes | memoryview, limits: TensorLimits = DEFAULT_LIMITS) -> Fusion:
    """Read a fusion file without trust.

    Args:
        content: The file.
        limits: What it may be at most.

    Returns:
        The fusion; its arrays are views of `content`.

    Raises:
        ArtifactError: It is refused; the message names the tensor, the place or the manifest key.
    """
    file = read_tensors(content, limits)
    manifest = parse_manifest(file.metadata, FusionManifest)
    check_fusion(manifest, file, limits)
    return Fusion(digest(content), manifest, file.tensors, len(content))
