"""A synthetic world whose domains contradict each other by construction, and whose best reachable AUC is known.

The logit of a shown item, for a row of domain i, is

    intercept_i + scale * (sqrt(1 - conflict) shared(user, item) + sqrt(conflict) s_i . taste(user, item))

shared and each component of taste have zero mean and unit variance. The directions s_i have unit length and sum zero,
so the mean of s_i . s_j over pairs of domains is -1 / (domains - 1): where a network has learned what all domains
share, a domain's gradient points along its own s_i, and what one domain asks for others forbid. Labels are Bernoulli
draws. Each domain is split 60/20/20, as the sets of the MAMDR paper are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fields import Division
from training.errors import PreparedError
from training.metrics import auc, probabilities
from training.prepared import PARTS, SPLIT, DatasetSpec, FieldSpec, PreparedDataset, domain_facts

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

_LATENT = 6
_GROUPS, _BRANDS = 12, 20
_OWN = 0.4  # what no attribute explains, as a share of the latent's standard deviation
_PAIRED = 0.3  # share of a term's standard deviation that is a user-item match; the rest is liked or not as a whole
_INTERCEPT, _SPREAD = -0.8, 0.4  # mean and standard deviation of the domains' intercepts
_SHARES = (0.6, 0.8)  # where validation and test begin in each domain
_SPARSE_SHARE, _SPARSE_ROWS = 0.3, (200, 800)  # sparse domains, and the range of their rows


@dataclass(frozen=True)
class ConflictWorld:
    """How large the world is, and how much its domains contradict each other.

    Args:
        seed: decides everything that is drawn.
        rows: shown items, over all domains.
        users, items: how many there are.
        domains: `shelf-01`, ...; the last three tenths are sparse.
        conflict: share of the logit's variance that is the domain's own, from 0 (all agree) to 1.
        directions: components of taste, 1 or an even number below `domains`. 1 makes two camps of opposite sign; with 2
            the s_i stand evenly on a circle, so that neighbours agree and opposites contradict; the more there are, the
            less any two agree, until each contradicts all others alike.
        scale: standard deviation of the logit within a domain.
    """

    seed: int = 0
    rows: int = 60_000
    users: int = 800
    items: int = 300
    domains: int = 10
    conflict: float = 0.6
    directions: int = 2
    scale: float = 1.8

    def __post_init__(self) -> None:
        self._check(self.domains >= 2, f"domains contradict each other from 2 on, got {self.domains}")
        self._check(0 <= self.conflict <= 1, f"conflict is a share from 0 to 1, got {self.conflict}")
        even = self.directions % 2 == 0 and 2 <= self.directions < max(self.domains, 3)
        camps = self.directions == 1 and self.domains % 2 == 0
        self._check(
            even or camps,
            f"directions are 1 (two camps, of an even number of domains) or an even number below that of the domains, "
            f"got {self.directions} for {self.domains} domains",
        )
        self._check(self.scale > 0, f"scale must be positive, got {self.scale}")
        needed = 10 * self.sparse * _SPARSE_ROWS[1] + 100 * self.domains
        self._check(self.rows >= needed, f"{self.domains} domains need at least {needed:,} rows, got {self.rows:,}")
        self._check(self.users >= 10 and self.items >= 10, "a world needs at least 10 users and 10 items")

    @property
    def sparse(self) -> int:
        """How many domains are sparse."""
        return int(self.domains * _SPARSE_SHARE)

    @staticmethod
    def _check(holds: bool, fault: str) -> None:
        if not holds:
            raise PreparedError(fault)


def directions(world: ConflictWorld) -> Floats:
    """Return s (domains, directions), each of unit length, their sum zero.

    s_i = sqrt(2 / directions) [cos(2 pi f i / n), sin(2 pi f i / n)] for f = 1 .. directions / 2, the harmonic frame of
    n vectors. The domains take them in a random order, so that big and sparse ones stand all around.
    """
    if world.directions == 1:
        return np.where(np.arange(world.domains) % 2 == 0, 1.0, -1.0)[:, None]
    order = np.random.default_rng([world.seed, 1]).permutation(world.domains)
    angle = 2 * math.pi * np.outer(order, np.arange(1, world.directions // 2 + 1)) / world.domains
    return math.sqrt(2 / world.directions) * np.hstack([np.cos(angle), np.sin(angle)])


def conflicting(world: ConflictWorld) -> PreparedDataset:
    """Draw a world.

    Args:
        world: its sizes, conflict and seed.

    Returns:
        The prepared data; interactions carry the true `probability` and the `split`. Facts: its AUC over all rows
        (`bayes_auc`) and in the mean of the domains (`bayes_mean_auc`), and the directions' mean cosine over pairs
        (`mean_cosine`).
    """
    draw = np.random.default_rng([world.seed, 0])
    users, group = _latents(draw, world.users, _GROUPS)
    items, brand = _latents(draw, world.items, _BRANDS)
    user, item = draw.integers(world.users, size=world.rows), _popular(draw, world.items, world.rows)
    domain = _domains(world, draw)
    tastes = [_term(draw, users[user], items[item]) for _ in range(world.directions)]
    shared = _term(draw, users[user], items[item])
    own = np.einsum("nk,nk->n", directions(world)[domain], np.stack(tastes, axis=1))
    intercept = _INTERCEPT + _SPREAD * draw.normal(size=world.domains)
    mixed = math.sqrt(1 - world.conflict) * shared + math.sqrt(world.conflict) * own
    probability = probabilities(intercept[domain] + world.scale * mixed)
    names = _names(world)
    interactions = pl.DataFrame(
        {
            "user_id": user + 1,
            "item_id": item + 1,
            "domain_id": pl.Series(names).gather(domain),
            "label": (draw.random(world.rows) < probability).astype(np.int8),
            "probability": probability,
            SPLIT: pl.Series(PARTS).gather(_parts(draw, domain)),
        }
    )
    divisions = (Division(name="shelf", natural=True, of="domain", domains=tuple(names)),)
    spec = DatasetSpec(name="conflict", fields=_FIELDS, divisions=divisions, facts=_facts(world, interactions))
    return PreparedDataset(spec, interactions, _entities("user", "group", group), _entities("item", "brand", brand))


_FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item_id", kind="sparse", of="item", column="item_id", id=True),
    FieldSpec(name="group", kind="sparse", of="user", column="group"),
    FieldSpec(name="brand", kind="sparse", of="item", column="brand"),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
)


def _names(world: ConflictWorld) -> list[str]:
    digits = max(2, len(str(world.domains)))
    return [f"shelf-{number:0{digits}d}" for number in range(1, world.domains + 1)]


def _entities(side: str, attribute: str, codes: Positions) -> pl.DataFrame:
    values = [f"{attribute}-{code:02d}" for code in codes]
    return pl.DataFrame({f"{side}_id": np.arange(1, len(codes) + 1), attribute: values})


def _latents(draw: np.random.Generator, count: int, values: int) -> tuple[Floats, Positions]:
    """Latents (count, _LATENT) that an attribute explains in the main, and the attribute's code of each."""
    codes = draw.integers(values, size=count)
    explained = draw.normal(size=(values, _LATENT))[codes]
    return math.sqrt(1 - _OWN**2) * explained + _OWN * draw.normal(size=(count, _LATENT)), codes


