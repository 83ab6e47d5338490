"""Laws of what is read of a blob at most."""

from __future__ import annotations

import pytest

from adapters_store.bounds import Bound
from adapters_store.errors import DigestMismatch, LimitExceeded

DIGEST = "a" * 64


def test_more_than_allowed_is_refused_and_more_than_there_is_was_damaged() -> None:
    """Law: a bound refuses for good what is larger; where it is the blob's own size, what is larger was damaged.

    Only the latter is looked for again: whoever puts the blob right is served.
    """
    for bound in (Bound(10, "setting most"), Bound(10, "manifest", exact=True)):
        bound.check(DIGEST, 10)
    with pytest.raises(LimitExceeded, match=f"{DIGEST} is larger than the 10 bytes that setting most allows"):
        Bound(10, "setting most").check(DIGEST, 11)
    with pytest.raises(DigestMismatch, match=f"{DIGEST} in the store has more than the 10 bytes of manifest"):
        Bound(10, "manifest", exact=True).check(DIGEST, 11)
