"""`espalier score`: ask a running service for scores and show them as a table."""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

Url = Annotated[str, typer.Option(help="Address of the service.", envvar="ESPALIER_URL")]
User = Annotated[str, typer.Option(help="User id.")]
Domain = Annotated[str, typer.Option(help="Domain id, of the natural division.")]
Items = Annotated[list[str], typer.Option("--item", help="Item id; repeat it for several.")]
Contexts = Annotated[list[str] | None, typer.Option("--context", help="NAME=VALUE of a context field; repeat it.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse rather than fall back.")]
Token = Annotated[str | None, typer.Option(help="Bearer token.", envvar="ESPALIER_TOKEN", show_envvar=True)]
Ca = Annotated[Path | None, typer.Option(help="PEM file of the authorities that may sign the service's certificate.")]
Cert = Annotated[
    Path | None, typer.Option(help="PEM file of a client certificate, for a service that asks for one; with its key.")
]
Key = Annotated[Path | None, typer.Option(help="PEM file of the client certificate's key, where --cert has none.")]
Json = Annotated[bool, typer.Option("--json", help="Print the reply as it came.")]

TIMEOUT_S = 30.0
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


def score(
    user: User,
    domain: Domain,
    item: Items,
    url: Url = "http://127.0.0.1:8000",
    context: Contexts = None,
    strict: Strict = False,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Score items for a user in a domain."""
    import httpx

    body: dict[str, Any] = {"user_id": user, "domain_id": domain, "item_ids": item, "strict": strict}
    if context:
        body["context"] = dict(map(_pair, context))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    trust = _trust(ca, cert, key)
    try:
        answer = httpx.post(f"{url.rstrip('/')}/score", json=body, headers=headers, timeout=TIMEOUT_S, verify=trust)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _fail(f"no service answers at {url}: {error or type(error).__name__}")
    if answer.is_error:
        _fail(_refusal(answer))
    if as_json:
        typer.echo(answer.text)
    else:
        show(Console(highlight=False), item, answer.json())


def show(console: Console, items: list[str], reply: dict[str, Any]) -> None:
    """Print a reply as a table, best item first.

    Args:
        console: where.
        items: as asked, in the order of the scores.
        reply: of POST /score.
    """
    unknown = set(reply["unknown_items"])
    notes = ["note"] if unknown else []
    table = Table("item", "score", *notes, title=f"domain {reply['domain_id']}")
    for position in sorted(range(len(items)), key=lambda each: -reply["scores"][each]):
        note = "unknown item" if position in unknown else ""
        table.add_row(items[position], f"{reply['scores'][position]:.6f}", *([f"[dim]{note}[/dim]"] if notes else []))
    console.print(table)
    console.print(served_by(reply["served"], reply["unknown_user"]), markup=False)


def served_by(served: dict[str, Any], unknown_user: bool) -> str:
    """One line on what scored."""
    adapter = "no adapter of its own" if served["revision"] is None else f"{served['alias']} {served['revision'][:12]}"
    parts = [f"scored by {adapter} on backbone {served['backbone'][:12]}"]
    if served["fuses"]:
        parts.append("fused with " + ", ".join(sorted(served["fuses"])))
    if served["fallback"]:
        parts.append(f"fallback: {served['fallback']}")
    if unknown_user:
        parts.append("the user is unknown")
    return "; ".join(parts)


def _pair(text: str) -> tuple[str, str | float]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--context takes NAME=VALUE, not {text!r}")
    # a dense field takes a number only; a sparse one takes 18 and "18" for the same
    number = json.loads(value) if _NUMBER.fullmatch(value) else value
    return name, number


def _trust(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | bool:
    """What is spoken with a service over TLS; True is the machine's own authorities and no client certificate."""
    if key is not None and cert is None:
        raise typer.BadParameter("--key is the key of a certificate: give --cert too")
    if ca is None and cert is None:
        return True
    for path in (ca, cert, key):
        if path is not None and not path.is_file():
            raise typer.BadParameter(f"{path} is no file")
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        named = ", ".join(str(path) for path in (ca, cert, key) if path is not None)
        raise typer.BadParameter(f"{named}: no certificates, or not the key of them: {error}") from error
    return context


def _refusal(answer: Any) -> str:
    try:
        problem = answer.json()
        return f"{problem['status']} {problem['title']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason_phrase}: this address is no Espalier service"


def _fail(message: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red", markup=False)
    raise typer.Exit(1)
