"""200 malformed artifacts: refused with a 4xx that names the fault, the live revision serving, memory bounded."""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np

from benchmarks.claims.line import Line, at_most, exactly
from benchmarks.claims.served import last_epoch_run, publish_run
from benchmarks.claims.workplace import Server, Workplace, serving
from benchmarks.forge import Run, digest
from benchmarks.oracle_files import Array, read_safetensors

COUNT = 200
IN_FLIGHT = 2

Fault = tuple[str, bytes, tuple[str, ...]]  # kind, body, words of which the refusal must contain one


def raw_safetensors(tensors: dict[str, Array], manifest: dict[str, Any], dtypes: dict[str, str] | None = None) -> bytes:
    """A safetensors file written without any check, so that it can be wrong in one way only."""
    names = {"f2": "F16", "f4": "F32", "f8": "F64", "i4": "I32", "i8": "I64", "u1": "U8"}
    header: dict[str, Any] = {"__metadata__": {"espalier": json.dumps(manifest, sort_keys=True, separators=(",", ":"))}}
    body, at = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda pair: -pair[1].itemsize):
        raw = tensor.tobytes()
        dtype = (dtypes or {}).get(name, names[tensor.dtype.str[1:]])
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + len(raw)]}
        body.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(body)


def faults(source: bytes, rng: np.random.Generator) -> Iterator[Fault]:
    """One artifact of each kind of fault, different at every call."""
    tensors, manifest = read_safetensors(source)
    name = str(rng.choice([n for n in tensors if n.startswith("tower.") and n.endswith((".down", ".up"))]))
    module = name.rsplit(".", 1)[0]

    def changed(key: str, value: Array) -> bytes:
        return raw_safetensors({**tensors, key: value}, manifest)

    def declared(**entries: Any) -> bytes:
        return raw_safetensors(tensors, {**manifest, **entries})

    cut = int(rng.integers(1, len(source) - 1))
    yield "truncated", source[:cut], ("truncat", "length", "ends", "bytes", "short", "header", "offset")
    yield "bit-flipped", flipped(source, rng), ()
    yield "wrong shape", changed(name, tensors[name][:, : -int(rng.integers(1, 5))].copy()), (name, module)
    yield "dtype", changed(f"{module}.scale", tensors[f"{module}.scale"].astype(np.float16)), (f"{module}.scale",)
    yield "unknown dtype", raw_safetensors(tensors, manifest, {name: "F8_E4M3"}), (name,)
    yield "rank bomb", rank_bomb(tensors, manifest, module, int(rng.integers(2000, 4000))), ("rank",)
    yield "NaN", changed(name, spoiled(tensors[name], rng, np.nan)), (name,)
    yield "infinite", changed(f"{module}.shift", spoiled(tensors[f"{module}.shift"], rng, np.inf)), (f"{module}.shift",)
    negative = spoiled(tensors[f"{module}.norm.var"], rng, -0.5)
    yield "negative variance", changed(f"{module}.norm.var", negative), (f"{module}.norm.var",)
    yield "wrong fingerprint", declared(fingerprint=rng.bytes(32).hex()), ("fingerprint",)
    pins = {domain: rng.bytes(32).hex() for domain in manifest["fuses"]}
    yield "missing pin", declared(fuses=pins), ("pin", *pins)
    yield "someone else's domain", declared(domain="somebody-else"), ("somebody-else",)
    yield "pickle bytes", pickle.dumps({"tower.0.down": rng.random(int(rng.integers(10, 5000))).tolist()}), ("pickle",)
    yield "2 GB header claim", struct.pack("<Q", 2**31 + int(rng.integers(0, 1000))) + source[8:], ("header",)
    missing = {key: value for key, value in tensors.items() if key != name}
    yield "missing tensor", raw_safetensors(missing, manifest), (name,)
    yield "golden rows of another adapter", changed("golden.logits", tensors["golden.logits"] + 0.5), ("golden",)


def flipped(source: bytes, rng: np.random.Generator) -> bytes:
    """One bit turned, anywhere; the digest in the URL stays that of the true bytes."""
    at = int(rng.integers(0, len(source)))
    return source[:at] + bytes([source[at] ^ (1 << int(rng.integers(0, 8)))]) + source[at + 1 :]


