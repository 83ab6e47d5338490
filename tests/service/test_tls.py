"""TLS and mutual TLS: who is let in, and certificates that are replaced while the service runs."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from fastapi import FastAPI

from service.listening import bound_socket
from service.logs import open_log
from service.refusals import SettingsInvalid
from service.server import QuietServer, uvicorn_config
from service.tls import Tls, open_tls
from tests.servers.certificates import Certificates, make_certificates
from tests.service.clockwork import ManualClock, turns_until
from tests.service.live import settings_of

GREETING = b"hello"


class Service:
    """TLS over the files of a folder, which a test replaces as an operator would.

    Args:
        folder: where the files are.
        mutual: whether clients need a certificate.
    """

    def __init__(self, folder: Path, *, mutual: bool = False) -> None:
        self.folder = folder
        self.files = made(folder / "service")
        self.clients = made(folder / "clients")
        self.log = io.StringIO()
        client_ca = self.clients.ca if mutual else None
        self.tls = Tls(self.files.cert, self.files.key, client_ca, open_log(stream=self.log))

    def renew(self, name: str) -> Certificates:
        """Put new certificates of a new authority into the place of the old ones."""
        fresh, old = made(self.folder / "new" / name), self.folder / name
        for path in (fresh.ca, fresh.cert, fresh.key):
            shutil.copy(path, old / path.name)
        return fresh

    @property
    def events(self) -> list[str]:
        """What was logged."""
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]

    @asynccontextmanager
    async def greeting(self) -> AsyncIterator[int]:
        """A server that greets whoever sends a byte, and again for each; yields its port."""

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError, ssl.SSLError):
                while await reader.read(1):
                    writer.write(GREETING)
                    await writer.drain()
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

        server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=self.tls.context)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            await server.wait_closed()


class Client:
    """A client with its own idea of whom to trust and of who it is.

    Args:
        trusts: whose authority it trusts.
        shows: whose certificate it shows, if any.
    """

    def __init__(self, trusts: Certificates, shows: Certificates | None = None) -> None:
        self.context = ssl.create_default_context(cafile=trusts.ca)
        if shows is not None:
            self.context.load_cert_chain(shows.cert, shows.key)

    async def open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection."""
        return await asyncio.open_connection("127.0.0.1", port, ssl=self.context)

    async def is_greeted(self, port: int) -> bool:
        """Whether the server talks to it; a refusal is an error of either side's handshake."""
        try:
            reader, writer = await self.open(port)
        except (ssl.SSLError, ConnectionError):
            return False
        try:
            return await greeted(reader, writer)
        finally:
            writer.close()
            with suppress(ssl.SSLError, ConnectionError):
                await writer.wait_closed()


@pytest.fixture
def plain(tmp_path: Path) -> Service:
    """TLS without client certificates."""
    return Service(tmp_path)


@pytest.fixture
def mutual(tmp_path: Path) -> Service:
    """TLS with client certificates required."""
    return Service(tmp_path, mutual=True)


async def test_a_client_that_trusts_the_authority_is_answered(plain: Service, tmp_path: Path) -> None:
    """Law: the certificate shown is the file's; who trusts another authority does not believe it."""
    async with plain.greeting() as port:
        assert await Client(plain.files).is_greeted(port)
        assert not await Client(made(tmp_path / "other")).is_greeted(port)


async def test_only_tls_1_2_and_later_are_spoken(plain: Service) -> None:
    """Law: a client that offers nothing newer than TLS 1.1 is refused, one with 1.2 is not."""
    old, newer = Client(plain.files), Client(plain.files)
    old.context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        old.context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        old.context.maximum_version = ssl.TLSVersion.TLSv1_1
    newer.context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with plain.greeting() as port:
        assert not await old.is_greeted(port)
        assert await newer.is_greeted(port)


async def test_mutual_tls_lets_in_only_whom_the_authority_signed(mutual: Service, tmp_path: Path) -> None:
    """Law: no certificate, or one of another authority (the server's own too), ends in the handshake."""
    async with mutual.greeting() as port:
        assert await Client(mutual.files, mutual.clients).is_greeted(port)
        for shown in (None, made(tmp_path / "other"), mutual.files):
            assert not await Client(mutual.files, shown).is_greeted(port)


