"""Stage 3's tower with everything stacked: a step's cost does not grow with the number of tuples.

Source: MultiLoRA, Eq. 10 and 11; methods.md 2, stage 3. `network.fused` is the same, a loop over the tuples present.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.backbone import Backbone
from network.fused import FusedTower
from network.inputs import Batch
from network.lora import DomainAdapter
from network.norm import MIN_ROWS, DomNorm
from training.errors import ConfigError
from training.packed.compensation import DomainSums, moved
from training.packed.tuples import Groups, Sorted, TupleTable

_KEYS = ("weight", "bias", "mean", "var")


class NormStack(nn.Module):
    """One layer's norms of many tuples: rows of four tensors.

    Args:
        norms: s of them.
        width: d.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, norms: Sequence[DomNorm], width: int) -> None:
        super().__init__()
        with torch.no_grad():
            values = {
                key: torch.stack([getattr(norm, key) for norm in norms]) if norms else torch.empty(0, width)
                for key in _KEYS
            }
        self.weight, self.bias = nn.Parameter(values["weight"]), nn.Parameter(values["bias"])
        self.register_buffer("mean", values["mean"])
        self.register_buffer("var", values["var"])

    def rows(self, key: str, places: Tensor) -> Tensor:
        """Return some norms' values (s, d)."""
        value: Tensor = getattr(self, key)
        return value.index_select(0, places)


class LoraStack:
    """One module's LoRAs of one division, frozen: `scale` is folded into `up`, and `shift` is one column more of it.

    Args:
        adapters: of the division.
        level: number of the module.
    """

    @torch.no_grad()
    def __init__(self, adapters: Sequence[DomainAdapter], level: int) -> None:
        loras = [lora for adapter in adapters if (lora := adapter.lora(level)) is not None]
        down, up, scale, shift = (
            torch.stack(each) for each in zip(*((one.down, one.up, one.scale, one.shift) for one in loras), strict=True)
        )
        self._down = down
        self._up = torch.cat([scale.unsqueeze(2) * up, shift.unsqueeze(2)], dim=2)

    def outputs(self, x: Tensor, groups: Groups) -> Tensor:
        """Return each row's LoRA output (n, d); zero where it has no adapter."""
        parts = []
        for bucket in groups.buckets:
            down, up = self._down[bucket.adapters], self._up[bucket.adapters]
            rows = x.index_select(0, bucket.rows).view(len(down), -1, x.shape[1])
            low = functional.pad(torch.bmm(rows, down.transpose(1, 2)), (0, 1), value=1.0)
            parts.append(torch.bmm(low, up.transpose(1, 2)).flatten(0, 1))
        parts.append(x.new_zeros(1, self._up.shape[1]))
        return torch.cat(parts).index_select(0, groups.found)


