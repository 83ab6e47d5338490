"""What bfloat16 costs in AUC, on the test rows of the trained MovieLens run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.bench.accuracy import Labelled, Moved, moved
from benchmarks.bench.asked import questions
from benchmarks.bench.contender import PeerAbsent
from benchmarks.bench.served import make_run
from benchmarks.bench.shapes import SMALL
from benchmarks.claims.engine_lines import absent
from benchmarks.claims.line import Line, at_most, measured
from benchmarks.claims.movielens import prepare
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.workplace import Workplace
from benchmarks.forge import Run, pins_of
from benchmarks.oracle_files import AdapterFile
from training.dataset import split_of
from training.prepared import PreparedDataset

BOUND = 1e-4
CLAIM = "MovieLens test rows, trained adapters: |dAUC| of bf16 against fp32"


def lines(work: Workplace) -> Iterator[Line]:
    """Two lines."""
    try:
        yield from judged(moved(*(invented(work) if work.quick else trained(work))))
    except PeerAbsent as why:
        yield absent(CLAIM, f"<= {BOUND:g}", str(why))


def judged(found: Moved) -> Iterator[Line]:
    """The bounded line, and how far a probability moved."""
    claim = f"{CLAIM}, {found.rows:,} rows, {found.isa} (AUC {found.exact:.5f})"
    yield at_most(claim, found.distance, BOUND, digits=7)
    yield measured("the same: max |dp|", f"{found.farthest:.1e}")


def trained(work: Workplace) -> tuple[Run, Labelled]:
    """The run that the other groups train, and its test rows."""
    run = last_epoch_run(work)
    prepared = PreparedDataset.load(prepare(Workplace(work.folder, reuse=True)))
    rows = prepared.interactions[split_of(prepared, 0).test]
    users, items, domains = (rows[name].to_list() for name in ("user_id", "item_id", "domain_id"))
    return run, Labelled(users, items, domains, rows["label"].to_numpy())


def invented(work: Workplace) -> tuple[Run, Labelled]:
    """A random run, and labels drawn from what the oracle says of it."""
    run = make_run(work.folder / "bench" / "invented", SMALL[0], 4)
    oracle, auxiliaries, fusion = run.oracle, run.auxiliaries(), run.fusion()
    rng = np.random.default_rng(0)
    users, items, domains, labels = list[int](), list[int](), list[str](), list[int]()
    for question in questions(4, 8):
        adapter = AdapterFile(run.natural()[question["domain_id"]])
        asked = [str(item) for item in question["item_ids"]]
        user, name = str(question["user_id"]), question["domain_id"]
        scores = oracle.score(user, name, asked, adapter, pins_of(adapter, auxiliaries), fusion)
        users += [question["user_id"]] * len(asked)
        items += question["item_ids"]
        domains += [name] * len(asked)
        labels += (rng.random(len(asked)) < scores).astype(int).tolist()
    return run, Labelled(users, items, domains, np.array(labels))
