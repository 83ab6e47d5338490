"""Errors of the network.

NetworkError
├── ShapeError      a tensor's name or shape does not fit the network
└── ExportError     the ONNX graph is not one that we serve
"""

from __future__ import annotations


class NetworkError(Exception):
    """Any error that this package raises on purpose."""


class ShapeError(NetworkError):
    """A tensor's name or shape does not fit the network."""


class ExportError(NetworkError):
    """The exported graph breaks a rule of the bundle: an unknown operator, outside data, or too many bytes."""
