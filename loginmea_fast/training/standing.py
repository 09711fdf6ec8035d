"""How far a run is: what a checkpoint keeps beside tensors."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

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
        best_score: of the validation whose epoch is kept; None before the first.
        best_epoch: the epoch it followed, or without validation the last; 0 before the first.
        highest_score: the highest of all rounds, that of a kept epoch, though not always of the one kept now.
        highest_ranks: of each validation link its reciprocal rank then, the mean of both ways.
        round_score: the best score of this round.
        round_ranks: as `highest_ranks`, of this round's best.
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
    best_epoch: int = 0
    highest_score: float | None = None
    highest_ranks: list[float] = field(default_factory=list)
    round_score: float | None = None
    round_ranks: list[float] = field(default_factory=list)
    round_epoch: int = 0
    stale: int = 0
    grown_epoch: int = 0
    outgrown: bool = False
    stopped_early: bool = False
    settled: bool = True

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Standing:
        """What a checkpoint keeps; one of an earlier version may have saved more, or less."""
        # The highest was once forgotten when a later epoch took its place: what was kept is the highest then known.
        known = {
            "highest_score": state.get("best_score"),
            "highest_ranks": state.get("best_ranks", []),
            **state,
        }
        return cls(**{each.name: known[each.name] for each in fields(cls) if each.name in known})

    @property
    def chosen_epoch(self) -> int | None:
        """The epoch that validation chose; None where nothing was validated, so that the last one is kept."""
        return None if self.best_score is None else self.best_epoch

    def judge(self, score: float | None, ranks: list[float], config: Config) -> bool:
        """Count the validation that follows `epoch`; whether its parameters are to be kept.

        A round has learned from more links than those before it, and a few hundred validation links say little of what
        that is worth: its best epoch is kept unless it is worse than the highest validation of all rounds by more than
        one standard error of the difference (the rule of Breiman et al. for trees). The highest, and not the one kept
        last: by a little less than an error each, any number of rounds could go down together. Within a round the
        best counts.

        Where it is worse than this round's best by more than chance, and that was before links last joined, `outgrown`
        is set.

        Args:
            score: what decides; None where there is nothing to choose by.
            ranks: of each validation link its reciprocal rank, the mean of both ways; none where test links choose.
            config: of the run.
        """
        if score is None or self.best_score is None or self.highest_score is None:
            better = True
        elif config.compat == "authors":
            better = score > self.best_score
        else:
            first = self.epoch - 1 - (self.epoch - 1) % config.epochs  # epochs before this round
            # A tie goes to the later epoch: few validation links tie often, and longer training seldom hurts. It is no
            # progress though: patience goes on counting.
            better = score >= self.highest_score - _error(ranks, self.highest_ranks)
            better &= self.best_epoch <= first or score >= self.best_score
        progress = score is None or self.round_score is None or score > self.round_score
        self.stale = 0 if progress else self.stale + 1
        if score is not None and self.round_score is not None and config.compat != "authors":
            grown = 0 < self.round_epoch <= self.grown_epoch
            self.outgrown |= grown and score < self.round_score - _error(ranks, self.round_ranks)
        if score is not None and progress:
            self.round_score, self.round_ranks, self.round_epoch = score, ranks, self.epoch
        if better:
            self.best_score, self.best_epoch = score, self.epoch
        if score is not None and (self.highest_score is None or score >= self.highest_score):
            self.highest_score, self.highest_ranks = score, ranks
        return better


def _error(ranks: list[float], best: list[float]) -> float:
    """One standard error of the mean difference of two validations, link by link; 0 where that cannot be told."""
    if len(ranks) != len(best) or len(ranks) < 2:
        return 0.0
    return statistics.stdev(map(operator.sub, ranks, best)) / len(ranks) ** 0.5
