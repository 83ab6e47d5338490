"""A real S3 server with signatures: Ceph RGW, one of each daemon, on the loopback and in one folder.

Needs Debian's packages ceph-mon, ceph-osd and radosgw (`make test-ceph` installs them). Objects live in the memory of
the OSD (memstore), so stopping it leaves nothing. The bucket is not versioned.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers.ports import free_port
from tests.servers.s3 import S3Server, credentials

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "radosgw", "radosgw-admin")
START_S = 40.0
BUCKET = "espalier"

_CONF = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}
admin socket =
log file = {folder}/$name.log
crash dir = {folder}
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
osd crush initial weight = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon data avail crit = 1
mon data avail warn = 1
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
[client.rgw]
rgw data = {folder}
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 32
rgw enable usage log = false
rgw dynamic resharding = false
"""


def missing_programs() -> list[str]:
    """What of Ceph is not installed here."""
    return [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]


@contextmanager
def serve_ceph(folder: Path) -> Iterator[S3Server]:
    """Start a monitor, an OSD and RGW; make a user and a bucket; stop all of them at the end.

    Args:
        folder: Empty or absent; everything is kept in it, logs too.

    Raises:
        RuntimeError: A daemon or an order failed; the message has its last words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cluster = _Cluster(folder)
    with ExitStack() as daemons:
        cluster.start_monitor(daemons)
        cluster.start_osd(daemons)
        port = cluster.start_gateway(daemons)
        keys = credentials(secrets.token_hex(10), secrets.token_hex(20))
        cluster.make_user(keys)
        endpoint = f"http://127.0.0.1:{port}"
        _make_bucket(endpoint, keys)
        yield S3Server(endpoint, BUCKET, keys)


class _Cluster:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._conf = folder / "ceph.conf"
        self._mon_port, self._port = free_port(), free_port()
        self._fsid = str(uuid.uuid4())
        text = _CONF.format(fsid=self._fsid, folder=folder, mon_port=self._mon_port, port=self._port)
        self._conf.write_text(text)

    def start_monitor(self, daemons: ExitStack) -> None:
        folder = self._folder
        (folder / "mon").mkdir()
        self._run("ceph-authtool", "--create-keyring", folder / "keyring", "--gen-key", "-n", "mon.")
        for who in ("client.admin", "client.rgw", "osd.0"):
            caps = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
            self._run("ceph-authtool", folder / "keyring", "--gen-key", "-n", who, *caps)
        address = f"[v2:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, folder / "monmap")
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", folder / "monmap", "--keyring", folder / "keyring")
        self._start(daemons, "ceph-mon", "-i", "a")

    def start_osd(self, daemons: ExitStack) -> None:
        (self._folder / "osd").mkdir()
        name = str(uuid.uuid4())
        self._run("ceph", "osd", "new", name)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", name)
        osd = self._start(daemons, "ceph-osd", "-i", "0")
        self._until("the OSD", osd, lambda: json.loads(self._run("ceph", "osd", "stat", "-f", "json"))["num_up_osds"])

    def start_gateway(self, daemons: ExitStack) -> int:
        gateway = self._start(daemons, "radosgw", "-n", "client.rgw")
        self._until("RGW", gateway, lambda: _is_open(self._port))
        return self._port

    def make_user(self, keys: dict[str, str]) -> None:
        pair = ("--access-key", keys["AWS_ACCESS_KEY_ID"], "--secret", keys["AWS_SECRET_ACCESS_KEY"])
        self._run("radosgw-admin", "user", "create", "--uid", "espalier", "--display-name", "espalier", *pair)

    def _run(self, program: str, *words: str | Path) -> str:
        command = [program, *map(str, words)]
        if program not in ("monmaptool", "ceph-authtool"):
            command += ["-c", str(self._conf)]
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=START_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} {words[0]} failed: {done.stderr[-2000:]}")
        return done.stdout

    def _start(self, daemons: ExitStack, program: str, *words: str) -> subprocess.Popen[bytes]:
        command = [program, "-f", *words, "-c", str(self._conf)]
        with (self._folder / f"{program}.out").open("wb") as out:
            daemon = subprocess.Popen(command, env=_environment(), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        daemons.callback(_stop, daemon)
        return daemon

    def _until(self, what: str, daemon: subprocess.Popen[bytes], ready: Callable[[], object]) -> None:
        end = time.monotonic() + START_S
        while daemon.poll() is None and time.monotonic() < end:
            if ready():
                return
            time.sleep(0.1)
        words = "".join(path.read_text(errors="replace")[-1500:] for path in self._folder.glob("*.out"))
        raise RuntimeError(f"{what} of Ceph did not start: {words}")


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    # Nothing of it is kept, so there is nothing to write down in peace.
    daemon.kill()
    daemon.wait()


def _make_bucket(endpoint: str, keys: dict[str, str]) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        region_name=keys["AWS_REGION"],
    )
    client.create_bucket(Bucket=BUCKET)
    # The first object of all makes RGW create its pools, which takes seconds.
    client.put_object(Bucket=BUCKET, Key="first", Body=b"")
    client.delete_object(Bucket=BUCKET, Key="first")
    client.close()


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/bin", "/usr/sbin"))


def _environment() -> dict[str, str]:
    # The orders are Python programs of the distribution; they must not meet a virtual environment's.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CEPH_", "PYTHON", "VIRTUAL"))}
    return kept | {"PATH": _path()}


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
