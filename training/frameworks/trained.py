"""What a training hands over to those who make artifacts: theta_S and the theta_i under a bundle's names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from network.backbone import Backbone
from training.batches import RowTensors
from training.frameworks.lora import LoraStructure
from training.frameworks.setting import Setting
from training.frameworks.state import Specific, State
from training.frameworks.structure import TABLE, PlainStructure
from training.pretrain import count_rows

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class RowDelta:
    """What is added to some rows of one table of a bundle.

    Args:
        rows: (u,) int64 sorted row numbers in that table; never 0.
        values: (u, E) of `embedding.<field>`, or (u,) of `first_order.<field>`.
    """

    rows: Tensor
    values: Tensor


@dataclass(frozen=True)
class TrainedDomain:
    """theta_i of one domain.

    Args:
        name: of the domain.
        dense: bundle's tensor -> what is added to it, of the same shape; norms' moments included, tables never.
        rows: bundle's table -> the rows that are changed; empty where embeddings are shared.
    """

    name: str
    dense: Mapping[str, Tensor]
    rows: Mapping[str, RowDelta]

    def full(self, shared: Mapping[str, Tensor]) -> Tensors:
        """Return every tensor that changes with its delta in full, tables included."""
        whole = dict(self.dense)
        for name, found in self.rows.items():
            whole[name] = torch.zeros_like(shared[name]).index_copy_(0, found.rows, found.values)
        return whole


@dataclass(frozen=True)
class Trained:
    """A trained backbone and the deltas of its domains.

    Args:
        backbone: theta_S, frozen, row 0 of every table set.
        shared: its tensors under a bundle's names.
        domains: by position in the natural division; those without training rows are left out.
        rows: the data set.
    """

    backbone: Backbone
    shared: Mapping[str, Tensor]
    domains: Mapping[int, TrainedDomain]
    rows: RowTensors


def shared_backbone(setting: Setting, backbone: Backbone, state: State) -> Backbone:
    """Return a frozen copy of the backbone with theta_S, row 0 of every table set as bundles have it.

    Args:
        setting: its structure holds this backbone under the name `backbone`.
        backbone: as it was built.
        state: what was learned.
    """
    filled = _with(backbone, state.shared, state.moments)
    filled.embeddings.fill_unknown(count_rows(filled, setting.rows, torch.cat(setting.domains.train)))
    return filled.freeze()


def as_exported(setting: Setting, state: State) -> State:
    """Return a state as its artifacts have it: row 0 of every table set, and changed by no theta_i.

    Args:
        setting: a plain network or one with LoRAs; the state of any other, which is not exported, stays as it is.
        state: what was learned; left as it is.
    """
    structure = setting.structure
    if not isinstance(structure, PlainStructure | LoraStructure):
        return state
    table = shared_backbone(setting, structure.backbone, state).embeddings.table.detach()
    unknown = torch.tensor(sorted(structure.embeddings.starts.values()), dtype=torch.int64)
    specifics = {}
    for domain, own in state.specifics.items():
        kept = ~torch.isin(own.ids, unknown)
        specifics[domain] = replace(own, ids=own.ids[kept], rows=own.rows[kept])
    return replace(state, shared={**state.shared, TABLE: table}, specifics=specifics)


def trained(setting: Setting, backbone: Backbone, state: State) -> Trained:
    """Return what a training of a plain structure has learned.

    Args:
        setting: what was trained on.
        backbone: of theta_S, as `shared_backbone` gives it.
        state: what was learned.
    """
    names = setting.domains.names
    domains = {i: _domain(backbone, state, own, names[i]) for i, own in state.specifics.items()}
    return Trained(backbone, backbone.weights(), domains, setting.rows)


def _domain(backbone: Backbone, state: State, own: Specific, name: str) -> TrainedDomain:
    moments = {key: value - state.moments[key] for key, value in own.moments.items()}
    named = _with(backbone, own.dense, moments).weights()
    dense = {key: value for key, value in named.items() if not key.startswith(("embedding.", "first_order."))}
    dense |= {key: named[key] for key in _slopes(backbone, named)}
    return TrainedDomain(name, dense, dict(_rows(backbone, own)))


def _slopes(backbone: Backbone, named: Mapping[str, Tensor]) -> list[str]:
    """First-order weights of fields without a table: dense parameters, though they are named like tables."""
    return [f"first_order.{field.name}" for field in backbone.shape.untrained if f"first_order.{field.name}" in named]


def _rows(backbone: Backbone, own: Specific) -> list[tuple[str, RowDelta]]:
    """Part the rows of the one concatenated table by field."""
    embeddings, width = backbone.embeddings, backbone.shape.width
    found = []
    for field, start in embeddings.starts.items():
        inside = (own.ids > start) & (own.ids < start + embeddings.rows[field])  # row 0 stands for unknown values
        if not inside.any():
            continue
        rows, values = own.ids[inside] - start, own.rows[inside]
        found.append((f"embedding.{field}", RowDelta(rows, values[:, :width].clone())))
        if values.shape[1] > width:
            found.append((f"first_order.{field}", RowDelta(rows, values[:, width].clone())))
    return found


@torch.no_grad()
def _with(backbone: Backbone, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> Backbone:
    """A copy of the backbone with these parameters and moments, named as a structure names them; others are zero."""
    filled = copy.deepcopy(backbone)
    prefix = "backbone."
    for name, parameter in filled.named_parameters():
        own = name if name.startswith("embeddings.") else prefix + name
        parameter.copy_(weights[own]) if own in weights else parameter.zero_()
    kept = filled.state_dict()
    for name, buffer in filled.named_buffers():
        if name in kept and buffer.is_floating_point():
            buffer.copy_(moments[prefix + name]) if prefix + name in moments else buffer.zero_()
    return filled
