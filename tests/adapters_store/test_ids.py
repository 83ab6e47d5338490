"""Ids are checked at every entry."""

import pytest

from adapters_store.errors import BadId
from adapters_store.ids import check_division, check_domain, check_revision

GOOD = ["a", "7", "theme-1", "age=25", "tenant:42", "v1.2", "A_b", "x" * 128]
BAD = ["", "-a", ".a", "_a", "a b", "a/b", "a\n", "é", "x" * 129, "a%2F", "..", "a\0"]


@pytest.mark.parametrize("name", GOOD)
def test_good_names_come_back_as_they_are(name: str) -> None:
    """Law: a checked id is the id that was given."""
    assert check_domain(name) == name
    assert check_division(name) == name


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused(name: str) -> None:
    """Law: nothing outside the pattern passes, not even with a line break behind it."""
    for check in (check_domain, check_division):
        with pytest.raises(BadId, match="is no d"):
            check(name)


def test_revision_is_64_lower_hex_digits() -> None:
    """Law: a revision is exactly a sha256 in lower-case hex."""
    assert check_revision("0a" * 32) == "0a" * 32
    for bad in ("0A" * 32, "0a" * 31, "0a" * 32 + "\n", "g" * 64, ""):
        with pytest.raises(BadId, match="is no revision"):
            check_revision(bad)


def test_long_nonsense_is_shown_shortened() -> None:
    """Law: a message never repeats an unbounded input."""
    with pytest.raises(BadId) as caught:
        check_domain("?" * 100_000)
    assert len(str(caught.value)) < 300