def rank_bomb(tensors: dict[str, Array], manifest: dict[str, Any], module: str, rank: int) -> bytes:
    """A LoRA whose rank would cost memory and time, correctly declared."""
    down, up = tensors[f"{module}.down"], tensors[f"{module}.up"]
    big = {
        f"{module}.down": np.zeros((rank, down.shape[1]), down.dtype),
        f"{module}.up": np.zeros((up.shape[0], rank), up.dtype),
    }
    ranks = {**manifest["ranks"], module: rank}
    return raw_safetensors({**tensors, **big}, {**manifest, "ranks": ranks})


def spoiled(tensor: Array, rng: np.random.Generator, value: float) -> Array:
    """One element replaced."""
    out = tensor.copy()
    out.flat[int(rng.integers(0, out.size))] = value
    return out


def campaign(source: bytes) -> list[Fault]:
    """200 faults, all kinds in turn."""
    out: list[Fault] = []
    rng = np.random.default_rng(3)
    while len(out) < COUNT:
        out += list(faults(source, rng))
    return out[:COUNT]


async def upload(server: Server, domain: str, wanted: list[Fault], source: bytes) -> list[tuple[str, int, bool]]:
    """POST all faults, two at a time; (kind, status, the problem names the fault)."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(client: httpx.AsyncClient, fault: Fault) -> tuple[str, int, bool]:
        kind, body, words = fault
        # a flipped bit is what a broken wire makes: the digest is that of the bytes that were sent
        revision = digest(source if kind == "bit-flipped" else body)
        async with gate:
            answer = await client.post(f"/adapters/{domain}?revision={revision}", content=body)
        detail = json.dumps(answer.json()) if "json" in answer.headers.get("content-type", "") else ""
        expected = ("sha256",) if kind == "bit-flipped" else words
        return kind, answer.status_code, any(word in detail for word in expected)

    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=60) as client:
        return await asyncio.gather(*(one(client, fault) for fault in wanted))


async def keeps_serving(server: Server, run: Run, domain: str, stop: asyncio.Event) -> tuple[int, set[str | None]]:
    """Score until told to stop; answers that were not 200, and the revisions named."""
    oracle, bad, named = run.oracle, 0, set()
    body = {
        "user_id": next(iter(oracle.index["user"])),
        "domain_id": domain,
        "item_ids": list(oracle.index["item"])[:50],
    }
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=60) as client:
        while not stop.is_set():
            answer = await client.post("/score", json=body)
            bad += answer.status_code != 200
            named.add(answer.json()["served"]["revision"] if answer.status_code == 200 else None)
    return bad, named


async def attack(server: Server, run: Run, domain: str, campaign_: list[Fault], source: bytes) -> tuple[Any, Any]:
    """Upload the faults while the domain is being scored."""
    stop = asyncio.Event()
    scoring = asyncio.create_task(keeps_serving(server, run, domain, stop))
    results = await upload(server, domain, campaign_, source)
    stop.set()
    return results, await scoring


def both(tag: str, results: list[tuple[str, int, bool]], test: Callable[[tuple[str, int, bool]], bool]) -> Line:
    """How many results pass, with the kinds that do not."""
    failing = sorted({kind for kind, *_ in [r for r in results if not test(r)]})
    claim = tag + (f" (not: {', '.join(failing)})" if failing else "")
    return exactly(claim, sum(test(r) for r in results), COUNT)


def lines(work: Workplace) -> Iterator[Line]:
    """The lines on refusals."""
    run = last_epoch_run(work)
    domain = run.domains[0]
    source = run.natural()[domain].read_bytes()
    wanted = campaign(run.natural("attention")[domain].read_bytes())
    limit = 16 * 2**20
    with serving(work, publish_run(work, run), max_adapter_bytes=str(limit)) as server:
        asyncio.run(attack(server, run, domain, wanted[:16], source))  # first use of every path, before the baseline
        baseline = server.resident_bytes
        server.reset_peak()
        results, (bad, named) = asyncio.run(attack(server, run, domain, wanted, source))
        peak = server.peak_bytes
    yield both("malformed artifacts refused with 4xx", results, lambda r: 400 <= r[1] < 500)
    yield both("refusals that name the fault", results, lambda r: r[2])
    yield exactly("scores other than 200 meanwhile", bad, 0)
    yield exactly("revisions that served meanwhile", named == {digest(source)}, True)
    allowed = (baseline + 2 * limit * IN_FLIGHT) / 2**20
    yield at_most(f"peak memory (baseline {baseline / 2**20:.0f} MiB)", peak / 2**20, round(allowed), " MiB", 0)
