"""A synthetic world whose domains are planted and whose best reachable AUC is known.

Users and items have latent tastes that their observed attributes explain in the main. The logit of a shown item is

    shared(user, item) + hour + shift of the natural domain + shift of the user's segment

where shared is one nonlinear function and each shift is a low-rank function of the same latents, drawn per domain and
with zero mean over the domains: what one domain adds another takes away. Labels are Bernoulli draws.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fields import Division
from training.errors import PreparedError
from training.metrics import auc, probabilities
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset, domain_facts

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

_LATENT = 6
_HIDDEN = 16
_USER_ATTRIBUTES = {"region": 24, "age_band": 8, "device": 4}
_ITEM_ATTRIBUTES = {"brand": 60, "category": 16}
_TAGS, _TAGS_PER_ITEM = 40, 4
_HOURS = 24
_OWN_TASTE = 0.05  # what no attribute explains, as a share of the latent's standard deviation
_RANK = 2  # of the user-item part of a shift
_BILINEAR = 0.25  # its share of a shift's standard deviation; the rest is what the domain likes as a whole
_SHARED_SCALE, _DOMAIN_SCALE, _SEGMENT_SCALE, _HOUR_SCALE = 0.8, 1.8, 1.6, 0.3
_INTERCEPT = -0.4
_COLD_SHARE, _COLD_ROWS = 0.05, 1.0  # cold users and items, and how many rows each has on average
_SPARSE_SHARE, _SPARSE_ROWS = 0.25, (300, 1200)  # sparse domains, and the range of their rows
_MISSING_PRICES = 0.02


@dataclass(frozen=True)
class SyntheticWorld:
    """How large the world is.

    Args:
        seed: decides everything that is drawn.
        rows: shown items, over all domains.
        users, items: how many there are; 5% of each are cold, with about one row.
        domains: natural domains `theme-01`, ...; sizes fall like Zipf's law, the last quarter is sparse.
        segments: auxiliary domains `segment-a`, ... of users.
    """

    seed: int = 0
    rows: int = 400_000
    users: int = 1_000
    items: int = 300
    domains: int = 12
    segments: int = 8

    def __post_init__(self) -> None:
        sparse_rows = self.domains * _SPARSE_SHARE * _SPARSE_ROWS[1]
        if self.rows < 10 * sparse_rows or self.segments > len(string.ascii_lowercase):
            raise PreparedError(
                f"{self.domains} domains need at least {10 * sparse_rows:,.0f} rows, and at most 26 segments can be "
                f"lettered; asked for {self.rows:,} rows and {self.segments} segments"
            )


@dataclass(frozen=True)
class _Entities:
    frame: pl.DataFrame
    latent: Floats  # (n, _LATENT)


def synthetic(world: SyntheticWorld) -> PreparedDataset:
    """Draw a world.

    Args:
        world: its sizes and seed.

    Returns:
        The prepared data; interactions carry the true `probability`, the facts its AUC over all rows (`bayes_auc`).
    """
    draw = np.random.default_rng(world.seed)
    segment = draw.integers(world.segments, size=world.users)
    users, items = _users(world, segment, draw), _items(world, draw)
    user, item = _exposure(draw, world.users, world.rows), _exposure(draw, world.items, world.rows)
    domain, hour = _domains(world, draw), draw.integers(_HOURS, size=world.rows)
    tastes = users.latent[user], items.latent[item]
    probability = probabilities(
        _INTERCEPT
        + _SHARED_SCALE * _shared(draw, *tastes)
        + _HOUR_SCALE * np.sin(2 * np.pi * hour / _HOURS)
        + _DOMAIN_SCALE * _shift(draw, world.domains, domain, *tastes)
        + _SEGMENT_SCALE * _shift(draw, world.segments, segment[user], *tastes)
    )
    interactions = pl.DataFrame(
        {
            "user_id": users.frame["user_id"].to_numpy()[user],
            "item_id": items.frame["item_id"].to_numpy()[item],
            "domain_id": pl.Series(_themes(world)).gather(domain),
            "hour": hour,
            "label": (draw.random(world.rows) < probability).astype(np.int8),
            "probability": probability,
        }
    )
    spec = DatasetSpec(name="synthetic", fields=_FIELDS, divisions=_divisions(world), facts=_facts(interactions))
    return PreparedDataset(spec, interactions, users.frame, items.frame)


_FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item_id", kind="sparse", of="item", column="item_id", id=True),
    *(FieldSpec(name=name, kind="sparse", of="user", column=name) for name in (*_USER_ATTRIBUTES, "segment")),
    *(FieldSpec(name=name, kind="sparse", of="item", column=name) for name in _ITEM_ATTRIBUTES),
    FieldSpec(name="tags", kind="multi_hot", of="item", column="tags"),
    FieldSpec(name="price", kind="dense", of="item", column="price", normalization="standard"),
    FieldSpec(name="hour", kind="sparse", of="context", column="hour"),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
)


def _themes(world: SyntheticWorld) -> list[str]:
    digits = max(2, len(str(world.domains)))
    return [f"theme-{number:0{digits}d}" for number in range(1, world.domains + 1)]


def _divisions(world: SyntheticWorld) -> tuple[Division, ...]:
    letters = string.ascii_lowercase[: world.segments]
    return (
        Division(name="theme", natural=True, of="domain", domains=tuple(_themes(world))),
        Division(
            name="segment",
            natural=False,
            of="user",
            field="segment",
            rule="value",
            domains=tuple(f"segment-{letter}" for letter in letters),
        ),
    )


def _users(world: SyntheticWorld, segment: Positions, draw: np.random.Generator) -> _Entities:
    codes = {name: draw.integers(count, size=world.users) for name, count in _USER_ATTRIBUTES.items()}
    latent = sum(_effects(draw, count)[codes[name]] for name, count in _USER_ATTRIBUTES.items())
    latent = latent + _effects(draw, world.segments)[segment]
    columns: dict[str, Any] = {"user_id": np.arange(1, world.users + 1), **_named(codes)}
    columns["segment"] = [string.ascii_lowercase[code] for code in segment]
    return _Entities(pl.DataFrame(columns), _tastes(draw, latent))


def _items(world: SyntheticWorld, draw: np.random.Generator) -> _Entities:
    codes = {name: draw.integers(count, size=world.items) for name, count in _ITEM_ATTRIBUTES.items()}
    tags = [
        draw.choice(_TAGS, size=count, replace=False) for count in draw.integers(1, _TAGS_PER_ITEM + 1, world.items)
    ]
    tag_effects, price = _effects(draw, _TAGS), draw.normal(size=world.items)
    latent = sum(_effects(draw, count)[codes[name]] for name, count in _ITEM_ATTRIBUTES.items())
    latent = latent + 1.5 * np.array([tag_effects[own].mean(axis=0) for own in tags])
    latent = latent + price[:, None] * draw.normal(size=_LATENT)
    columns: dict[str, Any] = {"item_id": np.arange(1, world.items + 1), **_named(codes)}
    columns["tags"] = [[f"tag-{tag:02d}" for tag in own] for own in tags]
    shown = np.where(draw.random(world.items) < _MISSING_PRICES, np.nan, np.round(20 + 5 * price, 2))
    columns["price"] = pl.Series(shown).fill_nan(None)
    return _Entities(pl.DataFrame(columns), _tastes(draw, latent))


def _named(codes: dict[str, Positions]) -> dict[str, list[str]]:
    return {name: [f"{name}-{code:02d}" for code in values] for name, values in codes.items()}


def _effects(draw: np.random.Generator, count: int) -> Floats:
    return draw.normal(size=(count, _LATENT))


def _tastes(draw: np.random.Generator, explained: Floats) -> Floats:
    """Latents of unit variance: what attributes explain, and a little of one's own."""
    own = draw.normal(size=explained.shape)
    return math.sqrt(1 - _OWN_TASTE**2) * _standard(explained) + _OWN_TASTE * own


