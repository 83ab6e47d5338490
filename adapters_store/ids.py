"""The ids that name things in the store, checked at every entry."""

import re

from adapters_store.errors import BadId

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:=.-]{0,127}")
_REVISION = re.compile(r"[0-9a-f]{64}")
_SHOWN = 80


def check_domain(domain: str) -> str:
    """Return `domain` if it is a well-formed domain id.

    Raises:
        BadId: It is not.
    """
    return _checked(domain, _NAME, "domain id", "1 to 128 of A-Z a-z 0-9 _ : = . - and starts with a letter or digit")


def check_division(division: str) -> str:
    """Return `division` if it is a well-formed division name.

    Raises:
        BadId: It is not.
    """
    return _checked(
        division, _NAME, "division name", "1 to 128 of A-Z a-z 0-9 _ : = . - and starts with a letter or digit"
    )


def check_revision(revision: str) -> str:
    """Return `revision` if it is a sha256 in lower-case hex.

    Raises:
        BadId: It is not.
    """
    return _checked(revision, _REVISION, "revision", "a sha256: 64 of 0-9 a-f")


def is_revision(text: str) -> bool:
    """Whether a name found in a store is a revision; a file system or a person may have put others there."""
    return _REVISION.fullmatch(text) is not None


def _checked(text: str, pattern: re.Pattern[str], what: str, form: str) -> str:
    if not isinstance(text, str) or pattern.fullmatch(text) is None:
        shown = repr(text)
        shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
        raise BadId(f"{shown} is no {what}: it must be {form}")
    return text
