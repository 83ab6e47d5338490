"""The trained id overlay: a domain's own embeddings of ids, beside a backbone that stays as it is (methods.md 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.fields import Field
from features.overlay import MOST_BITS, CodedRows, IdOverlay
from features.vocabulary import Vocabulary
from network.backbone import Backbone
from network.embeddings import LookedUp
from training.deltas.overlay import OverlayRows, overlay_rows
from training.newcomer.config import OverlayConfig
from training.newcomer.encoding import SideRows

_LEAST_SPREAD = 1e-3  # of a table without trained rows, whose ids would otherwise never move


class TrainedOverlay(nn.Module):
    """One side's overlay while it is trained: row = start + spread * pace * moved.

    Starting from the backbone's own rows with `moved` at zero the logits are the backbone's, bit for bit. Adam moves
    each coordinate of `moved` by about its step size, whatever the scale of the table is.

    Args:
        field: the id field whose vectors it replaces.
        place: of the field among the network's fields.
        ids: raw ids (m,).
        own: (m, E) the backbone's rows of these ids, its row 0 where it lacks one; a first-order weight comes last.
        start: (m, E) likewise: what training starts from and is held to, `own` or the rows of a live overlay.
        spread: (E,), with the first-order weight's last: how far the backbone's rows lie from their mean.
        pace: how many step sizes a row moves in one step, in units of the spread.
    """

    own: Tensor
    start: Tensor
    spread: Tensor

    def __init__(
        self, field: Field, place: int, ids: Sequence[str], own: Tensor, start: Tensor, spread: Tensor, pace: float
    ) -> None:
        super().__init__()
        self.field = field
        self.place = place
        self.ids = tuple(ids)
        self.pace = pace
        self.bits: int | None = None
        """Of a coordinate in an artifact, once the rows are rounded to them."""
        self.register_buffer("own", own, persistent=False)
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("spread", spread, persistent=False)
        self.moved = nn.Parameter(torch.zeros_like(start))

    def rows(self) -> Tensor:
        """The domain's embeddings (m, E), a first-order weight last."""
        return self.start + self.spread * (self.pace * self.moved)

    def distance(self) -> Tensor:
        """How far the rows lie from where they started: the sum of squares, in units of the spread."""
        return (self.pace * self.moved).square().sum()

    def laid_over(self, looked: LookedUp, positions: Tensor) -> LookedUp:
        """Replace the id field's vector of rows, as the service does.

        Args:
            looked: n rows, from the backbone's lookup.
            positions: (n,) in `ids`, -1 where the overlay lacks the id.
        """
        known, at = (positions >= 0).unsqueeze(1), positions.clamp(min=0)
        rows = self.rows()[at]
        width = self.field.width
        vectors = list(looked.vectors)
        vectors[self.place] = torch.where(known, rows[:, :width], vectors[self.place])
        first_order = looked.first_order
        if first_order is not None:
            first_order = first_order + known * (rows - self.own[at])[:, width:]
        return replace(looked, x=torch.cat(vectors, dim=1), vectors=vectors, first_order=first_order)

    @torch.no_grad()
    def round_to(self, bits: int) -> None:
        """Move the embeddings to where an artifact of so many bits a coordinate holds them; weights stay.

        Rows of a live overlay that nothing moved must not be moved by others' wider grid: it gets more bits, or the
        rows stay numbers.
        """
        rows, width = self.rows(), self.field.width
        if not bool(torch.isfinite(rows).all()):
            return  # whoever checks an artifact's values names the row; so with what float16 does not hold
        kept = (self.moved == 0).all(1) & (self.start != self.own).any(1)
        for more in range(bits, MOST_BITS + 1):
            coded = torch.from_numpy(CodedRows.of(rows[:, :width].numpy(), more).rows()).float()
            if not bool(torch.isfinite(coded).all()):
                return
            if torch.equal(coded[kept], rows[kept, :width]):
                rows[:, :width] = coded
                self.moved.copy_((rows - self.start) / (self.spread * self.pace))
                self.bits = more
                return

    def exported(self) -> OverlayRows:
        """The rows by raw id, for an artifact."""
        rows, width = self.rows().detach(), self.field.width
        weights = rows[:, width].contiguous() if rows.shape[1] > width else None
        return overlay_rows(self.field, self.ids, rows[:, :width].contiguous(), weights)


