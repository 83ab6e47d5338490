"""Redaction: whatever the secret of a store URL is made of, it is shown nowhere."""

from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.redaction import redacted, without_secrets

MARK = "hunter2"
SCHEMES = ("redis", "rediss", "redis+sentinel", "redis+cluster", "s3", "gs", "az", "unknown")
# a secret around a mark that nothing else in these URLs holds, of characters that people forget to encode, too
SECRETS = st.tuples(
    *[st.text(string.ascii_letters + string.digits + "/?#@:%&=+,;[] $!*'()~\"<>^`{|}\\", max_size=8)] * 2
)
OPTIONS = ("secret_access_key", "password", "token", "account_key", "sig", "credential", "sas")


@settings(max_examples=500)
@given(
    scheme=st.sampled_from(SCHEMES),
    mark=st.sampled_from([MARK, "4711"]),
    around=SECRETS,
    encoded=st.booleans(),
    named=st.booleans(),
)
def test_a_password_in_a_url_is_never_shown(
    scheme: str, mark: str, around: tuple[str, str], encoded: bool, named: bool
) -> None:
    """Law: a URL as it is shown holds nothing of its password, however badly the password is written into it."""
    secret = f"{around[0]}{mark}{around[1]}"
    url = f"{scheme}://{'user' * named}:{quote(secret, safe='') if encoded else secret}@host:6379/0"
    assert mark not in redacted(url)


@given(option=st.sampled_from(OPTIONS), around=SECRETS, encoded=st.booleans())
def test_a_secret_option_of_a_url_is_never_shown(option: str, around: tuple[str, str], encoded: bool) -> None:
    """Law: nothing of a URL's options is shown."""
    secret = f"{around[0]}{MARK}{around[1]}"
    assert MARK not in redacted(f"s3://bucket/prefix?{option}={quote(secret, safe='') if encoded else secret}")


@given(scheme=st.sampled_from(SCHEMES), around=SECRETS, named=st.booleans())
def test_a_message_that_quotes_a_url_or_its_password_shows_neither(
    scheme: str, around: tuple[str, str], named: bool
) -> None:
    """Law: whatever a library quotes of a well-formed URL, as it was written or decoded, the password is taken out."""
    secret = f"{around[0]}{MARK}{around[1]}"
    url = f"{scheme}://{'user' * named}:{quote(secret, safe='')}@host:6379/0"
    for message in (f"cannot reach {url}: refused", f"AUTH {secret!s} failed", f"AUTH {quote(secret, safe='')} failed"):
        assert MARK not in without_secrets(message, url)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_message_that_quotes_a_secret_option_does_not_show_it(option: str) -> None:
    """Law: every option whose name sounds like a secret is one."""
    assert MARK not in without_secrets(
        f"the value {MARK} is wrong", f"az://box/prefix?region=eu&{option}={MARK}&poll_s=1"
    )


@given(scheme=st.sampled_from(["s3", "redis+s3"]), tail=st.text(string.printable, max_size=20))
def test_a_bucket_is_shown(scheme: str, tail: str) -> None:
    """Law: what is no secret stays readable, whatever options follow."""
    assert redacted(f"{scheme}://bucket/prefix?redis={tail}@host") == f"{scheme}://bucket/prefix"


def test_a_message_without_secrets_stays_as_it_is() -> None:
    """Law: nothing that is no secret is blanked out."""
    message = "redis://***@host:6379/0 did not answer within 2 s"
    assert without_secrets(message, "redis://user:hunter2@host:6379/0") == message
    assert redacted("file:///var/lib/espalier") == "file:///var/lib/espalier"
