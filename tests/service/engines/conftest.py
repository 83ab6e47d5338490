"""Triton's kernels run in its interpreter here; that is decided when Triton is imported, so before any test is."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
