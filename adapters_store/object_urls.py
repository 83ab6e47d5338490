"""URLs of object stores, and the obstore client that one names."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from adapters_store.errors import BadId

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig  # not there at run time

POLL_S = 10.0

_OPTIONS = {
    "s3": ("endpoint", "region", "poll_s", "skip_signature"),
    "gs": ("poll_s", "skip_signature"),
    "az": ("endpoint", "poll_s", "skip_signature"),
}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FOLDER = re.compile(r"[A-Za-z0-9_=@-][A-Za-z0-9_=@.-]*")
_NAME = re.compile(r"[A-Za-z_]{1,32}")
# What the library quotes of a credential that it cannot parse.
_QUOTED = re.compile(r"\"[^\"]*\"|`[^`]*`")
# A part of an upload in several parts, and the slowest line that it must still pass in time.
_PART_BYTES = 5 << 20
SLOWEST_BYTES_S = 1 << 20
# Shorter than what servers and load balancers keep an idle connection for: writing into one that is being closed costs
# a write whose outcome is unknown.
_IDLE_S = 4
_RETRIES = 2


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """What an object store's URL says.

    Args:
        scheme: s3, gs or az.
        bucket: Bucket, or container on Azure.
        prefix: Folder in it that holds the store; "" is all of the bucket.
        endpoint: `http://` or `https://` address of a server; None is the provider's own.
        region: None is what the environment says.
        poll_s: Seconds between two looks at what changed.
        skip_signature: Ask as nobody, without credentials.
    """

    scheme: str
    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    poll_s: float = POLL_S
    skip_signature: bool = False

    def __str__(self) -> str:
        """The URL without its options, as messages name the store."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def parse_object_url(url: str) -> ObjectUrl:
    """Read `s3://bucket/prefix?endpoint=...&region=...&poll_s=...&skip_signature=true`, gs:// and az:// alike.

    Args:
        url: Credentials are never part of it: obstore reads them from the environment (AWS_ACCESS_KEY_ID and
            AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and _KEY, and so on).

    Returns:
        Its parts.

    Raises:
        BadId: It is none; the message names the part, and the option that an unknown one is near to.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadId("this is no URL: check the name of the bucket") from None
    if parts.scheme not in _OPTIONS:
        raise BadId("an object store's URL starts with s3://, gs:// or az://")
    if "@" in parts.netloc:
        raise BadId(f"no credentials belong in a {parts.scheme}:// URL: set them in the environment")
    if not _BUCKET.fullmatch(parts.netloc) or parts.fragment:
        raise BadId(f"an object store is named {parts.scheme}://bucket/prefix")
    folders = [unquote(folder) for folder in parts.path.strip("/").split("/")] if parts.path.strip("/") else []
    for folder in folders:
        if not _FOLDER.fullmatch(folder):
            raise BadId(f"prefix {'/'.join(folders)!r} of an object store has a part that is not [A-Za-z0-9_=@.-]+")
    options = _options(parts.scheme, parts.query)
    return ObjectUrl(
        scheme=parts.scheme,
        bucket=parts.netloc,
        prefix="/".join(folders),
        endpoint=_endpoint(options.get("endpoint")),
        region=options.get("region"),
        poll_s=_seconds(options.get("poll_s")),
        skip_signature=_flag(options.get("skip_signature")),
    )


def connect(url: ObjectUrl, *, timeout_s: float, retry: bool) -> ObjectStore:
    """An obstore client; no request is sent.

    Args:
        url: Which store.
        timeout_s: Seconds for connecting, and for each silence of the server.
        retry: Repeat a request that failed, at most twice and within `timeout_s`; else send each exactly once.

    Returns:
        The client.

    Raises:
        BadId: The library does not take this URL with this environment.
    """
    # Time-outs here only see that no socket stays behind: ObjectClient bounds every call as a whole.
    client: ClientConfig = {
        "allow_http": bool(url.endpoint and url.endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=timeout_s),
        "read_timeout": timedelta(seconds=timeout_s + _PART_BYTES / SLOWEST_BYTES_S),
        "timeout": timedelta(hours=1),
        "pool_idle_timeout": timedelta(seconds=_IDLE_S),
    }
    again: RetryConfig = {
        "max_retries": _RETRIES if retry else 0,
        "retry_timeout": timedelta(seconds=timeout_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=50),
            "max_backoff": timedelta(seconds=max(timeout_s / 4, 0.05)),
            "base": 2,
        },
    }
    config: dict[str, Any] = {"skip_signature": True} if url.skip_signature else {}
    if url.endpoint:
        config["endpoint"] = url.endpoint
    try:
        if url.scheme == "gs":
            return GCSStore(url.bucket, client_options=client, retry_config=again, **config)
        if url.scheme == "az":
            return AzureStore(url.bucket, client_options=client, retry_config=again, **config)
        if url.region:
            config["region"] = url.region
        # One DELETE an object: not every server has the bulk call.
        return S3Store(url.bucket, client_options=client, retry_config=again, disable_bulk_delete=True, **config)
    except (BaseError, ValueError) as error:
        reason = _QUOTED.sub("…", str(error).partition("\n")[0])
        raise BadId(f"cannot use the object store {url}: {reason}") from None


def _options(scheme: str, query: str) -> Mapping[str, str]:
    known = _OPTIONS[scheme]
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if not _NAME.fullmatch(name):  # most likely half a value, so perhaps half a password: not shown
            raise BadId(f"an option of a {scheme}:// URL has no name: percent-encode & in the values, it is %26")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}" if near else f"known are {', '.join(known)}"
            raise BadId(f"unknown option {name!r} of a {scheme}:// URL: {hint}")
        if name in options or not value:
            raise BadId(f"option {name!r} of a {scheme}:// URL needs exactly one value")
        options[name] = value
    return options


def _endpoint(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no such host, or no such port
        fits = False
    if not fits or "@" in parts.netloc or parts.query:
        raise BadId("option endpoint is http://host:port or https://host:port, without credentials")
    return text.rstrip("/")


def _seconds(text: str | None) -> float:
    if text is None:
        return POLL_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadId(f"option poll_s is a number of seconds above 0, not {text!r}")
    return seconds


def _flag(text: str | None) -> bool:
    if text not in (None, "true", "false"):
        raise BadId(f"option skip_signature is true or false, not {text!r}")
    return text == "true"
