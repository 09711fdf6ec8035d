"""Every left entity takes its nearest right one; several may take the same."""

from __future__ import annotations

from dataclasses import replace

from loginmea_fast.evaluation.decoders.base import Candidates, Matching, register_decoder

__all__ = ["nearest"]


def nearest(candidates: Candidates) -> Matching:
    """The best candidate of every left row; candidates rank by the scores they came with."""
    return replace(candidates.matching(candidates.best_of_left()), plan=candidates)


register_decoder("cosine", nearest, "cosine", "the nearest by cosine")
