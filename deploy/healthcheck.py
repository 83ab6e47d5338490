"""Ask the service in this container one probe; status 0 when it answers 200. Used where a prober cannot ask itself.

With mutual TLS the service's own certificate is shown as the client's, so `tls_client_ca` must accept it.
"""

from __future__ import annotations

import argparse
import http.client
import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

PREFIX = "ESPALIER_"
TIMEOUT_S = 4.0


def setting(name: str, content: Mapping[str, object], environ: Mapping[str, str]) -> str | None:
    """One setting as the service reads it: the variable goes before the file; None when it stands in neither."""
    value = environ.get(PREFIX + name.upper(), content.get(name))
    return None if value is None else str(value)


def status_of(probe: str, content: Mapping[str, object], environ: Mapping[str, str]) -> int:
    """The status that `/healthz/<probe>` answers on this machine.

    Args:
        probe: startup, ready or live.
        content: of the settings file.
        environ: variables.

    Raises:
        OSError: nobody answers.
        http.client.HTTPException: what answers speaks no HTTP.
    """
    port = int(setting("port", content, environ) or 8000)
    host = setting("host", content, environ) or "127.0.0.1"
    # an address that means "all" is no address to ask
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host)
    certificate = setting("tls_cert", content, environ)
    connection: http.client.HTTPConnection
    if certificate is None:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    else:
        # the name in the certificate is the service's, not the loopback's, and nobody else listens here
        context = ssl._create_unverified_context()
        if setting("tls_client_ca", content, environ) is not None:
            context.load_cert_chain(certificate, setting("tls_key", content, environ))
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", f"/healthz/{probe}")
        return connection.getresponse().status
    finally:
        connection.close()


def main() -> int:
    """Read the arguments, ask, and say what was wrong."""
    arguments = argparse.ArgumentParser(description="Ask the service in this container one probe.")
    arguments.add_argument("--config", type=Path, help="settings file that `espalier serve` was given")
    arguments.add_argument("probe", choices=("startup", "ready", "live"))
    given = arguments.parse_args()
    content = {} if given.config is None else yaml.safe_load(given.config.read_text(encoding="utf-8")) or {}
    try:
        status = status_of(given.probe, content, os.environ)
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"/healthz/{given.probe} answered {status}", file=sys.stderr)
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main())