class StackedFused(nn.Module):
    """All divisions' adapters, their fusion and the tuples' norms, stacked. What is trained starts as the tower's.

    Args:
        backbone: frozen.
        tower: its adapters are frozen here; its fusion is trained itself, its norms by `write`.
        domains: integers (n, divisions) of all rows of the data set.

    Raises:
        ConfigError: the backbone's kind has adapters on maps of every field.
    """

    def __init__(self, backbone: Backbone, tower: FusedTower, domains: Tensor) -> None:
        super().__init__()
        if backbone.shape.kind == "autoint":
            raise ConfigError("stage 3 of kind autoint is not trained packed: leave `packed` out of the configuration")
        self._frozen = (backbone, tower)  # a tuple: what they hold is not this module's
        self.fusion, self.dropout = tower.fusion, tower.dropout
        own = [_by_position(tower, i) for i in range(domains.shape[1])]
        self.table = TupleTable(tower, domains, [{d: row for row, d in enumerate(found)} for found in own])
        self._adapters = [list(found.values()) for found in own]
        ranks = next(tower.adapters()).ranks
        self._loras = {
            level: [LoraStack(found, level) if found else None for found in self._adapters]
            for level, r in enumerate(ranks)
            if r
        }
        widths = {level: d for level, d in enumerate(backbone.shape.tower) if ranks[level] and backbone.shape.norm}
        named = [tower.norms_of(name) for name in self.table.norms]
        split = self.table.own
        self.norms = nn.ModuleDict({str(i): NormStack([n[i] for n in named[:split]], d) for i, d in widths.items()})
        others = {str(i): NormStack([n[i] for n in named[split:]], d) for i, d in widths.items()}
        self._others = others
        self._frozen_moments = any(
            norm.frozen_moments for norms in named[:split] for i, norm in enumerate(norms) if i in widths
        )
        self.present = torch.empty(0, dtype=torch.int64)
        """Norms of their own that the last batch in training used: the rows that its step may move."""
        self._recorded: dict[int, DomainSums] | None = None

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self._frozen[0]

    @property
    def _tower(self) -> FusedTower:
        return self._frozen[1]

    def score(self, read: Callable[[Tensor], Batch], rows: Tensor) -> tuple[Tensor, Sorted]:
        """Return the logits (n,) of rows in sorted order, and that order.

        Args:
            read: gives the encoded rows at some positions.
            rows: (n,) positions.
        """
        batch = self.table.sorted(rows)
        if self.training:
            self.present = batch.norms[batch.norms < self.table.own]
        logits = self.backbone(read(rows[batch.order]), StackedBound(self, batch))
        return logits, batch

    def combined(self, level: int, x: Tensor, h0: Tensor, batch: Sorted) -> Tensor:
        """Return h0 + sum of w_i h_i over the divisions that each row has an adapter in."""
        stacks = self._loras.get(level)
        if stacks is None:
            return h0
        pairs = [(stack, groups) for stack, groups in zip(stacks, batch.groups, strict=True) if stack is not None]
        outputs = torch.stack([stack.outputs(x, groups) for stack, groups in pairs])
        if self._tower.mode == "add":
            return h0 + outputs.sum(0)
        present = torch.stack([groups.present for _, groups in pairs])
        weights = self._weights(level, h0, outputs, present)
        return h0 + (outputs * weights.unsqueeze(-1)).sum(0)

    def _weights(self, level: int, h0: Tensor, outputs: Tensor, present: Tensor) -> Tensor:
        """Each division's weight (m, n): a softmax, or equal parts, over those that are present."""
        if self.fusion is None:
            return present / present.sum(0).clamp(min=1).to(h0.dtype)
        query = self.fusion.queries(level, h0)
        rank = query.shape[-1]
        scores = (functional.linear(outputs, self.fusion.key[level]) * query).sum(-1)
        scores = scores / (rank if self.fusion.divisor == "r" else math.sqrt(rank))
        # a row without any adapter weighs zeros: any weights do, but not those of a softmax over nothing
        hidden = ~present & present.any(0)
        return torch.softmax(scores.masked_fill(hidden, -math.inf), dim=0)

    def normed(self, level: int, h: Tensor, batch: Sorted) -> Tensor:
        """Return h (n, d) through each row's norm. Source: MultiLoRA, Eq. 11."""
        plain = self._tower.plain.norms
        if str(level) not in self.norms:
            out: Tensor = plain[level](h) if level < len(plain) else h
            return out
        if self._recorded is not None:
            self._recorded[level].add(h, batch.norms[batch.segment])
        weight, bias, mean, var = (self._rows(level, key, batch.norms) for key in _KEYS)
        large = (batch.counts >= MIN_ROWS) & (batch.norms < self.table.own)
        eps = self.backbone.shape.norm_eps
        if self.training and not self._frozen_moments and bool(large.any()):
            mean, var = self._batch_moments(level, h, batch, large, (mean, var))
        gain = weight * torch.rsqrt(var + eps)
        segment = batch.segment
        return torch.addcmul((bias - mean * gain)[segment], h, gain[segment])

    def _batch_moments(
        self, level: int, h: Tensor, batch: Sorted, large: Tensor, running: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The moments (s, d) of the batch's own rows where there are enough of them; the running ones follow them."""
        rows = batch.counts.to(h.dtype).unsqueeze(1)
        own = large.unsqueeze(1)
        zeros = torch.zeros(len(large), h.shape[1], dtype=h.dtype)
        mean = zeros.index_add(0, batch.segment, h) / rows
        centred = h - mean[batch.segment]
        var = zeros.index_add(0, batch.segment, centred * centred) / rows
        with torch.no_grad():
            stack, momentum = self._stack(level), self.backbone.shape.norm_momentum
            places, moved_rows = batch.norms[large], rows[large]
            unbiased = var[large] * (moved_rows / (moved_rows - 1))
            stack.mean[places] = torch.lerp(stack.mean[places], mean[large], momentum)
            stack.var[places] = torch.lerp(stack.var[places], unbiased, momentum)
        return torch.where(own, mean, running[0]), torch.where(own, var, running[1])

    def _rows(self, level: int, key: str, norms: Tensor) -> Tensor:
        """One value of some norms (s, d): the tuples' own, then the frozen ones."""
        split = int((norms < self.table.own).sum())
        own = self._stack(level).rows(key, norms[:split])
        other = self._others[str(level)].rows(key, norms[split:] - self.table.own).detach()
        return torch.cat([own, other])

    def _stack(self, level: int) -> NormStack:
        found = self.norms[str(level)]
        assert isinstance(found, NormStack)
        return found

    @torch.no_grad()
    def compensate(self, read: Callable[[Tensor], Batch], parts: Sequence[Tensor]) -> None:
        """Move the tuples' norms to the moments of their own rows, the function unchanged (methods.md 2).

        Args:
            read: gives the encoded rows at some positions.
            parts: positions of all training rows, a bounded number at a time.
        """
        self.eval()
        count = len(self.table.norms)
        self._recorded = {int(level): DomainSums(count, self.backbone.shape.tower[int(level)]) for level in self.norms}
        rows = torch.zeros(count, dtype=torch.float64)
        try:
            for part in parts:
                _, batch = self.score(read, part)
                rows.index_add_(0, batch.norms, batch.counts.double())
            for level, sums in self._recorded.items():
                self._move(level, sums, rows)
        finally:
            self._recorded = None

    def _move(self, level: int, sums: DomainSums, rows: Tensor) -> None:
        stack, own = self._stack(level), self.table.own
        mean, var = (value[:own] for value in sums.moments(rows))
        values = [getattr(stack, key) for key in _KEYS]
        enough = (rows[:own] >= MIN_ROWS).unsqueeze(1)
        for value, new in zip(values, moved(values, (mean, var), self.backbone.shape.norm_eps), strict=True):
            value.copy_(torch.where(enough, new, value.double()))

    @torch.no_grad()
    def write(self) -> None:
        """Put the tuples' norms into the tower."""
        for name, row in zip(self.table.norms[: self.table.own], range(self.table.own), strict=True):
            layers = self._tower.norms_of(name)
            for level in self.norms:
                norm, stack = layers[int(level)], self._stack(int(level))
                norm.load_state_dict({key: getattr(stack, key)[row] for key in _KEYS})


class StackedBound:
    """A `StackedFused` for one batch: a `TowerLayer` whose rows come in `Sorted.order`.

    Args:
        stack: adapters, fusion and norms.
        batch: its rows.
    """

    def __init__(self, stack: StackedFused, batch: Sorted) -> None:
        self._stack = stack
        self._batch = batch

    @property
    def training(self) -> bool:
        """Whether dropout and batch moments are in use."""
        return self._stack.training

    @property
    def dropout(self) -> float:
        """Probability of dropout in training mode."""
        return self._stack.dropout

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return DomNorm(h0 + sum of w_i h_i) (n, d); no norm where the module has none."""
        h = self._stack.combined(level, x, linear(x), self._batch)
        return self._stack.normed(level, h, self._batch)


def _by_position(tower: FusedTower, division: int) -> dict[int, DomainAdapter]:
    """The adapters of one division, by domain position."""
    found = tower.divisions[division]
    assert isinstance(found, nn.ModuleDict)
    return {int(position): tower.adapter(division, int(position)) for position in found}