async def test_mutual_tls_is_spoken_in_tls_1_3_only(mutual: Service) -> None:
    """Law: in TLS 1.2 a session could be resumed past the check of the certificate, so it is not offered."""
    old = Client(mutual.files, mutual.clients)
    old.context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with mutual.greeting() as port:
        assert not await old.is_greeted(port)


async def test_new_connections_see_the_renewed_certificate_and_open_ones_stay(plain: Service) -> None:
    """Law: a reload changes what the next handshake shows, breaks no connection, and needs no new listener."""
    before, context = replace(plain.files, ca=kept(plain.files.ca)), plain.tls.context
    async with plain.greeting() as port:
        reader, writer = await Client(before).open(port)
        fresh = plain.renew("service")
        assert not await Client(fresh).is_greeted(port)
        assert plain.tls.reload()
        assert plain.tls.context is context
        assert await Client(fresh).is_greeted(port)
        assert not await Client(before).is_greeted(port)
        assert await greeted(reader, writer)
        writer.close()
        await writer.wait_closed()
    assert plain.events == ["certificates_reloaded"]


async def test_an_authority_that_is_taken_out_lets_nobody_in_any_more(mutual: Service) -> None:
    """Law: after a reload only the new authority counts, also for a client that offers its earlier session."""
    former = Client(
        mutual.files, Certificates(*map(kept, (mutual.clients.ca, mutual.clients.cert, mutual.clients.key)))
    )
    async with mutual.greeting() as port:
        reader, writer = await former.open(port)
        assert await greeted(reader, writer)
        session = writer.get_extra_info("ssl_object").session
        fresh = mutual.renew("clients")
        assert mutual.tls.reload()
        assert not await former.is_greeted(port)
        assert not await asyncio.to_thread(resumes, former.context, port, session)
        assert await Client(mutual.files, fresh).is_greeted(port)
        writer.close()
        await writer.wait_closed()


async def test_renewed_files_are_found_without_a_signal(plain: Service) -> None:
    """Law: a renewal is found within one interval; half of it changes nothing, is told once, and is no obstacle."""
    before, clock = replace(plain.files, ca=kept(plain.files.ca)), ManualClock()
    following = asyncio.create_task(plain.tls.follow(clock, 10.0))
    async with plain.greeting() as port:
        await looks(clock, 2)
        assert plain.events == []
        fresh = made(plain.folder / "fresh")
        shutil.copy(fresh.cert, plain.files.cert)
        await looks(clock, 3)
        assert plain.events == ["certificates_kept"]
        assert await Client(before).is_greeted(port)
        shutil.copy(fresh.key, plain.files.key)
        await looks(clock, 2)
        assert plain.events == ["certificates_kept", "certificates_reloaded"]
        assert await Client(fresh).is_greeted(port)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def looks(clock: ManualClock, times: int) -> None:
    """Let the files be looked at so many times, each until its end."""
    for _ in range(times):
        await turns_until(lambda: clock.waiting == 1)
        await clock.advance(10.0)
    await turns_until(lambda: clock.waiting == 1)


def encrypted(files: Certificates) -> None:
    """Encrypt the key."""
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password)
    files.key.write_bytes(pem)


def folder_instead(files: Certificates) -> None:
    """Put a folder into the certificate's place."""
    files.cert.unlink()
    files.cert.mkdir()