@dataclass(frozen=True)
class Chosen:
    """One side's overlay and where each row of the data stands in it.

    Args:
        overlay: untrained.
        positions: (n,) int64, -1 where it lacks the id.
    """

    overlay: TrainedOverlay
    positions: Tensor


def choose_overlay(
    backbone: Backbone,
    field: Field,
    side: SideRows,
    few: NDArray[np.bool_],
    train: NDArray[np.int64],
    config: OverlayConfig,
    live: IdOverlay | None = None,
    vocabulary: Vocabulary | None = None,
) -> Chosen | None:
    """Choose the ids of one side that get embeddings of the domain's own: among those that training rows name.

    An id that only other rows name would keep its start, which is what it is scored on without an overlay.

    Args:
        backbone: frozen.
        field: the id field of the side, with a trained table.
        side: the ids that the rows name.
        few: (ids,) whether the backbone's training never saw an id, or rarely, as `config` asks.
        train: positions of the training rows.
        config: which ids.
        live: the overlay to train on from; all its ids stay, those that the rows do not name as they are.
        vocabulary: of the backbone, where there is a live one.

    Returns:
        The untrained overlay; None where no id is to have one.
    """
    named = np.zeros(len(side.index), bool)
    named[side.entity[train]] = True
    wanted = {"all": named, "none": np.zeros_like(named)}.get(config.ids, named & few)
    absent: list[str] = []
    if live is not None:
        found = side.index.find(live.index.values())
        wanted[found[found >= 0]] = True
        absent = [live.index.raw(int(place)) for place in np.flatnonzero(found < 0)]
    chosen = np.flatnonzero(wanted)
    ids = [side.index.raw(int(place)) for place in chosen] + absent
    if not ids:
        return None
    places = np.full(len(side.index), -1)
    places[chosen] = np.arange(len(chosen))
    rows = side.columns.arrays[field.name][chosen].astype(np.int64)
    if absent and vocabulary is not None:
        rows = np.concatenate([rows, vocabulary.rows(field.name, absent).astype(np.int64)])
    table = _table(backbone, field.name)
    own = table[torch.from_numpy(rows)]
    overlay = TrainedOverlay(
        field,
        [one.name for one in backbone.shape.fields].index(field.name),
        ids,
        own,
        own if live is None else _started(own, ids, live),
        _spread(table, field.width),
        config.pace,
    )
    return Chosen(overlay, torch.from_numpy(places[side.entity]))


def _started(own: Tensor, ids: Sequence[str], live: IdOverlay) -> Tensor:
    """The backbone's rows, those of a live overlay in the place of its ids."""
    found = live.index.find(ids)
    known = np.flatnonzero(found >= 0)
    parts = [live.rows] if live.first_order is None else [live.rows, live.first_order[:, None]]
    start = own.clone()
    start[torch.from_numpy(known)] = torch.tensor(np.concatenate(parts, axis=1)[found[known]]).float()
    return start


def _table(backbone: Backbone, field: str) -> Tensor:
    """A field's table (V, E); where the kind has first-order weights, they are its last column."""
    live = backbone.embeddings.live()
    table = live[f"embedding.{field}"]
    return torch.column_stack([table, live[f"first_order.{field}"]]) if backbone.shape.first_order else table


def _spread(table: Tensor, width: int) -> Tensor:
    """Root mean square distance of the rows from row 0, which is their mean; one number for all of E."""
    if len(table) < 2:
        return torch.full((table.shape[1],), _LEAST_SPREAD)
    squares = (table[1:] - table[0]).double().square().mean(0)
    squares[:width] = squares[:width].mean()
    return squares.sqrt().clamp(min=_LEAST_SPREAD).float()
