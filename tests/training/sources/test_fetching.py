"""Laws of fetching public files, from a real server: resumed where cut off, held to a digest, refused in words."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from training.errors import SourceError
from training.sources.fetching import SOURCES, ByHand, Download, fetch


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("ml-1m/users.dat", "1::F::1::10::48067\n" * 5000)
    return content.getvalue()


CONTENT = archive()


class _Files(BaseHTTPRequestHandler):
    """One file, by ranges; /cut ends in the middle of the first answer, /whole knows no ranges."""

    asked: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).asked.append(wanted)
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and "whole" not in self.path else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        cut = "cut" in self.path and not wanted
        self.wfile.write(CONTENT[begin : len(CONTENT) // 2 if cut else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    """A server of the file."""
    _Files.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, folder: Path, md5: str = hashlib.md5(CONTENT).hexdigest()) -> tuple[Path, list[int]]:
    seen: list[int] = []
    with httpx.Client() as client:
        found = fetch("it", folder, client, lambda have, _: seen.append(have), {"it": Download(url, md5, "ml-1m")})
    return found, seen


def test_a_file_is_fetched_checked_and_unpacked(url: str, tmp_path: Path) -> None:
    """Law: the folder that comes back has the content; a second call asks nobody."""
    found, seen = get(f"{url}/it.zip", tmp_path)
    assert (found / "users.dat").read_text().startswith("1::F")
    assert seen[-1] == len(CONTENT)
    assert get(f"{url}/it.zip", tmp_path) == (found, [])
    assert _Files.asked == [None]


@pytest.mark.parametrize("path", ["cut/it.zip", "cut/whole/it.zip"])
def test_what_was_cut_off_is_resumed(url: str, tmp_path: Path, path: str) -> None:
    """Law: the second call asks for the rest only; a server without ranges sends all, and that works too."""
    with pytest.raises(SourceError, match="run the same command again; it goes on where it was cut off"):
        get(f"{url}/{path}", tmp_path)
    half = len(CONTENT) // 2
    assert (tmp_path / "it.zip.part").stat().st_size == half
    found, _ = get(f"{url}/{path}", tmp_path)
    assert (found / "users.dat").stat().st_size == 95_000
    assert _Files.asked == [None, f"bytes={half}-"]


def test_a_whole_part_is_taken(url: str, tmp_path: Path) -> None:
    """Law: where only the renaming was lost, nothing is fetched anew."""
    (tmp_path / "it.zip.part").write_bytes(CONTENT)
    found, seen = get(f"{url}/it.zip", tmp_path)
    assert (found.name, seen) == ("ml-1m", [])


def test_another_digest_is_refused(url: str, tmp_path: Path) -> None:
    """Law: nothing of a file with another digest stays."""
    with pytest.raises(SourceError, match=r"has MD5 .* instead of 0000; it was deleted"):
        get(f"{url}/it.zip", tmp_path, md5="0000")
    assert list(tmp_path.iterdir()) == []


def test_what_a_program_may_not_fetch_names_its_page(tmp_path: Path) -> None:
    """Law: each such set says why and where; an unknown one lists the known."""
    with httpx.Client() as client:
        for name, source in SOURCES.items():
            if isinstance(source, ByHand):
                with pytest.raises(SourceError, match=r"cannot be fetched by a program: .*; get it from https://"):
                    fetch(name, tmp_path, client, lambda *_: None)
        with pytest.raises(SourceError, match=r"'ml-2m' is no known set; known are ali-ccp, .* movielens-1m"):
            fetch("ml-2m", tmp_path, client, lambda *_: None)
