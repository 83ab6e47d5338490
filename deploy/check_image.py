"""Build the service's image for real, run it as Kubernetes would, score with it, and print each figure and its bound.

    sudo python3 deploy/check_image.py .demo/synthetic                 # base image from its registry
    sudo python3 deploy/check_image.py .demo/synthetic --debootstrap   # base made of Debian's packages, no registry

Needs buildah, podman and crun (and debootstrap); the folder is one that `espalier demo` has filled. Status 1 when a
bound does not hold. Everything it starts it ends; the images stay, so that a second call is quick.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "localhost/espalier:checked"
MINBASE = "localhost/debian-minbase:bookworm"
MOST_BYTES = 300_000_000
READY_S = 60
COLD_TRIES = 100
UNIFIED = Path("/sys/fs/cgroup/unified")


def said(*command: str | Path, **variables: str) -> str:
    """What a command prints; it ends the program when it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, **variables})
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout.strip()


def podman(*arguments: str | Path) -> str:
    """Run podman; where control groups are mounted in both versions, crun must not see the second."""
    if os.path.ismount(UNIFIED):
        return said("unshare", "--mount", "sh", "-c", f'umount -l {UNIFIED} && exec "$@"', "_", "podman", *arguments)
    return said("podman", *arguments)


def debian_minbase() -> str:
    """An image of Debian's minimal system, like debian:bookworm-slim, made without a registry of images."""
    if subprocess.run(["buildah", "inspect", "--type", "image", MINBASE], capture_output=True).returncode == 0:
        return MINBASE
    with tempfile.TemporaryDirectory() as folder:
        said("debootstrap", "--variant=minbase", "bookworm", folder)
        for left_out in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder, left_out))
            Path(folder, left_out).mkdir()
        said("chroot", folder, "apt-get", "clean")
        container = said("buildah", "from", "scratch")
        said("buildah", "copy", container, folder, "/")
        said("buildah", "config", "--cmd", "bash", container)
        said("buildah", "commit", "--rm", container, MINBASE)
    return MINBASE


def build(base: str | None, authorities: Path | None) -> None:
    """Build the Dockerfile's service from the working tree.

    Args:
        base: image in place of the Dockerfile's.
        authorities: PEM file that pip trusts beside its own, where a package index is reached through a proxy.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = [] if base is None else ["--build-arg", f"BASE={base}"]
        if authorities is not None:
            Path(folder, "pip.conf").write_text("[global]\ncert = /run/authorities.pem\n")
            options += ["--volume", f"{authorities}:/run/authorities.pem:ro"]
            options += ["--volume", f"{folder}/pip.conf:/etc/pip.conf:ro"]
        # the format of OCI has no health check
        fixed = ["--format", "docker", "--isolation", "chroot", "--layers", "--target", "service", "--tag", IMAGE]
        said("buildah", "build", *fixed, *options, ROOT)


def layers() -> list[tuple[int, str]]:
    """Size in bytes of every layer of the image, the base's first, and what made it."""
    history = json.loads(said("podman", "history", "--format", "json", IMAGE))
    return [(layer["size"], layer["CreatedBy"]) for layer in reversed(history) if layer["size"]]


@dataclass(frozen=True)
class Running:
    """A container that serves.

    Args:
        name: of the container.
        pid: of its first process, as this machine numbers it.
        url: where it answers.
    """

    name: str
    pid: int
    url: str


@contextmanager
def running(demo: Path, port: int) -> Iterator[Running]:
    """The image on a read-only root with no capability, over a copy of the demo's store."""
    name = f"espalier-check-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(demo / "store", Path(folder, "store"))
        shutil.copy(demo / "tokens.yaml", folder)
        said("chown", "-R", "10001:10001", folder)
        variables = {
            "STORE": "file:///demo/store",
            "TOKENS": "/demo/tokens.yaml",
            "PORT": str(port),
            "HOST": "127.0.0.1",
            "CACHE_DIR": "/var/cache/espalier/blobs",
        }
        limits = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "--cgroups", "disabled"]
        locked = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
        places = ["--network", "host", "--tmpfs", "/tmp:size=64m", "--volume", f"{folder}:/demo"]
        places += ["--volume", f"{name}:/var/cache/espalier"]
        told = [word for key, value in variables.items() for word in ("--env", f"ESPALIER_{key}={value}")]
        podman("run", "--detach", "--name", name, "--no-healthcheck", *limits, *locked, *places, *told, IMAGE)
        try:
            pid = int(said("podman", "inspect", "--format", "{{.State.Pid}}", name))
            yield Running(name, pid, f"http://127.0.0.1:{port}")
        finally:
            podman("rm", "--force", name)
            said("podman", "volume", "rm", "--force", name)


