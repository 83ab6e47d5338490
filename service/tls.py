"""TLS and mutual TLS of the listeners, whose certificates can be replaced while connections are open."""

from __future__ import annotations

import ssl
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from service.refusals import SettingsInvalid
from service.settings import Settings


class Tls:
    """What every listener of a process speaks TLS with. TLS 1.2 and later, HTTP/1.1 only.

    `context` stays the same object, so that a listener keeps it; it hands each new handshake to a context that was made
    from the files as they were at the last good reload. So a reload takes effect as a whole or not at all, and an
    authority that was taken out of `client_ca` is no longer trusted (loading into the same context only ever adds).

    Args:
        cert: certificate chain in PEM, the server's own first.
        key: its private key in PEM, not encrypted; in `cert` if None.
        client_ca: authorities in PEM; a client without a certificate that one of them signed is turned away in the
            handshake. With it sessions are not resumed, since that would skip the check.
        log: told of reloads.

    Raises:
        SettingsInvalid: a file is missing or unreadable, or key and certificate do not belong together.
    """

    def __init__(self, cert: Path, key: Path | None, client_ca: Path | None, log: FilteringBoundLogger) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._log = log
        self._current = self._read()
        self.context = self._read()
        self.context.sni_callback = self._hand_over

    def reload(self) -> bool:
        """Read the files again, for handshakes from now on; connections that are open stay.

        Returns:
            Whether they are in force. Files with a fault leave the old certificates in force, and are logged.
        """
        try:
            self._current = self._read()
        except SettingsInvalid as error:
            self._log.error("certificates_kept", reason=str(error))
            return False
        self._log.info("certificates_reloaded", cert=self._cert.name)
        return True

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _read(self) -> ssl.SSLContext:
        raise NotImplementedError


def open_tls(settings: Settings, log: FilteringBoundLogger) -> Tls | None:
    """The TLS side of the settings, or None where they name no certificate.

    For uvicorn: `Config(ssl_context_factory=lambda config, default: tls.context)`; the same one for both ports. Reload
    with `tls.reload()` on SIGHUP, in every worker.

    Raises:
        SettingsInvalid: a file has a fault, or there is a key or a client authority without a certificate.
    """
    raise NotImplementedError
