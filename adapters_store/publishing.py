"""Publishes a finished training run: everything is verified first, then stored, then made live.

Repeating it is safe: artifacts are named by their digests, and what is live already stays as it is.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapters_store.artifact import DEFAULT_LIMITS, Adapter, Fusion, decode_adapter, decode_fusion
from adapters_store.backbone import Backbone, read_bundle
from adapters_store.errors import ArtifactError, DigestMismatch, MalformedArtifact, StoreUnavailable
from adapters_store.shipping import (
    OnStep,
    Parcel,
    Shipped,
    activate_parcels,
    release_parcels,
    silent,
    store_parcels,
)
from adapters_store.store import AdapterStore
from adapters_store.tensors import read_tensors
from adapters_store.verification import LogitsOf, verify_adapter, verify_backbone, verify_fusion

# Adapters that are verified at once: an engine's runs let go of the interpreter, decoding and folding do not.
_THREADS = 4

EngineOf = Callable[[Backbone], LogitsOf]
OnFile = Callable[[str], None]
"""Called with the name of each file when it is done."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Where a run's artifacts are.

    Args:
        bundle: Folder.
        fusion: File, or None where the run has none.
        adapters: Files, sorted by name.
    """

    bundle: Path
    fusion: Path | None
    adapters: tuple[Path, ...]

    def __len__(self) -> int:
        return 1 + (self.fusion is not None) + len(self.adapters)


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """An adapter or fusion file that may serve.

    Args:
        path: Where it is.
        revision: Digest of its bytes when they were verified.
        domain: Whose adapter; empty for a fusion.
        division: Of that domain.
        pins: Auxiliary domain to revision that it pins.
        fusion: That it pins, or None.
    """

    path: Path
    revision: str
    domain: str = ""
    division: str = ""
    pins: Mapping[str, str] = field(default_factory=dict)
    fusion: str | None = None


@dataclass(frozen=True, slots=True)
class VerifiedRun:
    """A run all of whose artifacts were verified with an engine.

    Args:
        bundle: Folder.
        revision: Of the bundle.
        fusion: The fusion, or None.
        adapters: Auxiliary divisions' before natural ones', since those are pinned by these.
    """

    bundle: Path
    revision: str
    fusion: VerifiedFile | None
    adapters: tuple[VerifiedFile, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing one artifact came to.

    Args:
        kind: Of the artifact.
        name: Domain of an adapter, else the kind.
        revision: Of the artifact.
        status: `created`: it serves now (of a release: it is stored now) and did not before; `unchanged`: it did.
    """

    kind: Literal["bundle", "fusion", "adapter", "release"]
    name: str
    revision: str
    status: Literal["created", "unchanged"]


def find_run(run: Path) -> RunFiles:
    """List the artifacts of a run folder.

    Args:
        run: What `espalier train all` wrote.

    Returns:
        Its files; nothing of them is read yet.

    Raises:
        MalformedArtifact: It has no bundle or no adapter.
    """
    files = RunFiles(
        run / "bundle",
        run / "fusion.safetensors" if (run / "fusion.safetensors").exists() else None,
        tuple(sorted((run / "adapters").glob("*.safetensors"))),
    )
    if not (files.bundle / "manifest.json").exists():
        raise MalformedArtifact(f"{run} has no bundle/manifest.json: name the folder that `espalier train all` wrote")
    if not files.adapters:
        raise MalformedArtifact(f"{run} has no adapters/*.safetensors: run `espalier train all` to its end")
    return files


def verify_run(files: RunFiles, engine_of: EngineOf, on_file: OnFile = lambda name: None) -> VerifiedRun:
    """Verify every artifact of a run as a replica will.

    Args:
        files: Where they are.
        engine_of: Makes the engine for the bundle; it is asked by several threads at once.
        on_file: Called after each file.

    Returns:
        The run, ready to be published.

    Raises:
        ArtifactError: One is refused; file and fault named.
        StoreUnavailable: One cannot be read.
    """
    backbone = read_bundle(files.bundle)
    logits_of = engine_of(backbone)
    with _naming("bundle"):
        verify_backbone(backbone, logits_of)
    on_file("bundle")
    fusion = None
    if files.fusion is not None:
        with _naming(files.fusion.name):
            fusion = decode_fusion(_read(files.fusion))
            verify_fusion(fusion, backbone)
        on_file(files.fusion.name)
    adapters = _verify_adapters(files.adapters, backbone, fusion, logits_of, on_file)
    kept = VerifiedFile(files.fusion, fusion.revision) if files.fusion and fusion else None
    return VerifiedRun(files.bundle, backbone.revision, kept, adapters)


