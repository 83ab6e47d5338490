"""`memory://` keeps the contract."""

import pytest

from adapters_store.memory import MemoryBackend
from tests.adapters_store.contract import BackendContract, Open


class TestMemory(BackendContract):
    """Two clients of a memory store share the object."""

    @pytest.fixture
    def open_backend(self) -> Open:
        """The one object."""
        backend = MemoryBackend()
        return lambda: backend
