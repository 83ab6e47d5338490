"""The CPU kernel behind Espalier's `native` engine; see docs/kernels.md of Espalier."""

from espalier_kernels._native import Adapter, Network, instruction_sets

__all__ = ["Adapter", "Network", "instruction_sets"]