def _popular(draw: np.random.Generator, count: int, rows: int) -> Positions:
    """Which item each row shows: by Zipf's law."""
    weights = draw.permutation(1.0 / (np.arange(count) + 10.0))
    return draw.choice(count, size=rows, p=weights / weights.sum())


def _domains(world: ConflictWorld, draw: np.random.Generator) -> Positions:
    """The domain of each row: sizes fall like a root of Zipf's law, the last ones are sparse."""
    weights = 1.0 / np.sqrt(np.arange(1.0, world.domains + 1))
    dense = world.domains - world.sparse
    weights[dense:] = 0.0
    weights /= weights.sum()
    weights[dense:] = draw.uniform(*_SPARSE_ROWS, size=world.sparse) / world.rows
    return draw.choice(world.domains, size=world.rows, p=weights / weights.sum())


def _parts(draw: np.random.Generator, domain: Positions) -> Positions:
    """What each row serves, as its position in PARTS; each domain's rows are split at random, up to one row."""
    order = draw.permutation(len(domain))
    order = order[np.argsort(domain[order], kind="stable")]
    sizes = np.bincount(domain)
    place = np.arange(len(domain)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    part = np.empty(len(domain), dtype=np.int64)
    part[order] = np.searchsorted(_SHARES, place / np.repeat(sizes, sizes), side="right")
    return part


def _term(draw: np.random.Generator, user: Floats, item: Floats) -> Floats:
    """A function of both latents (rows,), of zero mean and unit variance: what is liked as a whole, and a match."""
    both = np.hstack([user, item])
    whole, paired = both @ draw.normal(size=2 * _LATENT), (user * item) @ draw.normal(size=_LATENT)
    return _standard(math.sqrt(1 - _PAIRED**2) * _standard(whole) + _PAIRED * _standard(paired))


def _standard(values: Floats) -> Floats:
    standard: Floats = (values - values.mean()) / values.std()
    return standard


def _facts(world: ConflictWorld, interactions: pl.DataFrame) -> dict[str, Any]:
    label, probability = interactions["label"].to_numpy(), interactions["probability"].to_numpy()
    parts = [part for _, part in interactions.group_by("domain_id", maintain_order=True)]
    each = [auc(part["label"].to_numpy(), part["probability"].to_numpy()) for part in parts]
    known = [value for value in each if value is not None]
    cosines = directions(world) @ directions(world).T
    pairs = world.domains * (world.domains - 1)
    return {
        "rows": len(interactions),
        "users": interactions["user_id"].n_unique(),
        "items": interactions["item_id"].n_unique(),
        "positive": interactions["label"].mean(),
        "bayes_auc": auc(label, probability),
        "bayes_mean_auc": sum(known) / len(known) if known else None,
        "mean_cosine": float(cosines.sum() - np.trace(cosines)) / pairs,
        "domains": domain_facts(interactions),
    }
