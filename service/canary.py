"""Which users a canary scores: a fixed share of them, the same on every replica."""

from __future__ import annotations

from hashlib import sha256


def in_canary(salt: str, user_id: str | int, percent: float) -> bool:
    """Whether a user is among the canary's.

    The bucket is the first 8 bytes of sha256(salt, NUL, user id) over 2**64: while the salt stands, raising percent
    only adds users.

    Args:
        salt: of the canary, drawn when it was set.
        user_id: an integer equals its decimal string.
        percent: share of all users, 0 to 100.
    """
    hashed = sha256(f"{salt}\0{user_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(hashed[:8], "big") * 100 < percent * 2**64
