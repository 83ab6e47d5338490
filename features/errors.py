"""Every error of this package.

FeatureError
├── InvalidValue        a raw value that no index can hold
├── MalformedTensors    tensors of a file that do not describe what they claim to
├── BadTable            a file of users or items that cannot be published
└── ContextError        a request's context that does not fit the field spec
"""

from __future__ import annotations


class FeatureError(Exception):
    """Whatever is wrong with features; the message says what and where."""


class InvalidValue(FeatureError):
    """A raw value that cannot be stored in an index."""


class MalformedTensors(FeatureError):
    """Tensors whose names, types, shapes or values do not fit the field spec."""


class BadTable(FeatureError):
    """A file of users or items that cannot be read, or does not hold what the field spec needs."""


class ContextError(FeatureError):
    """A context value of the wrong type.

    Args:
        field: the name of the field at fault.
        message: what is wrong and what is expected.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