def _standard(values: Floats) -> Floats:
    standard: Floats = (values - values.mean(axis=0)) / values.std(axis=0)
    return standard


def _exposure(draw: np.random.Generator, count: int, rows: int) -> Positions:
    """Who or what is shown in each row: Zipf's law, and a share that is hardly ever shown."""
    weights = draw.permutation(1.0 / (np.arange(count) + 3.0))
    cold = int(count * _COLD_SHARE)
    weights[:cold] = 0.0
    weights /= weights.sum()
    weights[:cold] = _COLD_ROWS / rows
    return draw.choice(count, size=rows, p=weights / weights.sum())


def _domains(world: SyntheticWorld, draw: np.random.Generator) -> Positions:
    sparse = int(world.domains * _SPARSE_SHARE)
    weights = 1.0 / np.sqrt(np.arange(1.0, world.domains + 1))
    weights[world.domains - sparse :] = 0.0
    weights /= weights.sum()
    weights[world.domains - sparse :] = draw.uniform(*_SPARSE_ROWS, size=sparse) / world.rows
    return draw.choice(world.domains, size=world.rows, p=weights / weights.sum())


def _shared(draw: np.random.Generator, user: Floats, item: Floats) -> Floats:
    """One nonlinear function of both tastes, of unit variance over the rows."""
    hidden = np.tanh(1.5 * np.hstack([user, item]) @ draw.normal(size=(2 * _LATENT, _HIDDEN)) / np.sqrt(2 * _LATENT))
    match = (user * item) @ draw.normal(size=_LATENT)
    return _standard(_standard(hidden @ draw.normal(size=_HIDDEN)) + 0.7 * _standard(match))


def _shift(draw: np.random.Generator, domains: int, domain: Positions, user: Floats, item: Floats) -> Floats:
    """What each row's domain adds, of unit variance over the rows; zero if there is one domain only."""
    likes = draw.normal(size=(domains, 2 * _LATENT))
    of_user, of_item = draw.normal(size=(2, domains, _LATENT, _RANK))
    pairs = np.einsum("dkr,djr->dkj", of_user, of_item)
    likes, pairs = likes - likes.mean(axis=0), pairs - pairs.mean(axis=0)
    whole, paired = np.zeros(len(domain)), np.zeros(len(domain))
    for one in range(domains):
        rows = domain == one
        whole[rows] = np.hstack([user[rows], item[rows]]) @ likes[one]
        paired[rows] = np.sum(user[rows] @ pairs[one] * item[rows], axis=1)
    if domains == 1:
        return whole
    shift: Floats = math.sqrt(1 - _BILINEAR**2) * whole / whole.std() + _BILINEAR * paired / paired.std()
    return shift


def _facts(interactions: pl.DataFrame) -> dict[str, Any]:
    label, probability = interactions["label"].to_numpy(), interactions["probability"].to_numpy()
    return {
        "rows": len(interactions),
        "users": interactions["user_id"].n_unique(),
        "items": interactions["item_id"].n_unique(),
        "positive": interactions["label"].mean(),
        "bayes_auc": auc(label, probability),
        "domains": domain_facts(interactions),
    }
