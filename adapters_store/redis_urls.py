"""What a Redis store's URL says.

::

    redis://[user:password@]host[:6379][/database]                       one server (rediss: over TLS)
    redis+sentinel://[user:password@]host[:26379],host…/service[/database]  the primary that the Sentinels name
    redis+cluster://[user:password@]host[:6379],host…                    a cluster; any of its nodes will do

Options: `prefix` of every key (`espalier`), `min_replicas` that a write must have reached before it is acknowledged
(0), `wait_ms` for them (1000), over TLS `ca`, `cert` and `key` (files), and `sentinel_user`, `sentinel_password` where
the Sentinels themselves ask for them. User and password are percent-encoded. No message here repeats any part of a URL
that could be a password.
"""

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from adapters_store.errors import BadId

Topology = Literal["single", "sentinel", "cluster"]

_TOPOLOGIES: dict[str, Topology] = {"": "single", "sentinel": "sentinel", "cluster": "cluster"}
_PORTS: dict[Topology, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_SERVICE = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_TLS_OPTIONS = ("ca", "cert", "key")
_SENTINEL_OPTIONS = ("sentinel_user", "sentinel_password")
_OPTIONS = ("prefix", "min_replicas", "wait_ms", *_TLS_OPTIONS, *_SENTINEL_OPTIONS)
_MOST_REPLICAS, _LONGEST_WAIT_MS = 100, 60_000


@dataclass(frozen=True, slots=True)
class Target:
    """Where a Redis store is and what it is asked for.

    Args:
        topology: One server, Sentinel or Cluster.
        hosts: (host, port) of the server, the Sentinels or some nodes.
        service: What the Sentinels call the primary; empty otherwise.
        database: Number; 0 on a cluster.
        tls: Whether connections are encrypted.
        prefix: Of every key.
        min_replicas: A write is acknowledged when it has reached so many.
        wait_ms: Longest wait for them.
        ca, cert, key: PEM files; None is the system's trust, and no client certificate.
        user, password, sentinel_user, sentinel_password: As decoded; never shown.
    """

    topology: Topology
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    database: int = 0
    tls: bool = False
    prefix: str = "espalier"
    min_replicas: int = 0
    wait_ms: int = 1000
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_user: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The store's name in messages: without user, password and options."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        scheme = ("rediss" if self.tls else "redis") + ("" if self.topology == "single" else f"+{self.topology}")
        return f"{scheme}://{hosts}" + (f"/{self.service}" if self.service else "")


def parse_redis_url(url: str) -> Target:
    """Read a Redis store's URL.

    Args:
        url: One of the forms above.

    Returns:
        What it says.

    Raises:
        BadId: It is not of such a form; the message says which part, and never shows a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadId("this is no URL: check the brackets of an IPv6 address") from None
    scheme, _, mode = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss") or mode not in _TOPOLOGIES:
        raise BadId(
            "a Redis store's URL starts with redis:// or rediss://, or with +sentinel or +cluster before the ://"
        )
    if "@" in parts.path + parts.query or parts.fragment:
        raise BadId("percent-encode the user and password of a Redis URL: / is %2F, ? is %3F, # is %23, @ is %40")
    topology, tls = _TOPOLOGIES[mode], scheme == "rediss"
    options = _options(parts.query, topology, tls)
    user, password, addresses = _login(parts)
    service, database = _place(parts.path, topology)
    return Target(
        topology=topology,
        hosts=_hosts(addresses, topology),
        service=service,
        database=database,
        tls=tls,
        prefix=_prefix(options),
        min_replicas=_number(options, "min_replicas", 0, _MOST_REPLICAS),
        wait_ms=_number(options, "wait_ms", 1000, _LONGEST_WAIT_MS, least=1),
        ca=_file(options, "ca"),
        cert=_file(options, "cert"),
        key=_file(options, "key"),
        user=user,
        password=password,
        sentinel_user=options.get("sentinel_user"),
        sentinel_password=options.get("sentinel_password"),
    )


def _options(query: str, topology: Topology, tls: bool) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadId("an option of a Redis URL is given twice")
    for name in found:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_OPTIONS)}"
            raise BadId(f"a Redis URL has no option {name[:40]!r}: {hint}")
        if name in _TLS_OPTIONS and not tls:
            raise BadId(f"the option {name!r} is for TLS: write rediss instead of redis")
        if name in _SENTINEL_OPTIONS and topology != "sentinel":
            raise BadId(f"the option {name!r} is for redis+sentinel:// only")
    return found


def _login(parts: SplitResult) -> tuple[str | None, str | None, str]:
    login, _, addresses = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    return unquote(user) or None, unquote(password) or None, addresses


def _hosts(addresses: str, topology: Topology) -> tuple[tuple[str, int], ...]:
    found = []
    for address in addresses.split(","):
        match = _HOST.fullmatch(address)
        port = int(match["port"] or _PORTS[topology]) if match else 0
        if match is None or not 0 < port < 65536:
            raise BadId(
                "the part of a Redis URL before its path must be [user:password@]host[:port], with user and "
                "password percent-encoded (@ is %40, : is %3A, / is %2F)"
            )
        found.append((match["six"] or match["name"], port))
    if topology == "single" and len(found) > 1:
        raise BadId("redis:// names one host; several are for redis+sentinel:// or redis+cluster://")
    return tuple(found)


def _place(path: str, topology: Topology) -> tuple[str, int]:
    steps = [unquote(step) for step in path.strip("/").split("/") if step]
    service = ""
    if topology == "sentinel":
        if not steps or _SERVICE.fullmatch(steps[0]) is None:
            raise BadId("redis+sentinel:// names the service behind the hosts: redis+sentinel://host:26379/main")
        service = steps.pop(0)
    if len(steps) > 1 or not all(step.isascii() and step.isdigit() and len(step) < 6 for step in steps):
        raise BadId("the last part of a Redis URL's path is the number of a database")
    database = int(steps[0]) if steps else 0
    if topology == "cluster" and database:
        raise BadId("a Redis cluster has database 0 only")
    return service, database


def _prefix(options: dict[str, str]) -> str:
    prefix = options.get("prefix", "espalier")
    if _PREFIX.fullmatch(prefix) is None:
        raise BadId("the option 'prefix' is 1 to 64 of A-Z a-z 0-9 _ . : - and starts with a letter or digit")
    return prefix


def _number(options: dict[str, str], name: str, default: int, most: int, least: int = 0) -> int:
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise BadId(f"the option {name!r} is a number from {least} to {most}")
    return int(text)


def _file(options: dict[str, str], name: str) -> str | None:
    path = options.get(name)
    if path is not None and not Path(path).is_file():
        raise BadId(f"the option {name!r} names no file: {path!r}")
    return path
