"""Amazon-6 and Amazon-13: a category is a domain, every review a positive.

Source: the 5-core review files of the Amazon review data of 2018 (Ni, Li, McAuley, EMNLP 2019), one a category, a JSON
object a line. Two reviews are the same when user, item and stars are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.builders.assembly import BuildOptions, assemble
from training.builders.rules import Positives
from training.prepared import PreparedDataset
from training.progress import Meter
from training.sources.reviews import read_reviews, review_file

AMAZON_13 = (
    "Arts Crafts and Sewing",
    "Digital Music",
    "Gift Cards",
    "Industrial and Scientific",
    "Luxury Beauty",
    "Magazine Subscriptions",
    "Musical Instruments",
    "Office Products",
    "Patio Lawn and Garden",
    "Prime Pantry",
    "Software",
    "Toys and Games",
    "Video Games",
)
AMAZON_6 = (
    "Musical Instruments",
    "Office Products",
    "Patio Lawn and Garden",
    "Prime Pantry",
    "Toys and Games",
    "Video Games",
)
_REMEDY = "download the 5-core files from https://nijianmo.github.io/amazon/ again"


def amazon(name: str, categories: Sequence[str], source: Path, options: BuildOptions, meter: Meter) -> PreparedDataset:
    """Build a set of categories.

    Args:
        name: of the set.
        categories: as the public page lists them.
        source: folder with `<Category>_5.json.gz`, or .json, of each.
        options: of the build.
        meter: where progress goes.

    Raises:
        SourceError: a file is missing or broken; it names file and line.
        TrainingError: a process died.
    """
    return assemble(name, "category", [_review_file(category, source) for category in categories], options, meter)


@dataclass(frozen=True)
class ReviewFile:
    """The reviews of one category."""

    domain: str
    path: Path

    def positives(self) -> Positives:
        """Read the file.

        Raises:
            SourceError: it is cut or broken; it names the line.
        """
        reviews = read_reviews(self.path, _REMEDY).unique(maintain_order=True)
        return Positives(self.domain, reviews["user_id"], reviews["item_id"])


def _review_file(category: str, source: Path) -> ReviewFile:
    path = review_file(source, f"{category.replace(' ', '_')}_5", _REMEDY)
    return ReviewFile(category.lower().replace(" ", "-"), path)