async def publish_run(
    run: VerifiedRun,
    store: AdapterStore,
    by: str,
    on_step: OnStep = silent,
    as_release: bool = False,
    stage: bool = True,
) -> list[Published]:
    """Store a run's artifacts, then make the bundle the default and each adapter live.

    Everything is stored before anything becomes visible, so an interruption leaves at worst unused blobs, or some
    domains on their new adapters; publishing again sends only what is missing and finishes it.

    Args:
        run: Verified.
        store: Where to.
        by: Who asks; recorded.
        on_step: Called as artifacts are `stored`, each once, and as adapters are `activated`.
        as_release: Make one fleet release of the adapters instead, and leave the domains' records alone; the bundle
            becomes the default only where there is none.
        stage: Let replicas prepare that release.

    Returns:
        What each came to, in the order of publishing; a release comes last.

    Raises:
        DigestMismatch: A file changed since it was verified.
        WrongDomain: A domain is in use and of another division.
        Frozen: Changes are stopped.
        StoreUnavailable: The store cannot be written; publish again.
    """
    shipped = Shipped()
    parcels = [Parcel(one.domain, one.division, one.revision, one.path, one.pins, one.fusion) for one in run.adapters]
    results = [await _put_bundle(run, store)]
    on_step("stored", 1)
    if run.fusion is not None:
        before = shipped.there
        await store_parcels([Parcel("", "", run.fusion.revision, run.fusion.path)], store, shipped, on_step)
        known = shipped.there > before
        results.append(Published("fusion", "fusion", run.fusion.revision, "unchanged" if known else "created"))
    there = await _there(store, run.adapters) if as_release else set()
    await store_parcels(parcels, store, shipped, on_step)
    if not as_release or (await store.backbone_record()).default is None:
        await store.set_default_backbone(run.revision, by)
    if as_release:
        results += [_stored(one, one.revision in there) for one in run.adapters]
        release = await release_parcels(parcels, store, by, stage)
        results.append(Published("release", "release", release, "created"))
    else:
        outcomes = await activate_parcels(parcels, store, by, on_step)
        results += [_stored(one, not done.changed) for one, done in zip(run.adapters, outcomes, strict=True)]
    return results


def _verify_adapters(
    paths: Sequence[Path], backbone: Backbone, fusion: Fusion | None, logits_of: LogitsOf, on_file: OnFile
) -> tuple[VerifiedFile, ...]:
    """Verify auxiliary adapters, then natural ones against them, several at once; of those few are in memory."""
    natural = {division.name for division in backbone.manifest.divisions if division.natural}
    auxiliaries: dict[str, Adapter] = {}
    verified: dict[str, VerifiedFile] = {}
    later: list[Path] = []

    def checked(path: Path) -> tuple[VerifiedFile, Adapter]:
        with _naming(path.name):
            adapter = decode_adapter(_read(path))
            verify_adapter(adapter, backbone, auxiliaries, fusion, logits_of)
        manifest = adapter.manifest
        named = (manifest.domain, manifest.division, manifest.fuses, manifest.fusion)
        return VerifiedFile(path, adapter.revision, *named), adapter

    def take(one: VerifiedFile) -> None:
        if one.domain in verified:
            with _naming(one.path.name):
                raise MalformedArtifact(f"{verified[one.domain].path.name} is of domain {one.domain!r} too")
        verified[one.domain] = one
        on_file(one.path.name)

    for path in paths:
        if _division_of(path) in natural:
            later.append(path)
            continue
        one, adapter = checked(path)
        take(one)
        auxiliaries[one.domain] = adapter
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "espalier-verify") as pool:
        try:
            for one in pool.map(lambda path: checked(path)[0], later):
                take(one)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # one refusal is enough
            raise
    return tuple(verified.values())


def _division_of(path: Path) -> object:
    """What an adapter file says of its division; only its header is read."""
    with _naming(path.name):
        said = read_tensors(path, DEFAULT_LIMITS).metadata
    return said.get("division") if isinstance(said, dict) else None


async def _put_bundle(run: VerifiedRun, store: AdapterStore) -> Published:
    default = (await store.backbone_record()).default == run.revision
    if await store.put_bundle(run.bundle) != run.revision:
        raise DigestMismatch("the bundle changed after it was verified: publish again")
    return Published("bundle", "bundle", run.revision, "unchanged" if default else "created")


def _stored(adapter: VerifiedFile, before: bool) -> Published:
    return Published("adapter", adapter.domain, adapter.revision, "unchanged" if before else "created")


async def _there(store: AdapterStore, adapters: Sequence[VerifiedFile]) -> set[str]:
    return await store.has_many([adapter.revision for adapter in adapters])


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except ArtifactError as error:
        raise type(error)(f"{name}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreUnavailable(f"cannot read {path.name}: {error.strerror}") from error
