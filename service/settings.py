"""Every setting of `espalier serve`, read once: defaults, then a YAML file, then ESPALIER_* variables, then options."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from adapters_store.errors import BadId
from adapters_store.ids import check_domain
from adapters_store.validation import explain
from service.cores import FORM, named
from service.engines.chosen import EngineName
from service.engines.native import Precision
from service.redaction import redacted
from service.refusals import SettingsInvalid
from service.replica_config import ReplicaConfig
from service.spelling import near

PREFIX = "ESPALIER_"
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_:=.-]{0,127}$"
# read by the command line and the tests, not by the server; they may stand beside the server's own
FOREIGN_VARIABLES = frozenset(
    {"ESPALIER_AUDIT_LOG", "ESPALIER_BY", "ESPALIER_DATA_DIR", "ESPALIER_TOKEN", "ESPALIER_URL"}
)


class Settings(BaseSettings):
    """What one serving process is told; frozen. Classes below it take plain keyword arguments from here."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    store: str = Field(
        repr=False, description="URL of the adapter store: file:///folder, redis://, s3://, gs://, az://, redis+s3://"
    )
    host: str = Field("127.0.0.1", description="address to listen on; anything but loopback needs tokens")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    admin_host: str | None = Field(None, description="address of the admin port; that of `host` without it")
    admin_port: int | None = Field(
        None, ge=0, le=65535, description="port of metrics, publishing and reading; without it they share the main port"
    )
    tls_cert: Path | None = Field(None, description="certificate chain in PEM; with it every port speaks TLS only")
    tls_key: Path | None = Field(None, description="private key of tls_cert in PEM")
    tls_client_ca: Path | None = Field(None, description="authorities whose client certificates are required")
    tokens: Path | None = Field(None, description="file of bearer tokens, written by `espalier token new`")
    tokens_reload_s: float = Field(
        10.0, gt=0, description="how often the tokens file and the certificates are looked at for changes"
    )

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_share: float = Field(0.01, ge=0, le=1, description="share of answered requests that get a log line")
    otlp_endpoint: str | None = Field(None, description="OpenTelemetry collector (OTLP over HTTP); none, no traces")
    trace_share: float = Field(0.01, ge=0, le=1, description="share of requests traced whose caller does not decide")
    metric_domains: int = Field(50, ge=0, le=200, description="busiest domains that have metric series of their own")

    workers: int = Field(1, ge=1, le=64, description="serving processes on one listening socket")
    replica_id: str = Field(
        default_factory=lambda: own_id(),
        pattern=ID_PATTERN,
        description="names this replica's report in the store; host name and process id by default",
    )

    engine: EngineName = Field(
        "onnx",
        description="what scores: onnx runs everywhere; native needs espalier-kernels and AVX2, torch needs the "
        "package torch and a CUDA device; where they are missing it is onnx",
    )
    precision: Precision = Field(
        "fp32", description="of the native engine; bf16 is faster and moves a probability by up to 2e-2"
    )
    engine_threads: int = Field(1, ge=1, le=256, description="threads inside one run of the engine")
    engine_cpus: str = Field(
        "",
        json_schema_extra={"pattern": FORM},
        description="cores that the engine's threads are bound to, such as 2-5,8: one for each of workers x "
        "engine_threads, the first ones for the first worker; all: those of the process; empty: not bound",
    )
    rows_per_run: int = Field(1024, ge=1, description="rows that one run of the engine scores")
    batch_rows: int = Field(4096, ge=1, description="rows at which a batch leaves at once")
    batch_wait_ms: float = Field(1.0, ge=0, le=1000, description="longest wait for company once the engine is free")
    queue_rows: int = Field(65_536, ge=1, description="rows that may wait; past it 429")

    deadline_ms: float = Field(2000.0, gt=0, description="longest a /score request may take; X-Deadline-Ms lowers it")
    cold_wait_ms: float = Field(200.0, ge=0, description="longest a request waits for a domain that is not resident")
    cold_in_flight: int = Field(64, ge=1, description="domains pulled from the store at once")
    max_items: int = Field(4096, ge=1, description="item_ids in one request; past it 413")
    score_body_bytes: int = Field(4 << 20, ge=1, description="largest /score body")

    max_adapter_bytes: int = Field(64 << 20, ge=1, description="largest artifact taken over HTTP or read from a store")
    uploads_in_flight: int = Field(2, ge=1, le=64, description="uploads read and verified at once; past it 429")
    body_read_s: float = Field(30.0, gt=0, description="longest a client may take to send a body")
    publish_wait_ms: float = Field(10_000.0, ge=0, description="longest a publish waits for activation before 202")

    header_bytes: int = Field(32_768, ge=1024, description="largest request line and headers; past it 431")
    header_read_s: float = Field(10.0, gt=0, description="longest a client may take to send headers")
    keep_alive_s: int = Field(30, ge=0, description="how long an idle connection stays open")
    drain_delay_s: float = Field(
        0.0, ge=0, le=300, description="how long readiness says no before the ports close; a load balancer needs some"
    )
    drain_s: int = Field(10, ge=1, description="how long requests in flight may finish after Ctrl-C or SIGTERM")

    feedback_dir: Path | None = Field(None, description="folder of feedback segments; POST /feedback is off without it")
    feedback_segment_bytes: int = Field(64 << 20, ge=1 << 10, description="size at which a segment is closed")
    feedback_segment_s: float = Field(300.0, gt=0, description="age at which a segment is closed")
    feedback_keep_bytes: int = Field(10 << 30, ge=1 << 20, description="what feedback may hold on the local disk")

    reconcile_s: float = Field(30.0, gt=0, description="how often the replica compares itself with the store")
    unknown_domains: int = Field(10_000, ge=0, le=10_000, description="unknown domains remembered between reconciles")

    feed: bool = Field(True, description="follow the store's change feed; false: changes come by reconciling alone")
    store_timeout_s: float = Field(
        2.0, gt=0, le=60, description="longest wait for one answer of the store; with retries a call takes 2.5 times it"
    )
    cache_dir: Path | None = Field(None, description="folder of the disk cache, shared by workers; none without it")
    cache_bytes: int = Field(10 << 30, ge=1 << 20, description="what the disk cache may hold")

    prepared: bool = Field(
        True, description="keep verified and folded adapters in the disk cache, for restarts and for the other workers"
    )

    memory_bytes: int = Field(2 << 30, ge=1 << 20, description="what prepared adapters may hold, in each worker")
    pinned: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="domains that are never evicted; in a variable separated by commas"
    )
    prewarm_s: float = Field(20.0, ge=0, description="longest that loading the busiest domains may delay the start")
    prewarm_every_s: float = Field(300.0, gt=0, description="how often the busiest domains are written to the store")
    prewarm_domains: int = Field(1000, ge=0, le=10_000, description="domains in that list")
    stage_in_flight: int = Field(8, ge=1, le=256, description="adapters of a staged release prepared at once")
    stage_share: float = Field(
        0.05, gt=0, le=1, description="of one core that preparing a staged release may take while requests are scored"
    )
    loader_share: float = Field(
        0.01, gt=0, le=1, description="of one core that changes of others may take while requests are scored"
    )

    @field_validator("pinned", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given

    @field_validator("pinned")
    @classmethod
    def _are_domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(check_domain(domain) for domain in domains))
        except BadId as error:
            raise ValueError(str(error)) from None

    @field_validator("engine_cpus", mode="before")
    @classmethod
    def _one_core(cls, given: object) -> object:
        # a list of one core is a number to YAML
        return str(given) if isinstance(given, int) and not isinstance(given, bool) else given

    @field_validator("engine_cpus")
    @classmethod
    def _are_cores(cls, text: str) -> str:
        try:
            named(text)
        except SettingsInvalid as error:
            raise ValueError(str(error)) from None
        return text

    @field_validator("store")
    @classmethod
    def _has_scheme(cls, url: str) -> str:
        if "://" not in url:
            raise ValueError("a store is named by URL, for example file:///var/lib/espalier")
        return url

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        host = self.admin_host or self.host
        if self.admin_port is None:
            if self.admin_host is not None:
                raise ValueError("admin_host is set without admin_port: set both, or neither to have one port")
        elif self.admin_port == self.port != 0 and (host == self.host or {host, self.host} & {"0.0.0.0", "::"}):
            raise ValueError(f"admin_port: {self.admin_port} is the main port already; choose another, or leave it out")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address listened on."""
        return is_loopback(self.host)

    @property
    def replica(self) -> ReplicaConfig:
        """The part of the settings that the service core is opened with."""
        names = {field.name for field in dataclasses.fields(ReplicaConfig)} & type(self).model_fields.keys()
        shared = {name: getattr(self, name) for name in names} | {"engine_cpus": named(self.engine_cpus)}
        return ReplicaConfig(publishes_in_flight=self.uploads_in_flight, adapter_bytes=self.max_adapter_bytes, **shared)

    @property
    def shown_store(self) -> str:
        """The store's URL without its user and password."""
        return redacted(self.store)


