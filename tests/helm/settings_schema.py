"""What the chart's schema says of `settings:`, derived from the service's own settings.

`python -m tests.helm.settings_schema` writes it into values.schema.json after a change of service/settings.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.settings import Settings

CHART = Path(__file__).resolve().parents[2] / "helm" / "espalier"
SCHEMA = CHART / "values.schema.json"

# settings that name a secret, a folder or a name of the pod: the chart knows those, from the values named here
OWNED = {
    "store": "store",
    "replica_id": "(the pod's name)",
    "tokens": "tokens",
    "tls_cert": "tls",
    "tls_key": "tls",
    "tls_client_ca": "tls",
    "cache_dir": "cache",
    "feedback_dir": "feedback",
}
_KEPT = (
    "type",
    "items",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "pattern",
    "description",
    "default",
)


def schema_of_settings() -> dict[str, Any]:
    """The JSON schema of every setting that stands in `settings:`; what stays unset is left out there, never null."""
    fields = Settings.model_json_schema()["properties"]
    return {
        "description": "Settings of `espalier serve`; what is not given has the service's default.",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _without_null(fields[name]) for name in fields if name not in OWNED},
    }


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    flat = dict(field)
    for member in field.get("anyOf", ()):
        if member.get("type") != "null":
            flat.update(member)
    kept = {key: flat[key] for key in _KEPT if key in flat}
    if kept.get("default", "") is None:
        del kept["default"]
    return kept


def main() -> None:
    """Write the settings' part of the chart's schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["settings"] = schema_of_settings()
    SCHEMA.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
