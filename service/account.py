"""What is known of one request while it is answered, for its log line and its spans; never a user's or an item's id."""

from __future__ import annotations


class Account:
    """Filled on the way by the route, the scorer and the batcher; read at the edge once the answer has left.

    The attributes are set from outside: one that stays None was not reached.

    Attributes:
        by: name of the token that asked.
        domain: as asked.
        rows: scores in the answer.
        backbone: revision of the bundle that scored.
        revision: of the adapter that scored.
        alias: its place in the record.
        generation: of the record.
        fallback: why the live revision did not score.
        error: class of what the request was refused with.
        stages: (name, began, ended) in `Clock.now()` seconds, as they were told.
    """

    __slots__ = ("alias", "backbone", "by", "domain", "error", "fallback", "generation", "revision", "rows", "stages")

    def __init__(self) -> None:
        self.by: str | None = None
        self.domain: str | None = None
        self.rows: int | None = None
        self.backbone: str | None = None
        self.revision: str | None = None
        self.alias: str | None = None
        self.generation: int | None = None
        self.fallback: str | None = None
        self.error: str | None = None
        self.stages: list[tuple[str, float, float]] = []

    def stage(self, name: str, began: float, ended: float) -> None:
        """A stage of the request ended; one that another interrupts, or that is gone through twice, is told twice."""
        self.stages.append((name, began, ended))

    def seconds(self) -> dict[str, float]:
        """Stage -> seconds in it, in the order in which they were first told."""
        spent: dict[str, float] = {}
        for name, began, ended in self.stages:
            spent[name] = spent.get(name, 0.0) + ended - began
        return spent
