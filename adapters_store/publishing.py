"""Publishes a finished training run: everything is verified first, then stored, then made live.

Repeating it is safe: artifacts are named by their digests, and what is live already stays as it is.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapters_store.artifact import Adapter, Fusion, decode_adapter, decode_fusion
from adapters_store.backbone import Backbone, read_bundle
from adapters_store.errors import ArtifactError, DigestMismatch, MalformedArtifact, StoreUnavailable
from adapters_store.store import AdapterStore
from adapters_store.verification import LogitsOf, verify_adapter, verify_backbone, verify_fusion

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
    """

    path: Path
    revision: str
    domain: str = ""
    division: str = ""


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
        status: `created`: it serves now and did not before; `unchanged`: it served already.
    """

    kind: Literal["bundle", "fusion", "adapter"]
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
        engine_of: Makes the engine for the bundle.
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
    run: VerifiedRun, store: AdapterStore, by: str, on_file: OnFile = lambda name: None
) -> list[Published]:
    """Store a run's artifacts, then make the bundle the default and each adapter live.

    Everything is stored before anything becomes visible, so an interruption leaves at worst unused blobs, or some
    domains on their new adapters; publishing again finishes it.

    Args:
        run: Verified.
        store: Where to.
        by: Who asks; recorded.
        on_file: Called after each file that is published.

    Returns:
        What each came to, in the order of publishing.

    Raises:
        DigestMismatch: A file changed since it was verified.
        WrongDomain: A domain is in use and of another division.
        StoreUnavailable: The store cannot be written; publish again.
    """
    results = [await _put_bundle(run, store)]
    if run.fusion is not None:
        known = await store.has(run.fusion.revision)
        await _put(store, run.fusion)
        results.append(Published("fusion", "fusion", run.fusion.revision, "unchanged" if known else "created"))
    for adapter in run.adapters:
        await _put(store, adapter)
    await store.set_default_backbone(run.revision, by)
    for result in results:
        on_file(result.name)
    for adapter in run.adapters:
        results.append(await _activate(store, adapter, by))
        on_file(adapter.path.name)
    return results


def _verify_adapters(
    paths: Sequence[Path], backbone: Backbone, fusion: Fusion | None, logits_of: LogitsOf, on_file: OnFile
) -> tuple[VerifiedFile, ...]:
    """Verify auxiliary adapters, then natural ones against them; of the latter one is in memory at a time."""
    natural = {division.name for division in backbone.manifest.divisions if division.natural}
    auxiliaries: dict[str, Adapter] = {}
    verified: dict[str, VerifiedFile] = {}
    later: list[Path] = []

    def verify(path: Path, adapter: Adapter) -> None:
        manifest = adapter.manifest
        verify_adapter(adapter, backbone, auxiliaries, fusion, logits_of)
        if manifest.domain in verified:
            raise MalformedArtifact(f"{verified[manifest.domain].path.name} is of domain {manifest.domain!r} too")
        verified[manifest.domain] = VerifiedFile(path, adapter.revision, manifest.domain, manifest.division)
        on_file(path.name)

    for path in paths:
        with _naming(path.name):
            adapter = decode_adapter(_read(path))
            if adapter.manifest.division in natural:
                later.append(path)
                continue
            verify(path, adapter)
            auxiliaries[adapter.manifest.domain] = adapter
    for path in later:
        with _naming(path.name):
            verify(path, decode_adapter(_read(path)))
    return tuple(verified.values())


async def _put_bundle(run: VerifiedRun, store: AdapterStore) -> Published:
    default = (await store.backbone_record()).default == run.revision
    if await store.put_bundle(run.bundle) != run.revision:
        raise DigestMismatch("the bundle changed after it was verified: publish again")
    return Published("bundle", "bundle", run.revision, "unchanged" if default else "created")


async def _put(store: AdapterStore, file: VerifiedFile) -> None:
    if await store.put(await asyncio.to_thread(_read, file.path)) != file.revision:
        raise DigestMismatch(f"{file.path.name} changed after it was verified: publish again")


async def _activate(store: AdapterStore, adapter: VerifiedFile, by: str) -> Published:
    before = await store.domain(adapter.domain)
    after = await store.set_live(adapter.domain, adapter.division, adapter.revision, by)
    unchanged = before is not None and before.generation == after.generation
    return Published("adapter", adapter.domain, adapter.revision, "unchanged" if unchanged else "created")


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