def wait_until_ready(container: Running) -> float:
    """Seconds until the service says ready."""
    started = time.monotonic()
    while time.monotonic() < started + READY_S:
        try:
            with urllib.request.urlopen(f"{container.url}/healthz/ready", timeout=1):
                return time.monotonic() - started
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    sys.exit(f"not ready after {READY_S} s:\n{said('podman', 'logs', container.name)}")


def score(container: Running, demo: Path) -> tuple[int, int, str | None]:
    """Status of a score request, how many scores came back, and what the adapter was replaced by (None: nothing)."""
    body = {"user_id": "1", "domain_id": first_domain(demo), "item_ids": ["1", "2", "3"]}
    headers = {"Authorization": f"Bearer {(demo / 'token').read_text().strip()}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{container.url}/score", json.dumps(body).encode(), headers)
    for _ in range(COLD_TRIES):
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = json.load(answer)
        # the first request of a domain may be answered by the backbone, while its adapter is fetched and verified
        if content["served"]["fallback"] != "loading":
            break
        time.sleep(0.1)
    return answer.status, len(content["scores"]), content["served"]["fallback"]


def first_domain(demo: Path) -> str:
    """A domain that the demo has published an adapter for."""
    manifest = json.loads((demo / "run" / "bundle" / "manifest.json").read_text())
    natural = next(division for division in manifest["divisions"] if division["natural"])
    return str(natural["domains"][0])


def facts_of(container: Running) -> dict[str, str]:
    """What the kernel says of the container's first process."""
    lines = Path(f"/proc/{container.pid}/status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    mounts = Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines()
    facts["root"] = next(line.split()[5].split(",")[0] for line in mounts if line.split()[4] == "/")
    return facts


def asked_itself(container: Running, port: int) -> int:
    """Status of the image's own health check, run inside the container."""
    own = [
        "/opt/espalier/bin/python",
        "/opt/espalier/healthcheck.py",
        "--config",
        "/etc/espalier/espalier.yaml",
        "ready",
    ]
    inside = ["nsenter", "--target", str(container.pid), "--mount", "--setuid", "10001", "--setgid", "10001"]
    return subprocess.run([*inside, "env", f"ESPALIER_PORT={port}", *own]).returncode


def main() -> int:
    """Build, run, score, stop; print each line; 1 when one does not hold."""
    arguments = argparse.ArgumentParser(description="Build and run the service's image, and hold it to its bounds.")
    arguments.add_argument("demo", type=Path, help="folder that `espalier demo` has filled")
    arguments.add_argument("--debootstrap", action="store_true", help="make the base image of Debian's packages")
    arguments.add_argument("--port", type=int, default=18_431)
    arguments.add_argument("--authorities", type=Path, default=os.environ.get("PIP_CERT"), help="PEM file for pip")
    given = arguments.parse_args()
    base = debian_minbase() if given.debootstrap else None
    build(base, given.authorities)
    first, *above = layers()
    size = sum(each for each, _ in above)
    print(f"base {first[0] / 1e6:.0f} MB; above it {', '.join(f'{each / 1e6:.1f}' for each, _ in above)} MB")
    with running(given.demo, given.port) as container:
        ready_s = wait_until_ready(container)
        facts = facts_of(container)
        status, scores, fallback = score(container, given.demo)
        healthy = asked_itself(container, given.port)
        podman("stop", "--time", "20", container.name)
        ended = said("podman", "inspect", "--format", "{{.State.ExitCode}}", container.name)
    lines = [
        ("layers above the base image, MB", round(size / 1e6, 1), "<= 300", size <= MOST_BYTES),
        ("user", facts["Uid"].split()[0], "10001", facts["Uid"].split() == ["10001"] * 4),
        ("root filesystem", facts["root"], "ro", facts["root"] == "ro"),
        ("capabilities", facts["CapBnd"], "none", int(facts["CapBnd"], 16) == 0),
        ("seccomp mode", facts["Seccomp"], "2 (filter)", facts["Seccomp"] == "2"),
        ("ready after, s", round(ready_s, 2), f"<= {READY_S}", True),
        ("score request", f"{status}, {scores} scores", "200, 3 scores", (status, scores) == (200, 3)),
        ("scored by", fallback or "the live adapter", "the live adapter", fallback is None),
        ("health check", healthy, "0", healthy == 0),
        ("status after SIGTERM", ended, "0", ended == "0"),
    ]
    for name, figure, bound, holds in lines:
        print(f"{name:34} {figure!s:>20} {bound:>16}  {'holds' if holds else 'FALLS SHORT'}")
    return int(not all(holds for *_, holds in lines))


if __name__ == "__main__":
    sys.exit(main())
