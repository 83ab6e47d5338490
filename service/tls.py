"""TLS and mutual TLS of the listeners, whose certificates can be replaced while connections are open."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from service.clock import Clock, slept
from service.refusals import SettingsInvalid
from service.settings import Settings


class Tls:
    """What every listener of a process speaks TLS with: TLS 1.2 and later, with client certificates TLS 1.3 only.

    `context` stays the same object, so that a listener keeps it; it hands each new handshake to a context that was made
    from the files as they were at the last good reload. So a reload takes effect as a whole or not at all, and an
    authority that was taken out of `client_ca` is no longer trusted (loading into the same context only ever adds).

    Args:
        cert: certificate chain in PEM, the server's own first.
        key: its private key in PEM, not encrypted; in `cert` if None.
        client_ca: authorities in PEM; a client without a certificate that one of them signed is turned away in the
            handshake. With it no session is resumed, since that would skip the check.
        log: told of reloads.

    Raises:
        SettingsInvalid: a file is missing or unreadable, or key and certificate do not belong together.
    """

    def __init__(self, cert: Path, key: Path | None, client_ca: Path | None, log: FilteringBoundLogger) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._paths = [path for path in (cert, key, client_ca) if path is not None]
        self._tried: list[bytes | None] = []
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

    async def follow(self, clock: Clock, every_s: float) -> None:
        """Look for renewed files for ever; run it as a task and cancel it at the end.

        Files with a fault are tried once, and again when they have changed: a renewal writes one after the other.

        Args:
            clock: by which the times of looking are counted.
            every_s: between two looks, seconds.
        """
        while True:
            await slept(clock, every_s)
            if await asyncio.to_thread(self._contents) != self._tried:
                self.reload()

    def _contents(self) -> list[bytes | None]:
        return [_content(path) for path in self._paths]

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _read(self) -> ssl.SSLContext:
        # before they are used: what changes in between is then taken for a change at the next look
        self._tried = self._contents()
        for path in self._paths:
            _check_readable(path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # without a password of ours OpenSSL would ask for one on the terminal
            context.load_cert_chain(self._cert, self._key, password=_refuse_encrypted)
        except ssl.SSLError as error:
            raise SettingsInvalid(
                f"the certificate {self._cert} and its key {self._key or 'in the same file'} cannot be used: "
                f"{_said(error)}; both are PEM, and the certificate must be the key's"
            ) from error
        if self._client_ca is not None:
            _require_clients(context, self._client_ca)
        return context


def open_tls(settings: Settings, log: FilteringBoundLogger) -> Tls | None:
    """The TLS side of the settings, or None where they name no certificate.

    For uvicorn: `Config(ssl_context_factory=lambda config, default: tls.context)`; the same one for both ports. Every
    worker reloads it on SIGHUP and follows its files.

    Raises:
        SettingsInvalid: a file has a fault, or there is a key or a client authority without a certificate.
    """
    if settings.tls_cert is None:
        for name in ("tls_key", "tls_client_ca"):
            if getattr(settings, name) is not None:
                raise SettingsInvalid(f"{name} is set without tls_cert: set both, or neither to speak plain HTTP")
        return None
    return Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca, log)


def _require_clients(context: ssl.SSLContext, client_ca: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    # a resumed session shows no certificate, so an authority that is no longer trusted would go on letting in;
    # without tickets TLS 1.3 resumes nothing, while 1.2 also keeps sessions in a cache that Python cannot turn off
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise SettingsInvalid(
            f"the client authorities {client_ca} cannot be used: {_said(error)}; they are PEM certificates"
        ) from error


def _content(path: Path) -> bytes | None:
    try:
        # a digest, so that a key is not kept in memory a second time
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None


def _check_readable(path: Path) -> None:
    # the ssl module's own error does not say which of the files it is
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsInvalid(f"the TLS file {path} cannot be read: {error.strerror}") from error


def _refuse_encrypted() -> str:
    raise SettingsInvalid("the TLS key is encrypted, and nobody is there to type its password: store it decrypted")


def _said(error: ssl.SSLError) -> str:
    return (error.reason or type(error).__name__).lower().replace("_", " ")
