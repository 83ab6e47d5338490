"""How much of a blob is read at most: a store that gives more for a digest is refused before that fills memory."""

from dataclasses import dataclass

from adapters_store.errors import DigestMismatch, LimitExceeded


@dataclass(frozen=True, slots=True)
class Bound:
    """How large a blob may be, and who says so.

    Args:
        size_bytes: At most.
        source: What allows so much, as a refusal names it: a setting, a manifest, a format.
        exact: The blob of this digest has so many bytes; one with more was damaged, and may be put right.
    """

    size_bytes: int
    source: str
    exact: bool = False

    def check(self, digest: str, size_bytes: int) -> None:
        """Refuse a blob that is larger.

        Args:
            digest: Of the blob.
            size_bytes: Of what the store has under this digest; the first so many bytes, where it does not say.

        Raises:
            LimitExceeded: It is larger; digest, limit and who set it are named.
            DigestMismatch: It is larger than this blob is.
        """
        if size_bytes > self.size_bytes and self.exact:
            raise DigestMismatch(
                f"blob {digest} in the store has more than the {self.size_bytes} bytes of {self.source}"
            )
        if size_bytes > self.size_bytes:
            raise LimitExceeded(f"blob {digest} is larger than the {self.size_bytes} bytes that {self.source} allows")


# What no kind of blob exceeds (a bundle's tensor file may be the largest): for commands that read blobs of any kind.
# A replica knows what it reads, and names a bound of that kind.
ANY_BLOB = Bound(2**40, "any format")
