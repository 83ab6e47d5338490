"""The process that fuzzes, which libFuzzer ends: `python -m benchmarks.claims.fuzzing TARGET RUN INPUTS CORPUS PIPE`.

Our packages are imported inside functions, under the eyes of atheris: what was imported before has no coverage. Every
input also goes into the pipe, for `benchmarks.claims.fuzzed` to read it again where nothing is instrumented: what
atheris notes of each comparison grows with the inputs, and would be taken for memory that a reader keeps.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

if TYPE_CHECKING:
    from benchmarks.forge import Run

LONGEST = 65_536
_WORDS = (b"0", b"-1", b"9223372036854775808", b'"', b"}", b"[[", b"null", b"1e999", b"\xff", b"NaN")
Target = tuple[Callable[[bytes], None], list[bytes]]


def artifact_target(run: Run) -> Target:
    """Decode, and whatever decodes is verified against a backbone; only refusals of ours may come."""
    from adapters_store.artifact import decode_adapter
    from adapters_store.backbone import read_bundle
    from adapters_store.errors import ArtifactError
    from adapters_store.tensors import TensorLimits
    from adapters_store.verification import verify_adapter
    from service.engines.onnx import OnnxEngine

    backbone = read_bundle(run.folder / "bundle")
    logits_of = OnnxEngine(backbone).logits
    limits = TensorLimits(bytes=1 << 20)

    def read(content: bytes) -> None:
        try:
            adapter = decode_adapter(content, limits)
            verify_adapter(adapter, backbone, {}, None, logits_of, limits=limits)
        except ArtifactError:
            return

    return read, [run.natural("single")[run.domains[0]].read_bytes()]


def score_target(run: Run) -> Target:
    """Decode a body as the route does, and look its ids and context up as the scorer does."""
    import msgspec

    from adapters_store.backbone import read_bundle
    from adapters_store.ids import check_domain
    from service.errors import ServiceError
    from service.refusals import MalformedRequest
    from service.routes.reading import decode_json
    from service.routes.score import ScoreBody
    from service.tables import FeatureTables

    tables = FeatureTables(read_bundle(run.folder / "bundle"))
    decoder = msgspec.json.Decoder(ScoreBody)

    def read(content: bytes) -> None:
        try:
            body = decode_json(decoder, content)
            tables.encode(body.user_id, body.item_ids, check_domain(body.domain_id), body.context)
        except (ServiceError, MalformedRequest):
            return

    users, items = run.oracle.index["user"], run.oracle.index["item"]
    some = [str(item) for item in list(items)[:20]]
    bodies: list[dict[str, object]] = [
        {"user_id": str(next(iter(users))), "domain_id": run.domains[0], "item_ids": some},
        {"user_id": 7, "domain_id": "a:b=c", "item_ids": [1, "2", -3], "context": {"hour": 3}, "strict": True},
        {"user_id": "ü", "domain_id": "x", "item_ids": [], "min_generation": 4, "context": {"a": [1, 2], "b": None}},
    ]
    return read, [json.dumps(body).encode() for body in bodies]


TARGETS = {"artifact": artifact_target, "score": score_target}


def fuzz(target: str, folder: Path, inputs: int, corpus: Path, pipe: int) -> None:
    """Does not return; every input is written to `pipe`, its length before it."""
    with atheris.instrument_imports(include=["adapters_store", "service", "features"]):
        from benchmarks.forge import Run

        read, seeds = TARGETS[target](Run(folder))
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(content: bytes) -> None:
        # buffered, which writes on where libFuzzer's alarm cuts a write to a full pipe short
        with os.fdopen(pipe, "wb", closefd=False) as sink:
            sink.write(struct.pack("<I", len(content)) + content)
        read(content)

    def mutated(content: bytes, longest: int, seed: int) -> bytes:
        """Half of libFuzzer's own mutations, and half that keep the outer form and bend one number or word."""
        chance = random.Random(seed)
        if chance.random() < 0.5 or not content:
            return bytes(atheris.Mutate(content, longest))
        at = chance.randrange(len(content))
        word = chance.choice(_WORDS)
        return (content[:at] + word + content[at + chance.choice((0, 1, len(word))) :])[:longest]

    options = [f"-runs={inputs}", f"-max_len={LONGEST}", "-timeout=20", "-rss_limit_mb=2048", "-seed=7", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
