"""What the server says is live and canary before the test changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

from loadtest.errors import LoadTestError
from loadtest.ledger import Ledger

PAGE = 1000


class Client(Protocol):
    """Sends a GET; Locust's sessions do."""

    def get(self, url: str, *, headers: Mapping[str, str], name: str) -> Any:
        """The answer, with `status_code` and `json()`."""


def read_standing(client: Client, headers: Mapping[str, str], ledger: Ledger) -> None:
    """Book every domain's live and canary revision, page by page.

    Raises:
        LoadTestError: the server cannot be asked, or refuses.
    """
    after: str | None = ""
    while after is not None:
        answer = client.get(f"/adapters?limit={PAGE}&after={quote(after)}", headers=headers, name="list")
        if answer.status_code != 200:
            raise LoadTestError(
                f"GET /adapters answered {answer.status_code or 'nothing'}: the server must run at --host, and "
                "--token-file must hold a token with the scopes score, read and publish:*"
            )
        page = answer.json()
        for row in page["adapters"]:
            canary = None if row["canary"] is None else row["canary"]["revision"]
            ledger.found(row["domain"], {"live": row["effective_live"], "canary": canary})
        after = page["next"]
