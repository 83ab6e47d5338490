"""The theta_i of a worker's domains, by rows of the whole table; a scene borrows them by its own places."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from training.cluster.local import LocalView, Rows
from training.frameworks.state import Specific, by_prefix


class Specifics:
    """theta_i by domain position."""

    def __init__(self) -> None:
        self._of: dict[int, Specific] = {}

    def lent(self, domains: tuple[int, ...], view: LocalView, places: Rows) -> dict[int, Specific]:
        """Return the theta_i of those domains that have one, as far as they change these places.

        Args:
            domains: positions.
            view: whose places `ids` of what is returned name.
            places: ascending; rows elsewhere stay behind, for nothing reads them there.
        """
        return {domain: _inward(self._of[domain], view, places) for domain in domains if domain in self._of}

    def take(self, domain: int, changed: Specific, view: LocalView) -> None:
        """Take back what was lent and has changed since; rows that stayed behind are as they were."""
        ids = view.ids[changed.ids.numpy()]
        before = self._of.get(domain)
        if before is None:
            self._of[domain] = Specific(changed.dense, torch.from_numpy(ids), changed.rows)
            return
        behind = torch.from_numpy(~np.isin(before.ids.numpy(), ids))
        joined = torch.cat([torch.from_numpy(ids), before.ids[behind]])
        rows = torch.cat([changed.rows, before.rows[behind]])
        order = torch.argsort(joined)
        self._of[domain] = Specific(changed.dense, joined[order], rows[order])

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, as `training.frameworks.state.State` names it behind `specific/`."""
        named: dict[str, Tensor] = {}
        for domain, own in self._of.items():
            named |= {f"{domain}/dense/{name}": value for name, value in own.dense.items()}
            named |= {f"{domain}/ids": own.ids, f"{domain}/rows": own.rows}
        return named

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `tensors` gave."""
        self._of = {}
        for name, found in by_prefix(tensors).items():
            dense = by_prefix(found).get("dense", {})
            self._of[int(name)] = Specific(dense, found["ids"], found["rows"])


def _inward(own: Specific, view: LocalView, places: Rows) -> Specific:
    here = np.isin(own.ids.numpy(), view.ids[places])
    ids = torch.from_numpy(view.places(own.ids.numpy()[here]))
    return Specific(
        {name: value.clone() for name, value in own.dense.items()}, ids, own.rows[torch.from_numpy(here)].clone()
    )
