"""docs/api.md: the API reference, written from the OpenAPI description of a running service.

`python -m tests.docs_api` writes it after a change of the routes; a test compares the two.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.forge import Run
from tests.factory import make_run
from tests.service.live import espalier

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
METHODS = ("get", "post", "put", "delete")
INTRODUCTION = """\
# API reference

Written by `python -m tests.docs_api` from what the service says of itself at `/openapi.json`; `/docs` shows the
same to click through. Do not edit it by hand: a test compares the two.

A route that needs a token wants `Authorization: Bearer …`; which scope stands in
[architecture.md](architecture.md), which port it is on with `admin_port` in [operate.md](operate.md). Every error is a
[Problem](#problem).
"""
Schema = Mapping[str, Any]


def reference(description: Schema) -> str:
    """The whole page.

    Args:
        description: OpenAPI, as /openapi.json answers.

    Returns:
        Markdown.
    """
    operations = [
        (f"{method.upper()} {path}", path_item[method])
        for path, path_item in description["paths"].items()
        for method in METHODS
        if method in path_item
    ]
    parts = [INTRODUCTION, _contents(operations)]
    parts += [_operation(title, operation) for title, operation in operations]
    parts.append("# Schemas\n")
    parts += [_schema(name, schema) for name, schema in sorted(description["components"]["schemas"].items())]
    return "\n".join(parts)


def _contents(operations: Iterable[tuple[str, Schema]]) -> str:
    rows = ((f"[`{title}`](#{_anchor(title)})", _summary(operation)) for title, operation in operations)
    return _table(("route", "does"), rows)


def _operation(title: str, operation: Schema) -> str:
    token = "Needs a token." if operation.get("security") else "Needs no token."
    parts = [f"## {title}\n", f"{operation.get('description', operation['summary'])}\n", f"{token}\n"]
    if given := operation.get("parameters"):
        rows = (
            (f"`{p['name']}`", p["in"], _needed(p), _type(p["schema"]), _cell(p.get("description", _about(p))))
            for p in given
        )
        parts.append(_table(("parameter", "in", "required", "type", "meaning"), rows))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body: `{media}`{_required(operation['requestBody'])}, {_type(content['schema'])}\n")
        if what := operation["requestBody"].get("description"):
            parts.append(f"{what}\n")
        if "properties" in content["schema"]:
            parts.append(_fields(content["schema"]))
        parts.append(_example(content))
    answers = sorted(operation["responses"].items())
    told = ((status, _cell(answer["description"]), _answered(answer), _headers(answer)) for status, answer in answers)
    parts.append(_table(("status", "means", "body", "headers"), told))
    parts += [_example(content) for _, answer in answers for content in answer.get("content", {}).values()]
    return "\n".join(part for part in parts if part)


def _schema(name: str, schema: Schema) -> str:
    parts = [f"## {name}\n", f"{schema['description']}\n" if "description" in schema else ""]
    parts.append(_fields(schema) if "properties" in schema else f"{_type(schema)}\n")
    parts.append(_example({"schema": schema}))
    return "\n".join(part for part in parts if part)


def _fields(schema: Schema) -> str:
    required = schema.get("required", ())
    rows = (
        (f"`{name}`", "yes" if name in required else "no", _type(field), _cell(field.get("description", "")))
        for name, field in schema["properties"].items()
    )
    tables = [_table(("field", "required", "type", "meaning"), rows)]
    for name, field in schema["properties"].items():
        if "properties" in field.get("items", {}):
            tables += [f"Each of `{name}`:\n", _fields(field["items"])]
    return "\n".join(tables)


def _type(schema: Schema) -> str:
    """A schema in a few words, with its bounds; a reference as a link."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{_anchor(name)})"
    for key in ("anyOf", "oneOf"):
        if key in schema and "properties" not in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}{_bounds(schema)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    return f"{kind if isinstance(kind, str) else ' or '.join(kind)}{_bounds(schema)}"


def _bounds(schema: Schema) -> str:
    words = {
        "minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<", "minItems": "at least",
        "maxItems": "at most", "minLength": "characters >=", "maxLength": "characters <=", "format": "format",
        "pattern": "pattern", "default": "default",
    }  # fmt: skip
    said = [f"{word} `{_shown(schema[key])}`" for key, word in words.items() if schema.get(key) is not None]
    return f" ({_cell(', '.join(said))})" if said else ""


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _example(content: Schema) -> str:
    example = content.get("example", content.get("schema", {}).get("example"))
    return "" if example is None else f"```json\n{json.dumps(example, indent=2)}\n```\n"


def _answered(answer: Schema) -> str:
    kinds = (f"{_type(content['schema'])}" for content in answer.get("content", {}).values() if content.get("schema"))
    return ", ".join(dict.fromkeys(kinds)) or ", ".join(f"`{media}`" for media in answer.get("content", ()))


def _headers(answer: Schema) -> str:
    named = answer.get("headers", {}).items()
    return ", ".join(f"`{name}`: {_cell(header.get('description', ''))}" for name, header in named)


def _needed(parameter: Schema) -> str:
    return "yes" if parameter.get("required") else "no"


def _required(body: Schema) -> str:
    return " (required)" if body.get("required") else ""


def _about(parameter: Schema) -> str:
    return str(parameter["schema"].get("description", ""))


def _summary(operation: Schema) -> str:
    return _cell(operation.get("description", operation["summary"]).split("\n")[0])


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    kept = (letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


async def described(run: Run) -> dict[str, Any]:
    """What a service over a run says of itself."""
    async with espalier(run) as live:
        answer: dict[str, Any] = (await live.client.get("/openapi.json")).json()
        return answer


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run")
        PAGE.write_text(reference(asyncio.run(described(run))))


if __name__ == "__main__":
    main()