FAULTS: dict[str, tuple[Callable[[Certificates], object], str]] = {
    "another key": (lambda files: shutil.copy(made(files.key.parent / "x").key, files.key), "key values mismatch"),
    "half a key": (lambda files: files.key.write_bytes(files.key.read_bytes()[:80]), "key.pem cannot be used"),
    "no key": (lambda files: files.key.unlink(), r"key\.pem cannot be read: No such file"),
    "an encrypted key": (encrypted, "key is encrypted"),
    "half a certificate": (lambda files: files.cert.write_bytes(files.cert.read_bytes()[:80]), "cert.pem"),
    "an empty certificate": (lambda files: files.cert.write_bytes(b""), "cert.pem"),
    "a folder": (folder_instead, r"cert\.pem cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_faulty_files_leave_the_old_certificates_in_force(plain: Service, fault: str) -> None:
    """Law: a reload takes effect as a whole or not at all, says so in the log, and the next good one counts."""
    before = replace(plain.files, ca=kept(plain.files.ca))
    secret = plain.files.key.read_text().splitlines()[1]
    async with plain.greeting() as port:
        FAULTS[fault][0](plain.files)
        assert not plain.tls.reload()
        assert await Client(before).is_greeted(port)
        if plain.files.cert.is_dir():
            plain.files.cert.rmdir()
        fresh = plain.renew("service")
        assert plain.tls.reload()
        assert await Client(fresh).is_greeted(port)
    assert plain.events == ["certificates_kept", "certificates_reloaded"]
    assert secret not in plain.log.getvalue()


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_files_stop_the_start_and_are_named(tmp_path: Path, fault: str) -> None:
    """Law: the message names the file and the fault, and nothing of the key; nobody is asked for a password."""
    files = made(tmp_path / "service")
    secret = files.key.read_text().splitlines()[1]
    damage, named = FAULTS[fault]
    damage(files)
    with pytest.raises(SettingsInvalid, match=named) as refusal:
        Tls(files.cert, files.key, None, open_log(stream=io.StringIO()))
    assert secret not in str(refusal.value)


def test_an_authority_file_without_a_certificate_stops_the_start(tmp_path: Path) -> None:
    """Law: mutual TLS that trusts nobody, or by mistake everybody, does not start."""
    files = made(tmp_path / "service")
    for content in (b"", b"no PEM", files.key.read_bytes()):
        (tmp_path / "clients.pem").write_bytes(content)
        with pytest.raises(SettingsInvalid, match=r"client authorities .*clients\.pem cannot be used"):
            Tls(files.cert, files.key, tmp_path / "clients.pem", open_log(stream=io.StringIO()))


def test_settings_without_a_certificate_are_plain_http_and_half_of_tls_is_refused(tmp_path: Path) -> None:
    """Law: whoever names a key or an authority wants TLS, and is not served without it."""
    files, log = made(tmp_path / "service"), open_log(stream=io.StringIO())
    assert open_tls(settings_of(), log) is None
    for name in ("tls_key", "tls_client_ca"):
        with pytest.raises(SettingsInvalid, match=f"{name} is set without tls_cert"):
            open_tls(settings_of(**{name: files.key}), log)
    assert open_tls(settings_of(tls_cert=files.cert, tls_key=files.key), log) is not None


def test_key_and_certificate_may_stand_in_one_file(tmp_path: Path) -> None:
    """Law: without tls_key the certificate's file holds the key too."""
    files = made(tmp_path / "service")
    files.cert.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    assert open_tls(settings_of(tls_cert=files.cert), open_log(stream=io.StringIO())) is not None


async def test_uvicorn_speaks_it_and_answers_no_plain_http(mutual: Service) -> None:
    """Law: a port with a certificate speaks TLS only: plain HTTP gets no byte of an answer."""
    app = FastAPI()
    app.add_api_route("/", lambda: "served", methods=["GET"])
    started = asyncio.Event()
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with bound_socket("127.0.0.1", 0) as listener:
        server = QuietServer(uvicorn_config(app, settings_of(), mutual.tls), started.set)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await started.wait()
        port = int(listener.getsockname()[1])
        client = Client(mutual.files, mutual.clients)
        try:
            assert b'"served"' in await said(*await client.open(port), request)
            assert await said(*await asyncio.open_connection("127.0.0.1", port), request) == b""
        finally:
            server.should_exit = True
            await serving


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Everything that comes back."""
    received = b""
    with suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
        while some := await reader.read(4096):
            received += some
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return received


async def greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether a byte on a connection is answered with the greeting."""
    try:
        writer.write(b"?")
        await writer.drain()
        return await reader.readexactly(len(GREETING)) == GREETING
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
        return False


def resumes(context: ssl.SSLContext, port: int, session: ssl.SSLSession | None) -> bool:
    """Whether a client that offers an earlier session is greeted."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as connection,
        ):
            connection.write(b"?")
            return connection.read(len(GREETING)) == GREETING
    except (ssl.SSLError, ConnectionError):
        return False


def made(folder: Path) -> Certificates:
    """New certificates in a folder of their own."""
    folder.mkdir(parents=True)
    return make_certificates(folder)


def kept(path: Path) -> Path:
    """A copy that stays when the file is replaced."""
    return Path(shutil.copy(path, path.with_suffix(".before")))
