"""`espalier demo`: the whole path on one machine, from data to a scoring server."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False, soft_wrap=True)


def demo(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 8000,
    data: Annotated[
        Path | None, typer.Option(help="Folder of MovieLens-1M; without it, planted synthetic domains.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Everything the demo writes; a second call reuses it.")] = Path(".demo"),
) -> None:
    """Prepare data, train, publish to a file store, and serve it until Ctrl-C."""
    name = "synthetic" if data is None else "movielens-1m"
    home = folder.resolve() / (
        name if data is None else f"{name}-{hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]}"
    )
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        console.print(
            f"[red]The demo cannot write to {home}: {error.strerror}. Choose another --folder.", soft_wrap=True
        )
        raise typer.Exit(1) from None
    prepared, run, store = home / "data", home / "run", (home / "store").as_uri()
    if not (prepared / "spec.json").exists():
        source = [] if data is None else ["--source", str(data)]
        step("Preparing the data", "data", "prepare", name, *source, "--out", str(prepared))
    if not (run / "report.json").exists():
        with resources.as_file(resources.files("training") / "configs" / f"{name}.yaml") as config:
            resume = ["--resume"] if run.exists() else []
            options = ["--config", str(config), "--data", str(prepared), "--out", str(run), *resume]
            step("Training backbone, adapters and fusion", "train", "all", *options)
    step("Publishing to the file store", "publish", str(run), "--store", store)
    tokens, token = home / "tokens.yaml", home / "token"
    if not (tokens.exists() and token.exists()):
        make_token(tokens, token)
    serve(home, store, port, tokens)


def step(title: str, *arguments: str) -> None:
    """Run one subcommand in a process of its own: what it imports (torch) is gone when it ends."""
    console.rule(f"[bold]{title}")
    started = time.monotonic()
    with running(sys.executable, "-m", "cli.main", *arguments) as child:
        status = child.wait()
    if status:
        console.print(f"[red]`espalier {' '.join(arguments)}` failed; the demo stops here.")
        # as a shell says that a signal ended it
        raise typer.Exit(status if status > 0 else 128 - status)
    console.print(f"[dim]{time.monotonic() - started:.0f} s")


def make_token(tokens: Path, token: Path) -> None:
    """A token that may score, read and publish; its hash goes to the server, the token to a file only you can read."""
    tokens.unlink(missing_ok=True)
    command = [sys.executable, "-m", "cli.main", "token", "new", "--name", "demo", "--out", str(tokens)]
    for scope in ("score", "read", "publish:*"):
        command += ["--scope", scope]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    token.touch(mode=0o600)
    token.write_text(done.stdout.split()[-1] + "\n")


def serve(home: Path, store: str, port: int, tokens: Path) -> None:
    """Start the server, print how to use it once it is ready, and stop it on Ctrl-C."""
    console.rule("[bold]Starting the server")
    options = ["--store", store, "--port", str(port), "--tokens", str(tokens)]
    status = 0
    with suppress(KeyboardInterrupt), running(sys.executable, "-m", "cli.main", "serve", *options) as server:
        if ready(server, port):
            explain(home, port)
        status = server.wait()
    if status:
        console.print("[red]The server ended with an error; its last lines stand above.")
        raise typer.Exit(status if status > 0 else 128 - status)
    console.print("Stopped.")


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that does not outlive this one: what stops us stops it, and is waited for."""
    stopped: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        for child in started:
            child.terminate()

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        child = subprocess.Popen(command)
        started.append(child)
        if stopped:
            child.terminate()
        yield child
    except KeyboardInterrupt:
        # the terminal has sent the interrupt to the child too
        for each in started:
            each.wait()
        raise
    finally:
        for number, taken in before.items():
            signal.signal(number, taken)


def ready(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server says that it is ready; False when it ended before."""
    import httpx

    while server.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz/ready", timeout=1).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    return False


def explain(home: Path, port: int) -> None:
    """Print commands that work as they stand: a score, a publish, and where the report is."""
    from adapters_store.backbone import read_bundle
    from features.index import RawIndex

    bundle = read_bundle(home / "run" / "bundle")
    domain = next(d for d in bundle.manifest.divisions if d.natural).domains[0]
    user = RawIndex.from_tensors(bundle.tensors("users"), "index").raw(0)
    index = RawIndex.from_tensors(bundle.tensors("items"), "index")
    items = [index.raw(i) for i in range(min(3, len(index)))]
    body = json.dumps({"user_id": user, "domain_id": domain, "item_ids": items})
    token = f'-H "Authorization: Bearer $(cat {shown(home / "token")})"'
    url = f"http://127.0.0.1:{port}"
    console.rule("[bold green]Ready")
    console.print("Score three items for a user in a domain:\n")
    console.print(f"  curl -s {token} {url}/score -d '{body}'\n", markup=False)
    other = another_adapter(home / "run", domain)
    if other is not None:
        revision = hashlib.sha256(other.read_bytes()).hexdigest()
        console.print("Publish another adapter for that domain (then score again: `served.revision` has changed):\n")
        path = f"{url}/adapters/{domain}?revision={revision}"
        console.print(f"  curl -s {token} {path} --data-binary @{shown(other)}\n", markup=False)
    console.print(f"Report of the training run: {shown(home / 'run' / 'report.md')}")
    console.print(f"API: {url}/docs   metrics: {url}/metrics   Ctrl-C stops the server.")


def another_adapter(run: Path, domain: str) -> Path | None:
    """An adapter of the domain in another mode than the one that the run published."""
    live = (run / "adapters" / f"{domain}.safetensors").read_bytes()
    found = (run / "ablations" / mode / f"{domain}.safetensors" for mode in ("attention", "add", "avg", "single"))
    return next((path for path in found if path.exists() and path.read_bytes() != live), None)


def shown(path: Path) -> str:
    """The path as seen from the current folder, where it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
