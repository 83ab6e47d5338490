"""`--ray` with an address, without one, and at the end of the line."""

from __future__ import annotations

import pytest

from cli.train_options import address_of, with_address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (["--ray"], None),
        (["--ray", "--out", "run"], None),
        (["--ray", "-h"], None),
        (["--ray", "10.0.0.7:6379", "--out", "run"], "10.0.0.7:6379"),
        (["--out", "run", "--ray", "auto"], "auto"),
    ],
)
def test_ray_takes_the_address_that_follows_it(given: list[str], address: str | None) -> None:
    """Law: the next word is the address unless it is an option or missing; then a cluster is started here."""
    filled = with_address(given)
    assert address_of(filled[filled.index("--ray") + 1]) == address
    assert [word for word in filled if word != "local"] == given


def test_other_words_stay_as_they_are() -> None:
    """Law: without `--ray`, or with its address behind an equals sign, nothing is filled in."""
    for words in (["--out", "run"], ["--ray=10.0.0.7:6379"], []):
        assert with_address(words) == words
