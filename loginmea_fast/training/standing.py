"""How far a run is: what a checkpoint keeps beside tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Standing"]


@dataclass
class Standing:
    """How far a run is, JSON-ready.

    Attributes:
        epoch: epochs finished.
        update: updates of the epoch after it that are done.
        global_step: updates done in all, of every epoch and round.
        loss: mean over the links of these updates, so far.
        terms: the same of each term of the loss, where there are several.
        best_score: of the best validation so far; None before the first.
        best_ranks: of each validation link its reciprocal rank then, the mean of both ways.
        best_epoch: the epoch it followed, or without validation the last; 0 before the first.
        round_score: the best score of this round.
        stale: validations of this round since its best.
        stopped_early: whether patience ran out in the last round, or a further one would gain nothing.
        settled: whether the bootstrapping and validation that follow `epoch` are done.
    """

    epoch: int = 0
    update: int = 0
    global_step: int = 0
    loss: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    best_score: float | None = None
    best_ranks: list[float] = field(default_factory=list)
    best_epoch: int = 0
    round_score: float | None = None
    stale: int = 0
    stopped_early: bool = False
    settled: bool = True

    @property
    def chosen_epoch(self) -> int | None:
        """The epoch that validation chose; None where nothing was validated, so that the last one is kept."""
        return None if self.best_score is None else self.best_epoch
