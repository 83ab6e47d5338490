"""The fused layer: several divisions' LoRAs under one norm for each tuple of domains.

Source: MultiLoRA, Eq. 11; methods.md 2, stage 3.
departs from the paper: a tuple with fewer than 200 training rows has no norms of its own and takes a shorter one's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from network.backbone import Backbone
from network.embeddings import LookedUp
from network.errors import ShapeError
from network.fusion import Fusion, Mode
from network.grouping import Domains, Grouping, Run, count_tuples, drop_last, frequent, group
from network.inputs import Batch
from network.lora import DomainAdapter
from network.norm import DomNorm, Moments, pooled

MIN_TUPLE_ROWS = 200
"""A tuple with fewer training rows has no norms of its own."""


class FusedTower(nn.Module):
    """All divisions' adapters of a backbone, their fusion, and the norms of the tuples that have one.

    The adapters are frozen: they stay in eval mode, and their own norms serve tuples without a norm. `bound` gives the
    `TowerLayer` of one batch.

    Args:
        backbone: frozen; its norms serve rows without any adapter.
        adapters: for each division, natural first, the adapters by domain position; a domain without one is left out.
        mode: how the present divisions combine; `single` takes the natural one alone.
        fusion: the attention's weights; None for the other modes.
        dropout: probability of dropout in training mode.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Sequence[Mapping[int, DomainAdapter]],
        mode: Mode = "attention",
        fusion: Fusion | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if (mode == "attention") != (fusion is not None):
            raise ShapeError(f"mode {mode} {'needs a' if fusion is None else 'takes no'} fusion")
        self.mode: Mode = mode
        self.dropout = dropout
        self.fusion = fusion
        self.plain = backbone.plain
        self.modules_named = tuple(module.name for module in backbone.shape.modules)
        self.divisions = nn.ModuleList(nn.ModuleDict({str(i): a for i, a in found.items()}) for found in adapters)
        self.norms = nn.ModuleDict()

    def train(self, mode: bool = True) -> FusedTower:
        """Set training mode for the fusion and the tuples' norms; what is frozen stays in eval mode."""
        super().train(mode)
        self.plain.eval()
        self.divisions.eval()
        return self

    def adapters(self) -> Iterator[DomainAdapter]:
        """All adapters, division by division."""
        for found in self.divisions:
            assert isinstance(found, nn.ModuleDict)
            for adapter in found.values():
                assert isinstance(adapter, DomainAdapter)
                yield adapter

    def add_norms(self, domains: Domains, moments: Moments = "compensated") -> None:
        """Give a tuple norms of its own, started from its domains' norms (methods.md 2)."""
        members = [self.adapter(i, d) for i, d in enumerate(domains) if d >= 0]
        self.norms[_key(domains)] = nn.ModuleList(
            pooled([member.norm(level) for member in members], moments)
            if members[0].ranks[level]
            else members[0].norm(level)  # the backbone's, which no adapter changes
            for level in range(len(self.plain.norms))
        )

    def add_frequent_norms(
        self, domains: Tensor, min_rows: int = MIN_TUPLE_ROWS, moments: Moments = "compensated"
    ) -> list[Domains]:
        """Give norms to every tuple of the training rows that has enough of them, and return these tuples.

        Args:
            domains: integers (n, divisions) of all training rows; -1 is none.
            min_rows: a tuple with fewer rows drops its last present division, and so on (methods.md 2).
            moments: how the norms treat moments.

        Returns:
            The tuples; none where no adapted module has a norm.
        """
        if not self._has_norms():
            return []
        tuples, _, counts = count_tuples(domains)
        rows: Counter[Domains] = Counter()
        for whole, n in zip(tuples, counts, strict=True):
            rows[self.present(whole)] += n
        found = frequent(rows, min_rows)
        for each in found:
            self.add_norms(each, moments)
        return found

    def norms_of(self, domains: Domains) -> list[DomNorm]:
        """Return the norms of the hidden layers, bottom to top, under a name that `norm_name` gave.

        Empty where the backbone has none; where a layer is not adapted its norm is the backbone's.
        """
        return [norm for norm in self._layers(domains) if isinstance(norm, DomNorm)]

    def adapted_norms(self, domains: Domains) -> dict[str, DomNorm]:
        """Return those of `norms_of` that are the tuple's own, by module."""
        ranks = next(self.adapters()).ranks
        found = zip(self.modules_named, ranks, self.norms_of(domains), strict=False)
        return {module: norm for module, rank, norm in found if rank}

    def own_norms(self) -> Iterator[tuple[Domains, list[DomNorm]]]:
        """The tuples that have norms of their own, and these norms."""
        for key in self.norms:
            domains = tuple(int(part) for part in key.split(","))
            yield domains, list(self.adapted_norms(domains).values())

    def _layers(self, domains: Domains) -> nn.ModuleList:
        key = _key(domains)
        if key in self.norms:
            layers = self.norms[key]
        else:
            present = [(i, d) for i, d in enumerate(domains) if d >= 0]
            layers = self.adapter(*present[0]).norms if present else self.plain.norms
        assert isinstance(layers, nn.ModuleList)
        return layers

    def _has_norms(self) -> bool:
        first = next(self.adapters(), None)
        return first is not None and any(True for _ in first.dom_norms())

    def present(self, domains: Domains) -> Domains:
        """Return the tuple without the domains that have no adapter or that the mode leaves out."""
        kept = domains[:1] if self.mode == "single" else domains
        masked = [d if self._has(i, d) else -1 for i, d in enumerate(kept)]
        return tuple(masked + [-1] * (len(domains) - len(kept)))

    def norm_name(self, domains: Domains) -> Domains:
        """Return the tuple whose norms serve this one: itself, else the last present division dropped, and so on."""
        name = self.present(domains)
        while sum(d >= 0 for d in name) > 1 and _key(name) not in self.norms:
            name = drop_last(name)
        return name

    def bound(self, domains: Tensor) -> BoundLayer:
        """Return the layer for a batch whose rows have these domains, integers (n, divisions); -1 is none.

        The rows must come in the order `BoundLayer.grouping.order`.
        """
        return BoundLayer(self, group(domains, self.norm_name))

    def logits(self, backbone: Backbone, batch: Batch, domains: Tensor) -> Tensor:
        """Return the logits (n,) of a mixed batch, in the batch's own order."""
        layer = self.bound(domains)
        return layer.grouping.restore(backbone(batch.take(layer.grouping.order), layer))

    def score_looked_up(self, backbone: Backbone, looked: LookedUp, domains: Tensor) -> Tensor:
        """Return the logits (n,) of what the lookup gave for a mixed batch, in the batch's own order."""
        layer = self.bound(domains)
        return layer.grouping.restore(backbone.score_looked_up(looked.take(layer.grouping.order), layer))

    def combine(self, level: int, x: Tensor, query: Tensor | None, domains: Domains) -> Tensor | None:
        """Return what one tuple's LoRAs add to h0 (n, d), None where there are none.

        Args:
            level: number of the module.
            x: (n, k) the layer's input, rows of this tuple only.
            query: (n, rf) in mode attention.
            domains: the tuple.
        """
        present = [self.adapter(i, d).lora(level) for i, d in enumerate(self.present(domains)) if d >= 0]
        loras = [lora for lora in present if lora is not None]
        if not loras:
            return None
        outputs = torch.stack([lora(x) for lora in loras])
        if self.mode == "add":
            return outputs.sum(0)
        if self.fusion is None or query is None:
            return outputs.mean(0)
        weights = self.fusion.weights(level, query, outputs)
        return (outputs * weights.movedim(-1, 0).unsqueeze(-1)).sum(0)

    def _has(self, division: int, domain: int) -> bool:
        found = self.divisions[division]
        assert isinstance(found, nn.ModuleDict)
        return str(domain) in found

    def adapter(self, division: int, domain: int) -> DomainAdapter:
        """Return the adapter of one domain, by positions."""
        found = self.divisions[division]
        assert isinstance(found, nn.ModuleDict)
        adapter = found[str(domain)]
        assert isinstance(adapter, DomainAdapter)
        return adapter


