"""A full delta as a LoRA: truncated SVD of each layer, gated by what it costs in validation AUC (methods.md 4).

What a LoRA can hold of theta_i, with s = 1:

- weights of adaptable modules: truncated SVD into U and D; biases into the shift; norms exactly, as the domain's own;
- `output.bias` exactly, as the intercept of the calibration;
- `output.weight`, as far as it keeps each unit's sign: ReLU is positively homogeneous, so (w + dw) y = w (f y) with
  f = (w + dw) / w > 0, and f goes into the last hidden layer: its norm, or where it has none its weight and bias;
- rows of id embeddings as an id overlay;
- the domain's own row in a table that is read by domain: it adds the same to the input of every row, so it goes into
  the shift of the layer above (kind mlp).

The rest, such as rows of attributes, is dropped and named; the gate measures the network that the artifact really is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from features.fields import Field
from features.vocabulary import Vocabulary
from network.backbone import Backbone
from network.inputs import ModuleShape
from training.deltas.constant import constant_of
from training.deltas.low_rank import Factors, Ranks, smallest_ranks
from training.deltas.overlay import TORCH, OverlayRows, row_sparse
from training.errors import CompressionRefused
from training.golden import Dtype

Weights = dict[str, Tensor]
Evaluate = Callable[[Mapping[str, Tensor]], float | None]

BOUND = 0.0005
MAX_RANK = 256
_LARGEST_FACTOR = 1e3  # a unit whose output weight grows more than this was all but dead: no scale brings it to life
_NORM_PARTS = ("weight", "bias", "mean", "var")


@dataclass(frozen=True)
class Compressed:
    """What a delta became.

    Args:
        tensors: of the LoRA and its norms, by an artifact's names, as stored.
        ranks: adapted module to rank.
        intercept: of the calibration.
        overlays: the domain's own id embeddings, as stored.
        record: what the manifest records: the AUC before and after, the loss, the bound, what was dropped.
    """

    tensors: Weights
    ranks: Ranks
    intercept: float
    overlays: Sequence[OverlayRows]
    record: Mapping[str, Any]


def compress(
    backbone: Backbone,
    fields: Iterable[Field],
    vocabulary: Vocabulary,
    theta_i: Mapping[str, Tensor],
    evaluate: Evaluate,
    *,
    domain: str | None = None,
    bound: float = BOUND,
    max_rank: int = MAX_RANK,
    dtype: Dtype = "float16",
) -> Compressed:
    """Compress one domain's delta.

    Args:
        backbone: theta_S, float32.
        fields: of the data set.
        vocabulary: of the data set.
        theta_i: the delta by a bundle's names; a tensor that is not there is zero.
        evaluate: validation AUC of the domain by whole weights (`training.deltas.evaluation.ValidationAuc`).
        domain: whose delta it is; without it the domain's own row is dropped as other rows without an id are.
        bound: on the AUC lost against theta_S + theta_i.
        max_rank: of any layer.
        dtype: of U, D and overlay rows.

    Raises:
        CompressionRefused: no ranks keep to the bound, or there is no AUC to tell; says why.
    """
    theta_s = backbone.weights()
    whole = {name: value + theta_i[name] if name in theta_i else value for name, value in theta_s.items()}
    auc = evaluate(whole)
    if auc is None:
        raise CompressionRefused("the validation rows have one class only: there is no AUC that a gate could hold to")
    overlays, rest = row_sparse(fields, vocabulary, theta_s, theta_i)
    overlays = [overlay.stored(dtype) for overlay in overlays]
    constant: Tensor | None = None
    if domain is not None:
        own = constant_of(backbone.shape, fields, vocabulary, rest, domain)
        rest, constant = own.rest, own.x if bool(own.x.any()) else None
    plan = _Plan(backbone, theta_s, rest, max_rank, TORCH[dtype], constant)
    base = plan.exact | _overlaid(theta_s, vocabulary, overlays)
    dropped = sorted([*plan.dropped, *_row_0(fields, theta_i)])

    def loss(ranks: Ranks) -> float:
        found = evaluate({**theta_s, **base, **plan.weights(ranks)})
        return float("inf") if found is None else auc - found

    ranks = smallest_ranks(plan.full_ranks, loss, bound)
    if ranks is None:
        raise CompressionRefused(_reason(loss(plan.full_ranks), bound, plan.full_ranks, dropped))
    lost = loss(ranks)
    record = {
        "auc_delta": auc,
        "auc": auc - lost,
        "auc_loss": lost,
        "bound": bound,
        "full_ranks": plan.full_ranks,
        "dropped": dropped,
    }
    return Compressed(plan.tensors(ranks), ranks, plan.intercept, overlays, record)


class _Plan:
    """What becomes of each tensor of a delta.

    Args:
        backbone: theta_S.
        theta_s: its weights.
        rest: the delta without id embeddings.
        max_rank: of any layer.
        dtype: of U and D.
        constant: (k,) added to the input of the first layer in every row; None for nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        theta_s: Weights,
        rest: Mapping[str, Tensor],
        max_rank: int,
        dtype: torch.dtype,
        constant: Tensor | None = None,
    ) -> None:
        left = {name: value for name, value in rest.items() if bool((value != 0).any())}
        self._theta_s, self._dtype = theta_s, dtype
        self._factors: dict[str, Factors] = {}
        self._shifts: Weights = {}
        self.exact: Weights = {}
        self.intercept = float(left.pop("output.bias", torch.zeros(1)))
        self.exact["output.bias"] = theta_s["output.bias"] + self.intercept
        scale = self._absorbed(backbone, left)
        modules = backbone.shape.modules
        last = modules[len(backbone.shape.tower) - 1].name
        for module in modules:
            first = constant if module.name == modules[0].name else None
            self._take(module, left, scale if module.name == last else None, first, max_rank)
        if not self._factors:  # an adapter adapts something: nothing of the first module
            self._shifts[modules[0].name] = torch.zeros(modules[0].outputs)
            self._factors[modules[0].name] = Factors.of(torch.zeros(modules[0].outputs, modules[0].inputs), 1)
            self.exact |= self._norm(modules[0], {}, None)
        self.dropped = list(left)

    @property
    def full_ranks(self) -> Ranks:
        """Each adapted module's rank before anything is cut off."""
        return {module: factors.rank for module, factors in self._factors.items()}

    def tensors(self, ranks: Ranks) -> Weights:
        """The LoRA's tensors, and the norms of what it adapts."""
        found: Weights = {}
        for module, rank in ranks.items():
            up, down = self._factors[module].at(rank, self._dtype)
            shift = self._shifts[module].float()
            found |= {f"{module}.up": up, f"{module}.down": down, f"{module}.shift": shift}
            found[f"{module}.scale"] = torch.ones_like(shift)
            norms = (f"{module}.norm.{part}" for part in _NORM_PARTS)
            found |= {name: self.exact[name].float() for name in norms if name in self.exact}
        return found

    def weights(self, ranks: Ranks) -> Weights:
        """The whole weights that the LoRA amounts to."""
        found: Weights = {}
        for module, rank in ranks.items():
            up, down = self._factors[module].at(rank, self._dtype)
            found[f"{module}.weight"] = self._theta_s[f"{module}.weight"] + up.float() @ down.float()
            if f"{module}.bias" in self._theta_s:
                found[f"{module}.bias"] = self._theta_s[f"{module}.bias"] + self._shifts[module].float()
        return found

    def _absorbed(self, backbone: Backbone, left: Weights) -> Tensor | None:
        """Take from `left` what the last hidden layer can scale: factors (d,) of its units; None for none."""
        delta = left.get("output.weight")
        if delta is None:
            return None
        units = slice(backbone.shape.beside_width, None)
        own, moved = self._theta_s["output.weight"][0, units].double(), delta[0, units].double()
        factor = torch.where(own == 0, 0.0, (own + moved) / own)
        fits = (factor > 1 / _LARGEST_FACTOR) & (factor < _LARGEST_FACTOR)
        held = delta.clone()
        held[0, units] = torch.where(fits, 0.0, moved).to(held.dtype)
        if bool((held == 0).all()):
            del left["output.weight"]
        else:
            left["output.weight"] = held
        return torch.where(fits, factor, 1.0)

    def _take(
        self, module: ModuleShape, left: Weights, scale: Tensor | None, constant: Tensor | None, max_rank: int
    ) -> None:
        """Take from `left` what one module's LoRA and norm hold."""
        weight, bias = f"{module.name}.weight", f"{module.name}.bias"
        norms = {name: left.pop(name) for name in [f"{module.name}.norm.{p}" for p in _NORM_PARTS] if name in left}
        untouched = weight not in left and bias not in left and not norms
        if untouched and scale is None and constant is None:
            return
        delta = left.pop(weight, torch.zeros_like(self._theta_s[weight])).double()
        shift = left.pop(bias, torch.zeros(module.outputs)).double()
        if constant is not None:
            shift = shift + (self._theta_s[weight] + delta) @ constant
        if module.norm:
            self.exact |= self._norm(module, norms, scale)
        elif scale is not None:
            delta = scale[:, None] * (self._theta_s[weight] + delta) - self._theta_s[weight]
            shift = scale * (self._theta_s[bias] + shift) - self._theta_s[bias]
        self._factors[module.name] = Factors.of(delta, max_rank)
        self._shifts[module.name] = shift

    def _norm(self, module: ModuleShape, deltas: Mapping[str, Tensor], scale: Tensor | None) -> Weights:
        """The domain's own norm, its output scaled; nothing where the module has none."""
        if not module.norm:
            return {}
        names = [f"{module.name}.norm.{part}" for part in _NORM_PARTS]
        whole = {name: (self._theta_s[name] + deltas.get(name, 0.0)).double() for name in names}
        for name in names[:2]:
            whole[name] = whole[name] if scale is None else whole[name] * scale
        return {name: value.float() for name, value in whole.items()}