def load_settings(
    overrides: Mapping[str, object],
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the settings from every place they may stand in.

    Args:
        overrides: command line options; a None is one that was not given.
        config: YAML file of settings.
        environ: variables, searched for unknown names with our prefix.

    Raises:
        SettingsInvalid: a key or an ESPALIER_* variable that does not exist, or a value out of its range.
    """
    _refuse_unknown_variables(environ)
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        # what the constructor is given wins over variables, so the file's keys step back where a variable speaks
        return Settings(**{**read_file(config), **EnvSettingsSource(Settings)(), **given})
    except ValidationError as error:
        raise SettingsInvalid(f"the service cannot start: {explain(error, Settings)}") from error


def own_id() -> str:
    """A name for this process among all replicas of a store: host name and process id, in id characters."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).lstrip("_.-")[:100]
    return f"{host or 'host'}-{os.getpid()}"


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine only (localhost, 127.0.0.0/8, ::1)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known | FOREIGN_VARIABLES:
            raise SettingsInvalid(f"the service cannot start: unknown variable {name}{near(name.upper(), known)}")


def read_file(config: Path | None) -> dict[str, object]:
    """What a settings file says, unchecked; nothing without one.

    Raises:
        SettingsInvalid: it cannot be read, or is no YAML mapping.
    """
    if config is None:
        return {}
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsInvalid(f"the settings file {config} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        # the parser's own message quotes the line, which may hold a password
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise SettingsInvalid(f"the settings file {config} is no YAML{f' (line {line})' if line else ''}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsInvalid(
            f"the settings file {config} must be a mapping of settings, not a {type(content).__name__}"
        )
    return {str(key): value for key, value in content.items()}
