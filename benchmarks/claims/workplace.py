"""Where the claims run: a work folder, the commands of this checkout, and a server started for one claim."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]


class ClaimError(RuntimeError):
    """A command that a claim needs did not do its work; the message carries the end of its log."""


@dataclass(frozen=True)
class Workplace:
    """Folders of one run of the claims.

    Args:
        folder: everything the claims write.
        reuse: take finished training runs found in `folder` (for work on the claims themselves; printed when used).
        quick: sizes and times so small that the groups show only that they run.
        secrets: every token and password that the claims used, by what it opens.
    """

    folder: Path
    reuse: bool = False
    quick: bool = False
    secrets: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def data(self) -> Path:
        """The shared real data: beside the checkout, or where ESPALIER_DATA_DIR says."""
        return Path(os.environ.get("ESPALIER_DATA_DIR", ROOT.parent / "shared" / "data"))

    def password(self, of: str) -> str:
        """A new password, remembered among the secrets."""
        return self.secrets.setdefault(f"password of {of}", secrets.token_urlsafe(16))

    def espalier(self, *arguments: str, timeout_s: float = 3600) -> float:
        """Run the command line of this checkout; seconds it took."""
        command = [str(Path(sys.executable).with_name("espalier")), *arguments]
        return run(command, ROOT, self.folder / f"{arguments[0]}.log", timeout_s)

    def config(self, name: str, **changes: Any) -> Path:
        """A packaged training configuration with some top-level keys changed, as a file in the work folder."""
        settings = yaml.safe_load((ROOT / "training" / "configs" / f"{name}.yaml").read_text())
        settings.update(changes)
        digest = "-".join(f"{k}={v}" for k, v in sorted(changes.items()))
        path = self.folder / f"{name}-{digest or 'as-packaged'}.yaml".replace("/", "_")
        path.write_text(yaml.safe_dump(settings))
        return path


def run(
    command: Sequence[str], cwd: Path, log: Path, timeout_s: float, environment: Mapping[str, str] | None = None
) -> float:
    """Run to the end, its output in `log`; seconds it took.

    Raises:
        ClaimError: it failed or ran longer than `timeout_s`.
    """
    started = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        try:
            subprocess.run(command, cwd=cwd, stdout=sink, stderr=sink, check=True, timeout=timeout_s, env=environment)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            tail = log.read_text(errors="replace")[-3000:]
            raise ClaimError(f"{' '.join(command)}: {error}\n{tail}") from error
    return time.monotonic() - started


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A running `espalier serve`."""

    url: str
    pid: int
    token: str
    started_in_s: float

    @property
    def headers(self) -> dict[str, str]:
        """The bearer token of a publisher."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def resident_bytes(self) -> int:
        """Resident memory now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def reset_peak(self) -> None:
        """Start measuring `peak_bytes` afresh (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def peak_bytes(self) -> int:
        """Peak resident memory since `reset_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

    def maps(self, needle: str) -> bool:
        """Whether the process has a file mapped whose path contains `needle`."""
        return needle in Path(f"/proc/{self.pid}/maps").read_text()


@contextlib.contextmanager
def serving(
    work: Workplace,
    store: str,
    *,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
    core: int | None = None,
    **settings: str,
) -> Iterator[Server]:
    """A server over `store` on a loopback port, with one token that may do everything; stopped at the end.

    Args:
        port: where it listens; a free one by default.
        environment: variables beside those of this process, such as a store's credentials.
        core: the one processor that it may use; all by default.
        settings: further settings, by the name behind the ESPALIER_ prefix.
    """
    port = port or free_port()
    tokens = work.folder / f"tokens-{port}.yaml"
    token = new_token(work, tokens)
    variables = {**os.environ, **(environment or {}), **{f"ESPALIER_{k.upper()}": v for k, v in settings.items()}}
    variables["ESPALIER_STORE"] = store  # not as an option: its password would stand in the list of processes
    # through taskset, so that threads started at import are bound as well
    command = [] if core is None else ["taskset", "--cpu-list", str(core)]
    command += [str(Path(sys.executable).with_name("espalier")), "serve"]
    command += ["--port", str(port), "--tokens", str(tokens)]
    log = work.folder / f"serve-{port}.log"
    started = time.monotonic()
    with log.open("ab") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, env=variables)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, process, log, timeout_s=60)
        yield Server(url, process.pid, token, time.monotonic() - started)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def new_token(work: Workplace, tokens: Path) -> str:
    """Make a token with every scope; its hash goes into the file `tokens`."""
    tokens.unlink(missing_ok=True)
    command = [
        str(Path(sys.executable).with_name("espalier")),
        "token",
        "new",
        "--name",
        "claims",
        "--out",
        str(tokens),
    ]
    for scope in ("score", "read", "publish:*", "admin"):
        command += ["--scope", scope]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    token = done.stdout.split()[-1]
    work.secrets[f"token of {tokens.name}"] = token
    return token


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    """Until /healthz/ready answers 200.

    Raises:
        ClaimError: the process ended, or the time is over.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ClaimError(f"the server ended with {process.returncode}\n{log.read_text(errors='replace')[-3000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz/ready").status_code == 200:
                return
        time.sleep(0.02)
    raise ClaimError(f"the server at {url} was not ready in {timeout_s} s\n{log.read_text(errors='replace')[-3000:]}")
