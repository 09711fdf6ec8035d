"""Matches against links that are known to be right: precision, recall, and both over confidences."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from loginmea_fast.errors import InputError
from loginmea_fast.evaluation.calibration import reliability

__all__ = ["match_metrics"]

_THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def match_metrics(
    matches: Sequence[tuple[Hashable, Hashable]],
    gold: Sequence[tuple[Hashable, Hashable]],
    confidence: Sequence[float] | np.ndarray | None = None,
) -> dict[str, Any]:
    """How good matches are by links that are known to be right.

    Only matches of an entity that a known link has are judged: links seldom are all that there are.

    Args:
        matches: pairs (left, right), each once.
        gold: links (left, right); an entity may have several.
        confidence: of each match.

    Returns:
        JSON-ready: `matches`, `judged`, `right`, `links`, `precision`, `recall`, `f1`; with confidences also
        `calibration`, the reliability table of the judged matches, and `curve`, the same figures of the matches above
        each of some thresholds.

    Raises:
        InputError: no links.
    """
    links = set(gold)
    if not links:
        raise InputError("matches are measured by known links, and there are none; give at least one")
    sides = [{link[side] for link in links} for side in (0, 1)]
    judged = np.array([left in sides[0] or right in sides[1] for left, right in matches], dtype=bool)
    right = np.array([pair in links for pair in matches], dtype=bool)

    def figures(chosen: np.ndarray) -> dict[str, Any]:
        seen, found = int((judged & chosen).sum()), int((right & chosen).sum())
        precision, recall = found / max(seen, 1), found / len(links)
        return {
            "matches": int(chosen.sum()),
            "judged": seen,
            "right": found,
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / max(precision + recall, 1e-300),
        }

    result = {"links": len(links), **figures(np.ones(len(matches), dtype=bool))}
    if confidence is not None:
        sure = np.asarray(confidence, dtype=np.float64)
        result["calibration"] = reliability(sure[judged], right[judged]).as_dict()
        result["curve"] = [{"threshold": low, **figures(sure >= low)} for low in _THRESHOLDS]
    return result
