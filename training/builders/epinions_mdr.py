"""epinions-mdr: Epinions reviews, a category is a domain, sparse ones too; every review is a positive.

A user's further reviews of an item are removed first: of equal (user, item) the first row stays, in whichever category
it is. Negatives and the split are those of the other sets.
"""

from __future__ import annotations

from pathlib import Path

from training.builders.assembly import BuildOptions, Held, assemble
from training.builders.rules import Positives
from training.prepared import PreparedDataset
from training.progress import Meter
from training.sources.epinions import domain_id, read_reviews


def epinions_mdr(source: Path, options: BuildOptions, meter: Meter) -> PreparedDataset:
    """Build the set.

    Args:
        source: folder with epinions.parquet, or the file.
        options: of the build.
        meter: where progress goes.

    Raises:
        SourceError: the file is missing or broken, or its counts are not the known ones.
        TrainingError: a process died.
    """
    reviews = read_reviews(source, ("user_id", "item_id", "category"), any_size=options.any_size)
    reviews = reviews.with_columns(domain_id(reviews)).sort("category", maintain_order=True)
    sources = [
        Held(Positives(own["domain_id"][0], own["user_id"], own["item_id"]))
        for own in reviews.partition_by("category", maintain_order=True)
    ]
    return assemble("epinions-mdr", "category", sources, options, meter)
