"""How far a run is: what a checkpoint keeps beside tensors."""

from __future__ import annotations

import operator
import statistics
from dataclasses import dataclass, field

from loginmea_fast.training.config import Config

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
        round_ranks: as `best_ranks`, of this round's best.
        round_epoch: the epoch that it followed; 0 before a round's first validation.
        stale: validations of this round since its best.
        grown_epoch: after which links joined within this round, the last time; 0 where none have.
        outgrown: whether validation has fallen since, so that no more join within this round.
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
    round_ranks: list[float] = field(default_factory=list)
    round_epoch: int = 0
    stale: int = 0
    grown_epoch: int = 0
    outgrown: bool = False
    stopped_early: bool = False
    settled: bool = True

    @property
    def chosen_epoch(self) -> int | None:
        """The epoch that validation chose; None where nothing was validated, so that the last one is kept."""
        return None if self.best_score is None else self.best_epoch

    def judge(self, score: float | None, ranks: list[float], config: Config) -> bool:
        """Count the validation that follows `epoch`; whether its parameters are the best so far.

        Where it is worse than this round's best by more than chance, and that was before links last joined, `outgrown`
        is set.

        Args:
            score: what decides; None where there is nothing to choose by.
            ranks: of each validation link its reciprocal rank, the mean of both ways; none where test links choose.
            config: of the run.
        """
        if score is None or self.best_score is None:
            better = True
        elif config.compat == "authors":
            better = score > self.best_score
        else:
            # A tie goes to the later epoch: few validation links tie often, and longer training seldom hurts. It is no
            # progress though: patience goes on counting.
            better = score >= self.best_score - self._chance(ranks, config.epochs)
        progress = score is None or self.round_score is None or score > self.round_score
        self.stale = 0 if progress else self.stale + 1
        if score is not None and self.round_score is not None and config.compat != "authors":
            grown = 0 < self.round_epoch <= self.grown_epoch
            self.outgrown |= grown and score < self.round_score - _error(ranks, self.round_ranks)
        if score is not None and progress:
            self.round_score, self.round_ranks, self.round_epoch = score, ranks, self.epoch
        if better:
            self.best_score, self.best_epoch, self.best_ranks = score, self.epoch, ranks
        return better

    def _chance(self, ranks: list[float], epochs: int) -> float:
        """How much worse than the best an epoch may be and still be kept; a round has so many `epochs`.

        Nothing within a round. A round has learned from more links than those before it, and a few hundred validation
        links say little of what that is worth: it has to be worse by more than one standard error of the difference
        (the rule of Breiman et al. for trees).
        """
        first = self.epoch - 1 - (self.epoch - 1) % epochs  # epochs before this round
        return 0.0 if self.best_epoch > first else _error(ranks, self.best_ranks)


def _error(ranks: list[float], best: list[float]) -> float:
    """One standard error of the mean difference of two validations, link by link; 0 where that cannot be told."""
    if len(ranks) != len(best) or len(ranks) < 2:
        return 0.0
    return statistics.stdev(map(operator.sub, ranks, best)) / len(ranks) ** 0.5
