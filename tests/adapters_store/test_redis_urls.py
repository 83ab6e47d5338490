"""What a Redis store's URL says, and what it must never tell."""

from __future__ import annotations

import pytest

from adapters_store.errors import BadId
from adapters_store.redis_urls import Target, parse_redis_url

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Target("single", (("h", 6379),))),
        (
            "redis://h:1/2?prefix=p:1&min_replicas=2&wait_ms=50",
            Target("single", (("h", 1),), "", 2, False, "p:1", 2, 50),
        ),
        ("redis://[::1]:7", Target("single", (("::1", 7),))),
        ("rediss://h/", Target("single", (("h", 6379),), tls=True)),
        ("redis://:p%40%2F%3A@h", Target("single", (("h", 6379),), password="p@/:")),
        ("redis://me:p@h", Target("single", (("h", 6379),), user="me", password="p")),
        (
            "redis+sentinel://me:p@a,b:7/main/3?sentinel_user=s&sentinel_password=t",
            Target(
                "sentinel",
                (("a", 26379), ("b", 7)),
                "main",
                3,
                user="me",
                password="p",
                sentinel_user="s",
                sentinel_password="t",
            ),
        ),
        ("rediss+cluster://a:1,b:2", Target("cluster", (("a", 1), ("b", 2)), tls=True)),
    ],
)
def test_every_form_of_url_is_read(url: str, expected: Target) -> None:
    """Law: what the URL says is what is opened."""
    assert parse_redis_url(url) == expected


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://", "host"),
        ("redis://h:0", "port"),
        ("redis://h:99999", "port"),
        ("redis://a,b", "several"),
        ("redis://h/main", "number"),
        ("redis://h/1/2", "number"),
        ("redis+sentinel://h", "service"),
        ("redis+cluster://h/1", "database 0"),
        ("redis+novel://h", r"\+sentinel or \+cluster"),
        ("http://h", "redis://"),
        ("redis://h?min_replica=1", "did you mean 'min_replicas'"),
        ("redis://h?colour=red", "there are prefix"),
        ("redis://h?prefix=a&prefix=b", "twice"),
        ("redis://h?prefix=a*", "'prefix'"),
        ("redis://h?min_replicas=-1", "'min_replicas'"),
        ("redis://h?wait_ms=0", "'wait_ms'"),
        ("redis://h?ca=x.pem", "rediss"),
        ("rediss://h?ca=/nowhere/x.pem", "'/nowhere/x.pem'"),
        ("redis://h?sentinel_password=x", "redis\\+sentinel"),
    ],
)
def test_url_of_another_form_is_refused_by_name(url: str, told: str) -> None:
    """Law: a refusal names the part that is wrong, and for a mistyped option the near one."""
    with pytest.raises(BadId, match=told):
        parse_redis_url(url)


@pytest.mark.parametrize("form", ["{}", "{}/x", "x/{}", "{}?a=1", "a?{}", "#{}", "a@{}", "[{}"])
@pytest.mark.parametrize("rest", ["h:port", "h/x/y?novel=1", "h,i"])
def test_refusal_never_repeats_a_password(form: str, rest: str) -> None:
    """Law: however wrongly a password is written into a URL, no message and no cause shows it."""
    with pytest.raises(BadId) as raised:
        parse_redis_url(f"redis://me:{form.format(SECRET)}@{rest}")
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_shown_name_and_repr_hide_the_login() -> None:
    """Law: what stands for a store in messages has neither user nor password."""
    target = parse_redis_url(f"redis+sentinel://me:{SECRET}@a,b/main?sentinel_password={SECRET}2")
    assert target.shown == "redis+sentinel://a:26379,b:26379/main"
    assert SECRET not in repr(target)
    assert "me" not in target.shown
