"""Opens stores in a running Redis for tests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from adapters_store.redis import RedisBackend, open_redis
from tests.adapters_store.contract import Open


async def opened(url: str, **options: object) -> AsyncIterator[Open]:
    """Clients of one empty store, closed at the end."""
    query = "&".join(f"{name}={value}" for name, value in {"prefix": secrets.token_hex(8), **options}.items())
    clients: list[RedisBackend] = []

    def connect() -> RedisBackend:
        clients.append(open_redis(f"{url}?{query}", timeout_s=5))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()
