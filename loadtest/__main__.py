"""`python -m loadtest`, which is `make load`: train a small world, serve it, find the knee, and hold it under load.

Everything here is a command of its own: `espalier` for the server, `locust` for the load.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

ROOM = Path(__file__).parent
READY_S = 60.0
SPARE_S = 120.0
# room for the popular domains, but so little that cold ones are evicted again before their next turn
MEMORY_BYTES = 32 << 20
COPIES = 200


class Failed(Exception):
    """A command did not do its work; the message says which, and where its log is."""


@dataclass(frozen=True)
class Target:
    """A running server.

    Args:
        url: of it.
        pid: of its process.
        home: folder with the token and the catalogue.
    """

    url: str
    pid: int
    home: Path


def main() -> int:
    """Run it all; the exit code is 0 only if every assertion of every test held."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".load"), help="everything that is written")
    parser.add_argument("--stages", type=int, default=14, help="steps at most")
    parser.add_argument("--stage-s", type=float, default=5.0, help="how long a step lasts")
    parser.add_argument("--spike-s", type=float, default=5.0, help="how long each part of the spike lasts")
    parser.add_argument("--soak-s", type=float, default=30.0, help="how long the soak lasts")
    parser.add_argument(
        "--p99-ms",
        type=float,
        default=50.0,
        help="bound of p99 that the knee is found by; the spike and the soak get twice that",
    )
    chosen = parser.parse_args()
    home = chosen.folder.resolve()
    try:
        prepare(home)
        with serving(home) as target:
            return run(target, chosen)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2


def prepare(home: Path) -> None:
    """A trained run, a store with it and with cold domains, a token and a catalogue; the run is trained once."""
    home.mkdir(parents=True, exist_ok=True)
    data, run, store = str(home / "data"), home / "run", (home / "store").as_uri()
    if not (run / "report.json").exists():
        espalier(home, "data", "prepare", "synthetic", "--domains", "24", "--rows", "120000", "--out", data)
        resume = ["--resume"] if run.exists() else []
        config = str(ROOM / "training.yaml")
        espalier(home, "train", "all", "--config", config, "--data", data, "--out", str(run), *resume)
    espalier(home, "publish", str(run), "--store", store)
    catalogue = str(home / "catalogue")
    espalier(home, "load-catalogue", "--store", store, "--out", catalogue, "--copies", str(COPIES))
    (home / "tokens.yaml").unlink(missing_ok=True)
    scopes = ["--scope", "score", "--scope", "read", "--scope", "publish:*"]
    told = espalier(home, "token", "new", "--name", "load", *scopes, "--out", str(home / "tokens.yaml"))
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(told.split()[-1] + "\n")


def run(target: Target, chosen: argparse.Namespace) -> int:
    """Steps to the knee, a spike past it, a soak below it."""
    bound = ["--p99-ms", str(chosen.p99_ms)]
    steps = ["--stages", str(chosen.stages), "--stage-s", str(chosen.stage_s)]
    found, code = test(target, "step", [*steps, *bound], chosen.stages * chosen.stage_s)
    if found["knee"] is None:
        return code or 1
    knee = found["knee"]["load"]
    # the bound that finds the knee is met there with nothing to spare; below it, what else runs on a machine gets room
    bound = ["--p99-ms", str(2 * chosen.p99_ms)]
    spike = ["--load", f"{knee / 2:.1f}", "--factor", "3", "--stage-s", str(chosen.spike_s)]
    _, spiked = test(target, "spike", [*spike, *bound], 3 * chosen.spike_s)
    soak = ["--load", f"{knee * 0.6:.1f}", "--soak-s", str(chosen.soak_s)]
    _, soaked = test(target, "soak", [*soak, *bound], chosen.soak_s)
    print(f"reports and plots: {target.home}")
    return max(code, spiked, soaked)


def test(target: Target, shape: str, options: Sequence[str], seconds: float) -> tuple[Mapping[str, Any], int]:
    """One Locust process: its results and its exit code.

    Raises:
        Failed: it wrote no results, or did not end.
    """
    home = target.home
    results, log = home / f"{shape}.json", home / f"{shape}.log"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(ROOM / "locustfile.py"), "--headless", "--only-summary"]
    command += ["--host", target.url, "--html", str(home / f"{shape}.html"), "--logfile", str(log)]
    command += ["--catalogue", str(home / "catalogue" / "catalogue.json"), "--token-file", str(home / "token")]
    command += ["--results", str(results), "--server-pid", str(target.pid), "--shape", shape, *options]
    heading(f"{shape}: about {seconds:.0f} s")
    try:
        code = subprocess.run(command, timeout=seconds + SPARE_S).returncode
    except subprocess.TimeoutExpired:
        raise Failed(f"the {shape} did not end; its log: {log}") from None
    if not results.exists():
        raise Failed(f"the {shape} ended with {code} and without results; its log: {log}")
    subprocess.run([sys.executable, "-m", "loadtest.plot", str(results), str(home / f"{shape}.png")], check=True)
    content: dict[str, Any] = json.loads(results.read_text())
    return content, code


def espalier(home: Path, *arguments: str) -> str:
    """Run a command of Espalier to its end; what it printed.

    Raises:
        Failed: it did not succeed.
    """
    heading(f"espalier {' '.join(itertools.takewhile(lambda argument: not argument.startswith('-'), arguments))}")
    log = home / "prepare.log"
    with log.open("a") as errors:
        command = [str(program()), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, stdin=subprocess.DEVNULL)
        errors.write(done.stdout if arguments[0] != "token" else "")  # a token is shown to its owner only
    if done.returncode:
        raise Failed(f"espalier {' '.join(arguments)} failed; its log: {log}")
    return done.stdout


@contextmanager
def serving(home: Path) -> Iterator[Target]:
    """A server on a free loopback port; stopped at the end.

    Raises:
        Failed: it does not become ready.
    """
    port, log = free_port(), home / "serve.log"
    command = [str(program()), "serve", "--store", (home / "store").as_uri(), "--port", str(port)]
    command += ["--tokens", str(home / "tokens.yaml")]
    variables = {**environ, "ESPALIER_MEMORY_BYTES": str(MEMORY_BYTES)}
    with log.open("w") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=sink, env=variables, stdin=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        if not is_ready(server, f"{url}/healthz/ready"):
            raise Failed(f"the server did not become ready; its log: {log}")
        yield Target(url, server.pid, home)
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def is_ready(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server says that it is ready; False when it ended or took too long."""
    until = time.monotonic() + READY_S
    while server.poll() is None and time.monotonic() < until:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
        time.sleep(0.1)
    return False


def program() -> Path:
    """The `espalier` command of this environment."""
    return Path(sys.executable).with_name("espalier")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def heading(text: str) -> None:
    """Say what comes next."""
    print(f"--- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
