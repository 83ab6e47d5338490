"""torch and Triton, which a service does without unless the `torch` engine is chosen; looked for here alone."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any

from service.engines.native import EngineAbsent

Torch = Any
Tensor = Any


def find_torch() -> Torch:
    """The package torch.

    Raises:
        EngineAbsent: it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise EngineAbsent(f"torch is not installed ({error})") from error


def find_device(torch: Torch, name: str) -> Any:
    """A device by its name.

    Raises:
        EngineAbsent: it is a CUDA device, and none is at hand.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EngineAbsent("torch finds no CUDA device")
    return torch.device(name)


def find_kernels(device: Any) -> Any | None:
    """The module of Triton kernels, or None where they cannot run: the plain operators of torch serve instead.

    On a CPU they run in Triton's interpreter, which TRITON_INTERPRET=1 asks for before Triton is first imported.
    """
    if find_spec("triton") is None or (device.type == "cpu" and not interpreted()):
        return None
    return importlib.import_module("service.engines.gpu.kernels")


def interpreted() -> bool:
    """Whether kernels are run by Triton's interpreter, which takes one launch at a time."""
    return os.environ.get("TRITON_INTERPRET") == "1"