def _key(domains: Sequence[int]) -> str:
    return ",".join(str(d) for d in domains)


class BoundLayer:
    """A `FusedTower` for one batch: a `TowerLayer` whose rows come in `grouping.order`.

    Args:
        tower: the adapters, fusion and norms.
        grouping: the batch's runs.
    """

    def __init__(self, tower: FusedTower, grouping: Grouping) -> None:
        self._tower = tower
        self.grouping = grouping

    @property
    def training(self) -> bool:
        """Whether dropout and batch moments are in use."""
        return self._tower.training

    @property
    def dropout(self) -> float:
        """Probability of dropout in training mode."""
        return self._tower.dropout

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return DomNorm(h0 + sum of w_i h_i) (n, d); no norm where the module has none. Source: MultiLoRA, Eq. 11."""
        tower = self._tower
        h0 = linear(x)
        runs, norm_runs = self.grouping.runs, self.grouping.norm_runs
        if not runs:
            return h0
        queries: Sequence[Tensor | None] = [None] * len(runs)
        if tower.fusion is not None:
            queries = _cut(tower.fusion.queries(level, h0), runs)
        pieces: list[Tensor] = []
        for run, base, own, query in zip(runs, _cut(h0, runs), _cut(x, runs), queries, strict=True):
            added = tower.combine(level, own, query, run.domains)
            pieces.append(base if added is None else base + added)
        h = torch.cat(pieces)
        if level >= len(tower.plain.norms):
            return h
        parts = zip(norm_runs, _cut(h, norm_runs), strict=True)
        return torch.cat([tower.norms_of(run.domains)[level](part) for run, part in parts])


def _cut(values: Tensor, runs: Sequence[Run]) -> Sequence[Tensor]:
    """Each run's rows. One split, for its gradient is one concatenation; a slice's is a whole batch of zeros."""
    return torch.split(values, [run.rows for run in runs])
