"""Store URLs as they may be shown: without user, password and query, even where the URL is malformed."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
# a host, or several with commas between them as Sentinel and Cluster take them; a bracketed IPv6 address is one too
_HOSTS = re.compile(r"(?:(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?,?)*")
_BUCKET = re.compile(r"[A-Za-z0-9._-]+")
_OBJECTS = ("s3", "gs", "az")
_LOCAL = ("file", "memory")
# options whose names sound like secrets; sig and sas are Azure's, and too short to look for inside other names
_NAMED = re.compile(
    r"(?:[^=&?]*(?:secret|passw|pwd|token|key|credential)[^=&]*|(?<=[?&])(?:sig|sas))=([^&#]+)", re.IGNORECASE
)


def redacted(url: str) -> str:
    """The URL as it may stand in a log: user and password replaced by ***, query left out."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return HIDDEN if "@" in url else url.partition("?")[0]
    shown = rest.partition("#")[0].partition("?")[0]
    if scheme in _LOCAL:
        return f"{scheme}://{shown}"
    authority, slash, path = shown.partition("/")
    _user, at, hosts = authority.rpartition("@")
    # a password with an unquoted slash, question mark or hash ends the authority too early, and its rest looks like a
    # path or like options; only those of an object store may hold the URL of another store, after a mere bucket
    beyond = path if scheme.endswith(_OBJECTS) and _BUCKET.fullmatch(authority) else rest[len(authority) :]
    if not _HOSTS.fullmatch(hosts) or "@" in beyond:
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{HIDDEN + at if at else ''}{hosts}{slash}{path}"


def without_secrets(message: str, url: str) -> str:
    """A message in which a URL, and each secret in it, is replaced by what may be shown.

    Args:
        message: what an error says.
        url: the URL that the failing call was given.
    """
    message = message.replace(url, redacted(url))
    for secret in _secrets(url):
        message = message.replace(secret, HIDDEN)
    return message


def _secrets(url: str) -> list[str]:
    scheme, _, rest = url.partition("://")
    if scheme in _LOCAL:
        return []
    named = _NAMED.findall(rest)
    users = re.findall(r"(?:^|//|%2F%2F)[^/@?#:]*(?::|%3A)([^@/?#]+)(?:@|%40)", rest, re.IGNORECASE)
    found = {form for secret in [*named, *users] for form in (secret, unquote(secret))}
    # a shorter one would blank out words; the longest first, so that none leaves the tail of another
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)