def _overlaid(theta_s: Weights, vocabulary: Vocabulary, overlays: Sequence[OverlayRows]) -> Weights:
    """Tables with an overlay's rows in them, for rows of a data set whose ids the vocabulary knows."""
    found: Weights = {}
    for overlay in overlays:
        rows = torch.from_numpy(vocabulary.rows(overlay.field, overlay.ids.values()).astype("int64"))
        for table, values in (("embedding", overlay.rows), ("first_order", overlay.first_order)):
            if values is not None:
                found[f"{table}.{overlay.field}"] = theta_s[f"{table}.{overlay.field}"].clone()
                found[f"{table}.{overlay.field}"][rows] = values.float()
    return found


def _row_0(fields: Iterable[Field], theta_i: Mapping[str, Tensor]) -> list[str]:
    """Id tables whose row out of vocabulary the delta changes, which no overlay can."""
    names = [f"{table}.{field.name}" for field in fields if field.id for table in ("embedding", "first_order")]
    return [f"{name}[0]" for name in names if name in theta_i and bool((theta_i[name][0] != 0).any())]


def _reason(lost: float, bound: float, full: Ranks, dropped: Sequence[str]) -> str:
    at = ", ".join(f"{module} {rank}" for module, rank in full.items())
    left = f"; dropped, as no LoRA holds it: {', '.join(dropped)}" if dropped else ""
    return (
        f"even at full ranks ({at}) the LoRA loses {lost:.6f} validation AUC against the delta, more than {bound:g}"
        f"{left}: publish the delta itself"
    )
