"""What a server's own metrics say."""

from __future__ import annotations

import re

import httpx

from benchmarks.claims.workplace import Server


def samples(server: Server, name: str, label: str) -> dict[str, float]:
    """Values of one sample name by one of its labels, summed over the others; nothing where there is none."""
    text = httpx.get(f"{server.url}/metrics", headers=server.headers).raise_for_status().text
    found: dict[str, float] = {}
    for labels, value in re.findall(rf"^{re.escape(name)}\{{([^}}]*)\}} (\S+)$", text, re.MULTILINE):
        of = re.search(rf'(?:^|,){re.escape(label)}="([^"]*)"', labels)
        if of is not None:
            found[of[1]] = found.get(of[1], 0.0) + float(value)
    return found
