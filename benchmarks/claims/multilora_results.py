"""The page and the plots of what the long tables of MultiLoRA found, made from their records and from nothing else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_store.durable import write_durably
from benchmarks.claims import multilora_leftout, multilora_movielens
from benchmarks.claims.mamdr_contest import Row
from benchmarks.claims.mamdr_results import draw_table
from benchmarks.claims.multilora_table import Rows, paired
from benchmarks.claims.trainings import RECORDS, dated
from benchmarks.claims.workplace import ROOT
from training.trials.kept import Found

PAGE = ROOT / "docs" / "multilora-results.md"
IMAGES = ROOT / "docs" / "images"
TITLES = {"multilora-movielens": "MovieLens-1M", "multilora-epinions": "epinions-rating, category by user activity"}
PUBLISHED: Mapping[str, Mapping[str, float]] = {"multilora-movielens": multilora_movielens.PUBLISHED}
LEFT_OUT = multilora_leftout.RECORD.stem
_FIGURES = {"pooled": "pooled test AUC", "macro": "mean per-domain test AUC"}
_NONE = "Not recorded yet: `FULL=1 make claims-multilora` fills it in.\n"
_COMPARED = ("single", "mix", "multi_lora")
_HEAD = """# What MultiLoRA came to

Written by `FULL=1 make claims-multilora` from `benchmarks/claims/records/`, and by nobody's hand. Every method is tuned
over four configurations on seed 0's validation rows, then trained on five seeds; each seed draws its own split.
Mix, SingleLoRA and MultiLoRA with its ablations come out of one training, whose seconds stand with each of them;
`multi_lora` is the mode that validation prefers, the untrained adapter among the candidates of every stage.
± is the standard deviation over seeds; *over Mix* is the difference to one network for all domains, of the same
backbone and seeds and tuned as hard, with its paired 95% interval. What was promised stands with its bounds in
[claims.md](claims.md). Published figures are of the paper's own split (MultiLoRA, CIKM 2024, tables 3 and 5).
"""


def write_results(records: Path = RECORDS, page: Path = PAGE, images: Path = IMAGES) -> None:
    """Draw what the records hold, then write the page.

    Args:
        records: where they lie.
        page: written whole or not at all.
        images: a folder beside it.
    """
    images.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD]
    for name, title in TITLES.items():
        parts.append(f"## {title}\n\n" + "\n".join(_table(records / f"{name}.json", images)))
    parts.append("## Domains left out of pre-training, MovieLens-1M\n\n" + "\n".join(_left_out(records)))
    write_durably(page, "\n".join(parts).encode())


def _table(record: Path, images: Path) -> Iterator[str]:
    if not record.exists():
        yield _NONE
        return
    content = json.loads(record.read_text())
    rows = {name: Row(row["config"], tuple(row["seeds"])) for name, row in content["methods"].items()}
    figure, published = content["figure"], PUBLISHED.get(record.stem, {})
    draw_table(rows, images / f"{record.stem}.png", _FIGURES[figure])
    yield f"Recorded {dated(content)}. Brackets in the plot: 95%.\n"
    yield f"![{_FIGURES[figure][:1].upper()}{_FIGURES[figure][1:]} of each method](images/{record.stem}.png)\n"
    heads = [*_FIGURES.values(), "LogLoss", f"over Mix, {_FIGURES[figure]}", "published", "seconds a training"]
    yield f"| method | {' | '.join(heads)} |"
    yield "|---|" + "---|" * len(heads)
    for name, row in rows.items():
        figures = " | ".join(_of_seeds(row.seeds, what) for what in (*_FIGURES, "log_loss"))
        known = f"{published[name]:.4f}" if name in published else "–"
        seconds = statistics.median(found["seconds"] for found in row.seeds)
        yield f"| {name} | {figures} | {_over_mix(name, rows)} | {known} | {seconds:.0f} |"
    yield ""
    if figure == "macro":
        yield from _by_domain(rows)


def _over_mix(name: str, rows: Rows) -> str:
    """Of the same backbone: the one whose prefix the name has."""
    mixes = [mix for mix in rows if mix.endswith("mix") and name.startswith(mix.removesuffix("mix"))]
    mix = max(mixes, key=len, default=name)
    if mix == name:
        return "–"
    mean, half = paired(rows[name], rows[mix])
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


def _by_domain(rows: Rows) -> Iterator[str]:
    yield f"| domain | {' | '.join(_COMPARED)} | seeds whose adapter the gate lets pass |"
    yield "|---|" + "---|" * (len(_COMPARED) + 1)
    for domain in rows["mix"].seeds[0]["domains"]:
        each = [_of_seeds([seed["domains"] for seed in rows[name].seeds], domain) for name in _COMPARED]
        passed = sum(seed["gated"][domain]["passed"] for seed in rows["multi_lora"].seeds)
        yield f"| {domain} | {' | '.join(each)} | {passed} |"
    yield ""


def _left_out(records: Path) -> Iterator[str]:
    record = records / f"{LEFT_OUT}.json"
    if not record.exists():
        yield _NONE
        return
    content: dict[str, Any] = json.loads(record.read_text())
    ways: Mapping[str, Sequence[Found]] = content["ways"]
    methods = multilora_leftout.METHODS
    yield f"Recorded {dated(content)}; {len(next(iter(ways.values())))} seeds. Test AUC; *way back* is how far"
    yield f"{multilora_leftout.BOTH} goes of the way from zero-shot to {multilora_leftout.FULL_TUNE}; bytes, time and"
    yield "rows/s are its own over a full model's weights, over the full fine-tune's, and over those without overlay.\n"
    yield f"| left out | {' | '.join(methods)} | way back | bytes | time | rows/s |"
    yield "|---|" + "---|" * (len(methods) + 4)
    for name, seeds in ways.items():
        aucs = " | ".join(_of_seeds(seeds, method) for method in methods)
        size = statistics.mean(seed["bytes"] / seed["full_bytes"] for seed in seeds)
        spent = statistics.median(seed["seconds"] / seed["full_seconds"] for seed in seeds)
        speed = statistics.mean(seed["speed"] for seed in seeds)
        yield f"| {name} | {aucs} | {multilora_leftout.recovered(seeds):.3f} | {size:.2%} | {spent:.2f} | {speed:.3f} |"
    yield ""


def _of_seeds(seeds: Sequence[Found], what: str) -> str:
    """Mean and standard deviation; of seeds in which it is defined."""
    known = [seed[what] for seed in seeds if seed[what] is not None]
    if not known:
        return "undefined"
    return f"{statistics.mean(known):.4f}" + (f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else "")
