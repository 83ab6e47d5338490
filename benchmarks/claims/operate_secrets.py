"""Every token and password of this run, looked for in everything that the run wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from benchmarks.claims.line import Line, at_least, exactly, measured
from benchmarks.claims.workplace import Workplace

# what holds secrets by design: the configuration of the servers that ask for them, the load test's own token
HOMES = ("valkey.conf", "token")


def written(folder: Path) -> Iterator[Path]:
    """Logs, reports, metrics as Prometheus keeps them, stores and caches: every file but the homes of secrets."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name not in HOMES:
            yield path


def found(paths: list[Path], secrets: Mapping[str, str]) -> list[str]:
    """Which secret stands where, as it is or as a URL writes it."""
    spelt = {of: {secret.encode(), quote(secret, safe="").encode()} for of, secret in secrets.items()}
    places = []
    for path in paths:
        content = path.read_bytes()
        places += [f"{of} in {path.name}" for of, forms in spelt.items() if any(form in content for form in forms)]
    return places


def lines(work: Workplace) -> Iterator[Line]:
    """The last group: the others have made and used the secrets."""
    paths = [path for path in written(work.folder) if "checkov" not in path.parts]
    logs = [path for path in paths if path.suffix == ".log" or path.name == "log"]
    kinds = sorted({name.split(" of ")[0] for name in work.secrets})
    yield at_least("secrets: tokens and passwords used by the groups before", len(work.secrets), 1, digits=0)
    yield measured("secrets: looked for", f"{', '.join(kinds)}; in {len(paths)} files, {len(logs)} of them logs")
    places = found(paths, work.secrets)
    yield exactly("secrets: found in logs, errors, metrics, reports and stores", len(places), 0)
    for place in places[:10]:
        yield measured("secrets: found", place)
