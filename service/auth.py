"""Bearer tokens and what they may do: score, read, publish:<pattern>, admin."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.rate_limits import Limits, RateLimits
from service.refusals import Forbidden, Unauthenticated

VERBS = ("score", "read", "publish", "admin")
ANONYMOUS = "anonymous"
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Scope:
    """One permission: a verb and, for publish, a shell pattern over domain ids.

    Args:
        verb: score, read, publish or admin (which may do everything).
        pattern: the domains that `publish` covers; empty for the other verbs.
    """

    verb: str
    pattern: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read `score`, `read`, `admin` or `publish:<pattern>`.

        Raises:
            ValueError: any other text.
        """
        verb, colon, pattern = text.partition(":")
        if verb not in VERBS or (verb == "publish") != bool(pattern) or (colon and verb != "publish"):
            raise ValueError(f"{text!r} is no scope; the scopes are score, read, admin and publish:<pattern>")
        return cls(verb, pattern)

    def allows(self, wanted: Scope) -> bool:
        """Whether this permission covers a wanted one; `wanted.pattern` is then a domain id, or `*` for all of them."""
        if self.verb == "admin":
            return True
        if self.verb != wanted.verb:
            return False
        # `*` asks for every domain, which a pattern such as `?` does not cover although it matches the character
        return self.pattern == wanted.pattern or (wanted.pattern != "*" and fnmatchcase(wanted.pattern, self.pattern))

    def __str__(self) -> str:
        return f"{self.verb}:{self.pattern}" if self.pattern else self.verb


class TokenEntry(BaseModel):
    """One line of the tokens file: the token itself is never stored, only its sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: list[str] = Field(min_length=1)
    requests_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    burst: int | None = Field(default=None, ge=1)
    rows_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @property
    def limits(self) -> Limits:
        """What the token may ask for."""
        return Limits(self.requests_per_s, self.burst, self.rows_per_s)

    @model_validator(mode="after")
    def _burst_of_what(self) -> Self:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst is how many requests come at once; it needs requests_per_s")
        return self

    @field_validator("scopes")
    @classmethod
    def _are_scopes(cls, scopes: list[str]) -> list[str]:
        for scope in scopes:
            Scope.parse(scope)
        return scopes


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, with which permissions, and how much of it."""

    name: str
    scopes: tuple[Scope, ...]
    limits: Limits = NO_LIMITS


class Tokens(Protocol):
    """Tokens that a service accepts: a `TokenBook`, or a `service.token_file.TokenFile` that follows its file."""

    @property
    def configured(self) -> bool:
        """Whether tokens decide at all; without, scoring may be open. A file that names nobody lets nobody in."""

    def find(self, token: str) -> Caller | None:
        """The caller whose token this is, if any."""


class TokenBook:
    """The tokens of one moment.

    Found by a keyed hash that only this process knows and compared in constant time, so that neither the time that a
    look-up takes nor the number of tokens tells anything of them.

    Args:
        entries: the lines of the tokens file; names are unique.
    """

    def __init__(self, entries: Sequence[TokenEntry]) -> None:
        self._key = secrets.token_bytes(32)
        self._callers = {
            self._place(entry.sha256.encode()): (
                entry.sha256.encode(),
                Caller(entry.name, tuple(map(Scope.parse, entry.scopes)), entry.limits),
            )
            for entry in entries
        }

    def __len__(self) -> int:
        return len(self._callers)

    @property
    def configured(self) -> bool:
        """Whether there is any token."""
        return bool(self._callers)

    def find(self, token: str) -> Caller | None:
        """The caller whose token this is, if any."""
        presented = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest().encode()
        # an unknown one is compared too, with itself, and dropped
        digest, caller = self._callers.get(self._place(presented), (presented, None))
        return caller if hmac.compare_digest(digest, presented) else None

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, digest_size=16, key=self._key).digest()


class Guard:
    """Decides on the Authorization header alone, so that nothing of a body is read for a stranger.

    Args:
        tokens: the tokens accepted.
        open_scoring: whether anyone may score while no token is configured (the service listens on loopback only).
        limits: counts what each token asks for; without, nobody is limited. One for all guards of a process.
    """

    def __init__(self, tokens: Tokens, open_scoring: bool, limits: RateLimits | None = None) -> None:
        self._tokens = tokens
        self._limits = limits
        self._nobody = Caller(ANONYMOUS, (Scope("score"),) if open_scoring else ())

    def authorize(self, header: str | None, wanted: Scope) -> Caller:
        """The caller, if it may do what it asks for.

        Args:
            header: the Authorization header, or None.
            wanted: the permission that the route needs.

        Raises:
            Unauthenticated: tokens are configured and the header holds none that is known.
            RateLimited: the caller has asked too often; a request that its scopes forbid counts too.
            Forbidden: the caller is known, or no token is configured at all, and the scope is missing.
        """
        if not self._tokens.configured:
            return self._without_tokens(wanted)
        caller = self._tokens.find(_bearer(header))
        if caller is None:
            raise Unauthenticated("the bearer token is not known to this service")
        if self._limits is not None:
            self._limits.request(caller.name, caller.limits)
        if not any(scope.allows(wanted) for scope in caller.scopes):
            raise Forbidden(f"the token {caller.name!r} lacks the scope {wanted}", str(wanted), caller.name)
        return caller

    def admit_rows(self, caller: Caller, rows: int) -> None:
        """Charge an authorized caller for the rows that it wants scored.

        Raises:
            RateLimited: its token has asked for too many.
        """
        if self._limits is not None:
            self._limits.rows(caller.name, caller.limits, rows)

    def _without_tokens(self, wanted: Scope) -> Caller:
        if any(scope.allows(wanted) for scope in self._nobody.scopes):
            return self._nobody
        raise Forbidden(
            f"this needs the scope {wanted}, and no token is configured: make one with "
            f"`espalier token new --name me --scope '{wanted}' --out tokens.yaml` and start "
            f"`espalier serve --tokens tokens.yaml`",
            str(wanted),
            self._nobody.name,
        )


def _bearer(header: str | None) -> str:
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("this needs a token: send `Authorization: Bearer <token>`")
    return token.strip()
