"""Invented files in the form of the public ones: theme click logs like Taobao's, reviews like Amazon's.

For tests, demonstrations and claims where the public files are not at hand. Users and items have tastes; a theme likes
some directions of taste more than others, and a user clicks the items that please the most of a few that are shown. So
themes share something and differ in something, and their sizes fall like Zipf's law.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import PreparedError

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

_TASTE = 8
_SHOWN = 5  # of which the user clicks one
_REPEATED = 0.05  # share of clicks that were made before
_WITHOUT_EMBEDDING = 0.04  # share of users, and of items
_FIRST_TIME = 1_512_000_000
_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True)
class ClickWorld:
    """How large the log is.

    Args:
        seed: decides everything that is drawn.
        themes: how many.
        users, items: how many there are over all themes.
        clicks: how many there are, repeated ones too.
        items_per_theme: of the largest theme; themes share items.
    """

    seed: int = 0
    themes: int = 30
    users: int = 2_000
    items: int = 1_200
    clicks: int = 40_000
    items_per_theme: int = 300

    def __post_init__(self) -> None:
        if self.themes < 1 or self.clicks < 10 * self.themes or not 10 <= self.items_per_theme <= self.items:
            raise PreparedError(
                f"a log of {self.themes} themes needs at least {10 * max(1, self.themes)} clicks and 10 to "
                f"{self.items} items a theme; asked for {self.clicks} clicks and {self.items_per_theme} items"
            )


@dataclass(frozen=True)
class Clicks:
    """A drawn log, in the order of its lines.

    Args:
        user, item, theme: ids (n,); themes are numbered from 1, in any order of first clicks.
        user_taste, item_taste: of all users and items, those with id 1 first.
    """

    user: Positions
    item: Positions
    theme: Positions
    user_taste: Floats
    item_taste: Floats


def draw_clicks(world: ClickWorld) -> Clicks:
    """Draw a log.

    Args:
        world: its sizes and seed.
    """
    draw = np.random.default_rng(world.seed)
    users, items = draw.normal(size=(world.users, _TASTE)), draw.normal(size=(world.items, _TASTE))
    weights = 1.0 / np.sqrt(np.arange(1.0, world.themes + 1))
    theme = draw.choice(world.themes, size=world.clicks, p=weights / weights.sum())
    user = np.minimum(draw.geometric(4.0 / world.users, size=world.clicks), world.users) - 1
    item = np.zeros(world.clicks, np.int64)
    for one in range(world.themes):
        rows = np.flatnonzero(theme == one)
        shared = draw.choice(world.items, size=max(10, int(world.items_per_theme * weights[one])), replace=False)
        liked = 1.0 + draw.normal(size=_TASTE)
        shown = draw.choice(shared, size=(len(rows), _SHOWN))
        pleases = np.einsum("nt,nst,t->ns", users[user[rows]], items[shown], liked)
        item[rows] = shown[np.arange(len(rows)), (pleases + draw.gumbel(size=pleases.shape)).argmax(axis=1)]
    again = np.flatnonzero(draw.random(world.clicks) < _REPEATED)
    earlier = draw.integers(np.maximum(again, 1))
    for drawn in (user, item, theme):
        drawn[again] = drawn[earlier]
    return Clicks(user + 1, item + 1, theme + 1, users, items)


def write_click_log(folder: Path, world: ClickWorld) -> Clicks:
    """Write theme_click_log.csv, user_embedding.csv and item_embedding.csv, as Tianchi's data set 9716 has them.

    Args:
        folder: made if it is not there.
        world: sizes and seed.

    Returns:
        What the log holds; 4% of its users and of its items have no embedding.
    """
    clicks = draw_clicks(world)
    draw = np.random.default_rng([world.seed, 1])
    times = _FIRST_TIME + np.sort(draw.integers(10**6, size=len(clicks.user)))
    folder.mkdir(parents=True, exist_ok=True)
    columns = (clicks.user, clicks.item, clicks.theme, times)
    _write_csv(
        folder / "theme_click_log.csv",
        ("user_id", "item_id", "theme_id", "reach_time"),
        zip(*(column.tolist() for column in columns), strict=True),
    )
    for side, taste in (("user", clicks.user_taste), ("item", clicks.item_taste)):
        known = np.flatnonzero(draw.random(len(taste)) >= _WITHOUT_EMBEDDING)
        lines = ((int(row) + 1, ",".join(f"{value:.4f}" for value in taste[row])) for row in draw.permutation(known))
        _write_csv(folder / f"{side}_embedding.csv", (f"{side}_id", "emb"), lines)
    return clicks


def write_reviews(folder: Path, categories: Sequence[str], world: ClickWorld) -> None:
    """Write `<Category>_5.json.gz` of each category, in the form of the Amazon review data of 2018.

    Args:
        folder: made if it is not there.
        categories: names with blanks, as the public page lists them; as many as the world has themes.
        world: sizes and seed; a theme becomes a category.
    """
    clicks = draw_clicks(world)
    draw = np.random.default_rng([world.seed, 2])
    stars = draw.choice(_STARS, size=len(clicks.user))
    folder.mkdir(parents=True, exist_ok=True)
    for number, category in enumerate(categories, start=1):
        lines = [
            json.dumps(
                {
                    "overall": float(stars[row]),
                    "verified": True,
                    "reviewerID": f"A{clicks.user[row]:013X}",
                    "asin": f"B{clicks.item[row]:09X}",
                    "reviewText": 'It "works",\nas said.',
                    "unixReviewTime": _FIRST_TIME,
                }
            )
            for row in np.flatnonzero(clicks.theme == number)
        ]
        content = "".join(f"{line}\n" for line in lines).encode()
        (folder / f"{category.replace(' ', '_')}_5.json.gz").write_bytes(gzip.compress(content, mtime=0))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
