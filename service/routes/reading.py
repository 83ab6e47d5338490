"""Reads what a request says: bodies checked to the last key, and the headers that carry conditions and digests."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.datastructures import Headers

from adapters_store.ids import check_revision
from adapters_store.records import Condition
from service.refusals import InvalidRequest, MalformedRequest, PreconditionFailed
from service.spelling import near

Body = TypeVar("Body", bound=msgspec.Struct)

_PLACE = re.compile(r"^(?P<fault>.*?)(?: - at `\$\.?(?P<field>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_ETAG = re.compile(r'^(?P<weak>W/)?(?P<strong>"(?P<record>\d{1,18})(?:\.(?P<pointer>\d{1,18}))?")\Z', re.ASCII)
_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:(?P<digest>[A-Za-z0-9+/=]+):")
_SHOWN = 120


def decode_json(decoder: msgspec.json.Decoder[Body], raw: bytes) -> Body:
    """Decode a body strictly: no unknown key, no coercion between types.

    Raises:
        MalformedRequest: the bytes are no JSON.
        InvalidRequest: a key is unknown or missing, or a value has the wrong type; names the field.
    """
    return _decoded(decoder.decode, raw, decoder.type, "JSON")


def decode_msgpack(decoder: msgspec.msgpack.Decoder[Body], raw: bytes) -> Body:
    """Decode a body of MessagePack as strictly as one of JSON.

    What is allocated grows with the bytes that came, whatever lengths they announce: msgspec reserves nothing ahead.

    Raises:
        MalformedRequest: the bytes are no MessagePack.
        InvalidRequest: a key is unknown or missing, or a value has the wrong type; names the field.
    """
    return _decoded(decoder.decode, raw, decoder.type, "MessagePack")


def read_deadline_s(headers: Headers, cap_s: float) -> float:
    """Seconds that a request may take: its X-Deadline-Ms, but never more than the service's own cap.

    Raises:
        MalformedRequest: the header is no positive number.
    """
    given = headers.get("x-deadline-ms")
    if given is None:
        return cap_s
    try:
        deadline_ms = float(given)
    except ValueError:
        deadline_ms = math.nan
    if not (math.isfinite(deadline_ms) and deadline_ms > 0):
        raise MalformedRequest("X-Deadline-Ms must be a positive number of milliseconds")
    return min(cap_s, deadline_ms / 1000)


def claimed_digest(revision: str | None, headers: Headers) -> str:
    """The sha256 (hex) that a body is said to have, by `?revision=` or by Content-Digest (RFC 9530).

    Raises:
        InvalidRequest: neither says it, or the two differ.
        MalformedRequest: Content-Digest holds no readable sha-256.
        adapters_store.errors.BadId: the revision is no sha256.
    """
    stated = headers.get("content-digest")
    digest = None if stated is None else _sha256_of(stated)
    if revision is None and digest is None:
        raise InvalidRequest(
            "name the body's sha256 by ?revision=<hex> or by Content-Digest: sha-256=:...:", "revision"
        )
    if revision is not None and check_revision(revision) != (digest or revision):
        raise InvalidRequest("?revision= and Content-Digest name different digests", "revision")
    return revision or digest or ""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a write demands of the record it changes.

    Args:
        if_generation: the record's generation, and the release pointer's where it was named; None for any.
        create_only: no live adapter may exist yet.
    """

    if_generation: Condition | None = None
    create_only: bool = False

    @property
    def any(self) -> bool:
        """Whether nothing is demanded."""
        return self.if_generation is None and not self.create_only


def read_demand(headers: Headers) -> Demand:
    """Read If-Match: "<record generation>.<pointer generation>" and If-None-Match: *.

    "<record generation>" alone, as clients from before releases may have kept it, leaves the pointer open.

    Raises:
        MalformedRequest: any other form.
        PreconditionFailed: a weak ETag, which If-Match never takes for equal (RFC 9110 13.1.1).
    """
    create = headers.get("if-none-match")
    if create is not None and create.strip() != "*":
        raise MalformedRequest("If-None-Match takes `*` only: publish if there is no adapter yet")
    match = headers.get("if-match")
    if match is None:
        return Demand(create_only=create is not None)
    if create is not None:
        raise MalformedRequest("send If-Match or If-None-Match, not both")
    etag = _ETAG.match(match.strip())
    if etag is None:
        raise MalformedRequest(f'If-Match must be one ETag of this API such as "12.3", not {match[:_SHOWN]!r}')
    if etag["weak"]:
        raise PreconditionFailed(f"{match.strip()} is weak, and a weak ETag never matches: send it as {etag['strong']}")
    pointer = etag["pointer"]
    return Demand(if_generation=Condition(int(etag["record"]), None if pointer is None else int(pointer)))


def etag_of(generation: int, pointer: int) -> str:
    """The ETag of a domain: its record's generation and the release pointer's."""
    return f'"{generation}.{pointer}"'


def _decoded(decode: Callable[[bytes], Body], raw: bytes, body: type[Body], form: str) -> Body:
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), body.__struct_fields__) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"the body is no {form}: {str(error)[:_SHOWN]}") from None
    except RecursionError:
        raise MalformedRequest("the body is nested too deeply") from None


def _invalid(message: str, known: tuple[str, ...]) -> InvalidRequest:
    parts = _PLACE.match(message)
    fault, field = (parts["fault"], parts["field"] or "") if parts else (message, "")
    if unknown := _UNKNOWN.match(fault):
        name = unknown["name"][:_SHOWN]
        return InvalidRequest(f"unknown key {name!r}{near(name, known)}", ".".join(filter(None, (field, name))))
    if missing := _MISSING.match(fault):
        return InvalidRequest(f"{missing['name']} is missing", ".".join(filter(None, (field, missing["name"]))))
    return InvalidRequest(f"{field or 'the body'}: {fault[:1].lower()}{fault[1:]}", field)


def _sha256_of(stated: str) -> str:
    found = _SHA256.search(stated)
    try:
        digest = base64.b64decode(found["digest"], validate=True) if found else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise MalformedRequest("Content-Digest must hold sha-256=:<base64 of 32 bytes>: (RFC 9530)")
    return digest.hex()
