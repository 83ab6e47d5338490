"""A plain HTTP/1.1 client on one kept connection: cheap enough to share a core with what is measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit


class Wire:
    """One connection; a context that is open while it is entered. Only for answers with a Content-Length.

    Args:
        url: http://host:port of the server.
        headers: sent with every request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": parts.netloc, **headers}.items())

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """Status and body of the answer."""
        head = f"POST {path} HTTP/1.1\r\n{self._head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        told = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(told.split("\ncontent-length:", 1)[1].split("\r", 1)[0])
        return int(told.split(" ", 2)[1]), await self._reader.readexactly(length)

    async def score(self, user: str, domain: str, items: list[str]) -> dict[str, Any]:
        """The answer to one scoring request.

        Raises:
            RuntimeError: it is not 200.
        """
        status, body = await self.post("/score", score_body(user, domain, items))
        if status != 200:
            raise RuntimeError(f"{status}: {body[:300].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(body)
        return answer


def score_body(user: str, domain: str, items: list[str]) -> bytes:
    """The JSON of a scoring request."""
    return json.dumps({"user_id": user, "domain_id": domain, "item_ids": items}).encode()
