"""compose.yaml and what it mounts: two replicas, their store, Prometheus and Grafana."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from service.settings import FOREIGN_VARIABLES, PREFIX, Settings
from tests.helm.settings_schema import CHART

ROOT = CHART.parents[1]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_compose_reads_the_file() -> None:
    """Law: Docker Compose itself accepts the file."""
    own = os.environ.get("DOCKER_COMPOSE") or shutil.which("docker-compose")
    if own is None:
        pytest.skip("docker-compose is not installed")
    command = [own, "--file", str(ROOT / "compose.yaml"), "--profile", "train", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_there_are_two_replicas_a_store_and_what_watches_them() -> None:
    """Law: without a profile five containers run: two replicas, the store, Prometheus and Grafana."""
    assert {name for name, each in SERVICES.items() if "profiles" not in each} == {
        "espalier-1",
        "espalier-2",
        "valkey",
        "prometheus",
        "grafana",
    }


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_restricted(name: str) -> None:
    """Law: root filesystems are read-only, no capability is kept, ports are for this machine alone, tags never move."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    tag = service["image"].rpartition(":")[2]
    assert tag[:1].isdigit() or tag.startswith("v")


def test_variables_are_settings_of_the_service() -> None:
    """Law: no replica is given a variable that would stop its start."""
    known = {PREFIX + field.upper() for field in Settings.model_fields} | FOREIGN_VARIABLES
    for service in SERVICES.values():
        assert {each for each in service.get("environment", {}) if each.startswith(PREFIX)} <= known


def test_a_replica_is_given_the_time_that_its_drain_takes() -> None:
    """Law: Compose kills no replica before drain_delay_s and drain_s are over."""
    replica = SERVICES["espalier-1"]
    needed = float(replica["environment"]["ESPALIER_DRAIN_DELAY_S"]) + float(replica["environment"]["ESPALIER_DRAIN_S"])
    assert float(replica["stop_grace_period"].removesuffix("s")) >= needed + 10


@pytest.mark.parametrize("name", ["espalier-1", "espalier-2"])
def test_a_revoked_token_is_seen(name: str) -> None:
    """Law: a replica sees the folder of its tokens, because a file that is replaced stays the old one in a mount."""
    tokens = PurePosixPath(SERVICES[name]["environment"]["ESPALIER_TOKENS"])
    mounted = [PurePosixPath(volume.split(":")[1]) for volume in SERVICES[name]["volumes"]]
    assert tokens.parent in mounted
    assert tokens not in mounted
    assert "secrets" not in SERVICES[name]


def test_the_store_keeps_what_it_acknowledged() -> None:
    """Law: Valkey runs append-only and evicts nothing, which the service demands before it writes."""
    words = SERVICES["valkey"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_everything_that_is_mounted_exists() -> None:
    """Law: every file and folder of this repository that a container sees is there."""
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]


def test_prometheus_scrapes_the_admin_port_of_both_replicas() -> None:
    """Law: the targets are the replicas of the file, on the port that has /metrics."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    port = SERVICES["espalier-1"]["environment"]["ESPALIER_ADMIN_PORT"]
    replicas = sorted(name for name in SERVICES if name.startswith("espalier-"))
    assert job["static_configs"] == [{"targets": [f"{name}:{port}" for name in replicas]}]
    assert config["rule_files"] == [f"{target('prometheus', './helm/espalier/rules')}/*.yaml"]


def test_promtool_accepts_the_configuration() -> None:
    """Law: Prometheus itself can read its configuration."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    command = [promtool, "check", "config", str(ROOT / "deploy" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    """Law: the provisioned source is the Prometheus of the file, and dashboards are read where they are mounted."""
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards" / "espalier.yaml").read_text())["providers"]
    assert provider["options"]["path"] == target("grafana", "./helm/espalier/dashboards")


def target(service: str, source: str) -> str:
    """Where a service sees a folder of the repository."""
    (found,) = [volume.split(":")[1] for volume in SERVICES[service]["volumes"] if volume.startswith(f"{source}:")]
    return str(found)
