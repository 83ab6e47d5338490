"""`espalier publish`: from a finished training run to a store that replicas read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapters_store.backbone import Backbone
from adapters_store.errors import StoreError
from adapters_store.publishing import Published, find_run, publish_run, verify_run
from adapters_store.store import AdapterStore
from adapters_store.verification import LogitsOf
from cli.audit import audited, author
from cli.progress import progress_bar
from cli.stores import StoreUrl, refused, with_store
from service.logs import AuditEntry

COMMAND = "espalier publish"


def publish(
    run: Annotated[Path, typer.Argument(help="Folder that `espalier train all` wrote.")],
    store: StoreUrl,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify everything, write nothing.")] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Store and stage them as one release; `espalier release flip` follows.")
    ] = False,
) -> None:
    """Verify a run's bundle, fusion and adapters with the onnx engine, and make them live.

    Safe to repeat: what is stored already is not sent again, so a publish that was cut off goes on.
    """
    # the engine loads ONNX Runtime: only once this command really runs
    from service.engines.onnx import OnnxEngine
    from service.errors import ServiceError

    def engine_of(backbone: Backbone) -> LogitsOf:
        return OnnxEngine(backbone).logits

    console = Console(highlight=False)
    try:
        files = find_run(run)
        with progress_bar(console) as progress:
            task = progress.add_task("verifying", total=len(files))
            verified = verify_run(files, engine_of, lambda name: progress.advance(task))
    except (StoreError, ServiceError) as error:
        raise refused(error) from error
    if dry_run:
        console.print(
            f"verified: bundle {verified.revision[:12]} and {len(verified.adapters)} adapters; nothing written"
        )
        return
    with progress_bar(console) as progress:
        tasks = {"stored": progress.add_task("storing", total=len(files))}
        if not release:
            tasks["activated"] = progress.add_task("activating", total=len(files.adapters))

        def advance(what: str, more: int) -> None:
            progress.advance(tasks[what], more)

        by = author(COMMAND)

        async def work(opened: AdapterStore) -> list[Published]:
            with audited("publish_run", by, store) as entry:
                before = (await opened.backbone_record()).default
                published = await publish_run(verified, opened, by, advance, as_release=release)
                entry.moved(before, (await opened.backbone_record()).default)
                tell(entry, published)
            if not release:
                tell_adapters(by, store, published)
            return published

        results = with_store(store, work, create=True)
    if release:
        _say_release(console, results)
    else:
        _say(console, results)


def tell(entry: AuditEntry, results: list[Published]) -> None:
    """Complete the audit line of a run: its bundle, its release if it is one, and how many adapters are new."""
    entry.done(
        "unchanged" if all(result.status == "unchanged" for result in results) else "changed",
        revision=results[0].revision,
        release=next((result.revision for result in results if result.kind == "release"), None),
        adapters=sum(result.kind == "adapter" and result.status == "created" for result in results),
    )


def tell_adapters(by: str, store: str, results: list[Published]) -> None:
    """An audit line for each adapter that became live; what it replaced heads its record's history."""
    for result in results:
        if result.kind == "adapter" and result.status == "created":
            with audited(
                "publish", by, store, domain=result.name, revision=result.revision, to=result.revision
            ) as entry:
                entry.done("changed")


def _say(console: Console, results: list[Published]) -> None:
    bundle = results[0]
    adapters = Counter(result.status for result in results if result.kind == "adapter")
    if all(result.status == "unchanged" for result in results):
        console.print(f"nothing to do: all {len(results)} artifacts are live already")
        return
    is_new = "is now the default" if bundle.status == "created" else "was the default already"
    console.print(f"bundle {bundle.revision[:12]} {is_new}")
    console.print(f"adapters: {adapters['created']} now live, {adapters['unchanged']} unchanged")


def _say_release(console: Console, results: list[Published]) -> None:
    adapters = Counter(result.status for result in results if result.kind == "adapter")
    (release,) = (result.revision for result in results if result.kind == "release")
    console.print(f"adapters: {adapters['created']} stored now, {adapters['unchanged']} were there already")
    console.print(f"release {release} is staged; nothing is scored by it yet", soft_wrap=True)
    console.print("see how far the replicas are: espalier release show; make it live: espalier release flip")
