"""The errors of the adapters_store room.

::

    StoreError
    ├── BadId                     a domain, division, revision, percentage or store URL that is not one
    ├── StoreUnavailable          the store cannot be reached, read or written
    ├── StoreRefused              a store that does not keep the promises that writing needs
    ├── BlobMissing               no blob of this digest
    ├── RecordError
    │   ├── RecordConflict        a condition on a record does not hold (any longer)
    │   ├── DomainUnknown         no record of this domain
    │   ├── NothingToRollBack     no earlier revision that has not been rolled back from
    │   ├── Frozen                changes are stopped, for this domain or for all
    │   ├── NotStaged             a release that too few replicas have prepared
    │   ├── NewerSchema           a record that a newer build wrote in a form that this one must not read
    │   └── MalformedRecord       a stored record that this build cannot read
    └── ArtifactError             an artifact is refused
        ├── MalformedArtifact     not in the form that its kind prescribes
        ├── LimitExceeded         larger than a limit, told before anything is allocated
        ├── DigestMismatch        bytes that are not what their name or manifest says
        ├── WrongFingerprint      made for other backbone weights
        ├── WrongDomain           of another domain or division than the one it is meant for
        ├── MissingPin            a pinned adapter or fusion is absent
        ├── WrongPin              a pinned adapter or fusion is of a kind that cannot be pinned here
        ├── DoesNotFit            names or shapes that the backbone does not have
        ├── BadValue              a value that is not finite, or a negative variance
        └── GoldenMismatch        the engine does not reproduce the golden rows

No error carries an HTTP status: the one table from error to status is in `service`.
"""


class StoreError(Exception):
    """Root of every error of this room."""


class BadId(StoreError):
    """A domain, division, revision, percentage or store URL that is not one."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, read or written."""


class StoreRefused(StoreError):
    """A store that does not keep the promises that writing needs: it may evict, is not durable, ignores conditions."""


class BlobMissing(StoreError):
    """No blob of this digest is in the store."""


class RecordError(StoreError):
    """Something about a record, not about an artifact."""


class RecordConflict(RecordError):
    """A condition on a record does not hold (any longer)."""


class DomainUnknown(RecordError):
    """The store has no record of this domain."""


class NothingToRollBack(RecordError):
    """No earlier revision is left that has not been rolled back from."""


class Frozen(RecordError):
    """Changes are stopped, for this domain or for all; the message says by whom and why."""


class NotStaged(RecordError):
    """A release that too few replicas have prepared."""


class NewerSchema(RecordError):
    """A record that a newer build wrote in a form that this one must not read; the message names the schema."""


class MalformedRecord(RecordError):
    """A stored record that this build cannot read."""


class ArtifactError(StoreError):
    """An artifact is refused."""


class MalformedArtifact(ArtifactError):
    """Not in the form that its kind prescribes."""


class LimitExceeded(ArtifactError):
    """Larger than a limit; told before anything of that size is allocated."""


class DigestMismatch(ArtifactError):
    """Bytes that are not what their name or manifest says."""


class WrongFingerprint(ArtifactError):
    """Made for other backbone weights than these."""


class WrongDomain(ArtifactError):
    """Of another domain or division than the one it is meant for."""


class MissingPin(ArtifactError):
    """A pinned adapter or fusion is absent."""


class WrongPin(ArtifactError):
    """A pinned adapter or fusion is of a kind that cannot be pinned here."""


class DoesNotFit(ArtifactError):
    """Names or shapes that the backbone does not have."""


class BadValue(ArtifactError):
    """A value that is not finite, or a negative variance."""


class GoldenMismatch(ArtifactError):
    """The engine does not reproduce the golden rows."""
