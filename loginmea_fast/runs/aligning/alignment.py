"""Alignment: what `align` found, in columns, and what it is worth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.evaluation.calibration import Reliability
from loginmea_fast.runs.aligning.portraits import MOST, portraits
from loginmea_fast.runs.aligning.writing import write_directory, write_matches

__all__ = ["Alignment", "BestCandidates"]


@dataclass(frozen=True)
class BestCandidates:
    """The best candidates of entities, in columns.

    Attributes:
        entity: int64 [Q].
        match: int64 [Q, k], candidates, the best first; -1 where there are no more.
        score: float64 [Q, k]; -infinity there.
    """

    entity: Tensor
    match: Tensor
    score: Tensor


@dataclass(frozen=True)
class Alignment:
    """Matches between entities that no known link has, the surest first.

    All matches of the decoder are here, P of them; `accepted` are those that are sure enough to be called matches.

    Attributes:
        pair: the graphs.
        left: int64 [P], entities of graph 1.
        right: int64 [P], entities of graph 2.
        score: float64 [P], by what the decoder ranks: CSLS, a cosine or a probability.
        margin: float64 [P], by how much the score is above that of the best other candidate of the left entity, the
            runner-up; negative where another is better and taken.
        mutual: bool [P], whether each is the other's best.
        confidence: float64 [P], the probability that the match is right.
        source: what each match is from, "matched", "accepted" by somebody or, of pairs that were learned from without
            being known, what gave the pivot; None where all are matched.
        evidence: name -> float64 [P]: `neighbors`, how alike the neighbourhoods are with entities that match taken for
            one, and the cosine in each modality.
        shares: part of the embedding -> float64 [P], the share of the two entities' similarity that comes from it:
            "graph", the modalities, "labels" of the known links; they sum to one.
        threshold: confidence from which matches are accepted.
        expected_precision: of the accepted matches: the mean of their confidences; NaN where none is accepted.
        expected_recall: the share of the held-out links that are found and accepted; NaN where none was held out.
        held_out: links that confidences rest on; below 30 they are a rough guess.
        reliability: of confidences on the held-out links, each judged by a calibration that did not see it.
        candidates: of the entities on the side that was matched from.
        unmatched: int64 [U], entities of both graphs judged to have no counterpart.
        unmatched_probability: float64 [U], of having none; at least `unmatched_threshold`.
        unmatched_threshold: the probability from which an entity is judged so.
        unmatched_precision: expected share of them that have none; NaN where there are none.
        counterparts: estimated shares of the entities without a known link that have a counterpart, left and right.
        known: int64 [K, 2], links that were known, held-out ones included: their entities are not matched again.
        pivots: what gave pairs to learn from that are not known -> how many.
        decided: how many pairs somebody has accepted and rejected.
        withheld: int64 [W, 2], links of the pair that nothing was learned from.
        measured: precision, recall and F1 of the accepted matches on the withheld links, and the error of their
            confidences; None without any.
        method: how entities were embedded.
        decoder: how matches were found.
        seconds: how long it took, trainings of earlier calls that it went on with included.
        earlier_seconds: the time of these.
        pictures: entity -> a picture of it, where the pair came with folders of them; for the page.
        notes: what a reader of the figures must know, one sentence each.
    """

    pair: AlignmentPair
    left: Tensor
    right: Tensor
    score: Tensor
    margin: Tensor
    mutual: Tensor
    confidence: Tensor
    source: list[str] | None
    evidence: Mapping[str, Tensor]
    shares: Mapping[str, Tensor]
    threshold: float
    expected_precision: float
    expected_recall: float
    held_out: int
    reliability: Reliability
    candidates: BestCandidates
    unmatched: Tensor
    unmatched_probability: Tensor
    unmatched_threshold: float
    unmatched_precision: float
    counterparts: tuple[float, float]
    known: Tensor
    pivots: dict[str, int]
    decided: tuple[int, int]
    withheld: Tensor
    measured: dict[str, float] | None
    method: str
    decoder: str
    seconds: float
    notes: tuple[str, ...] = field(default=())
    earlier_seconds: float = 0.0
    pictures: Mapping[int, Path] = field(default_factory=dict)

    @property
    def accepted(self) -> Tensor:
        """Bool [P], the matches that are sure enough."""
        return self.confidence >= self.threshold

    def __len__(self) -> int:
        """Accepted matches."""
        return int(self.accepted.sum())

    def columns(self, every: bool = False) -> dict[str, list[Any]]:
        """Names of columns -> their values: identifiers, score, margin, mutual, confidence, evidence, names.

        Args:
            every: all matches, not only the accepted ones.
        """
        return self._columns(torch.ones_like(self.accepted) if every else self.accepted)

    def _columns(self, chosen: Tensor) -> dict[str, list[Any]]:
        rows = chosen.nonzero()[:, 0]
        left, right = self.left[rows].tolist(), self.right[rows].tolist()
        return {
            "left": [self.pair.uris[entity] for entity in left],
            "right": [self.pair.uris[entity] for entity in right],
            "score": self.score[rows].tolist(),
            "margin": self.margin[rows].tolist(),
            "mutual": self.mutual[rows].tolist(),
            "confidence": self.confidence[rows].tolist(),
            **({} if self.source is None else {"source": [self.source[row] for row in rows.tolist()]}),
            **{f"evidence_{name}": share[rows].tolist() for name, share in self.evidence.items()},
            **{f"share_{name}": share[rows].tolist() for name, share in self.shares.items()},
            "left_name": [self.pair.names[entity] for entity in left],
            "right_name": [self.pair.names[entity] for entity in right],
        }

    def to_frame(self, every: bool = False) -> Any:
        """The matches as a pandas frame, where there is pandas, else a polars one, else a list of dictionaries.

        Args:
            every: all matches, not only the accepted ones.
        """
        columns = self.columns(every)
        for library in ("pandas", "polars"):
            try:
                module = __import__(library)
            except ImportError:
                continue
            return module.DataFrame(columns)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def write(self, path: str | os.PathLike[str], format: str | None = None, every: bool = False) -> None:
        """Write the matches into one file, whole or not at all; one that is there is replaced.

        Args:
            path: the file.
            format: "tsv", "csv", "parquet", "sssom", "sameas" or "alignment-rdf"; by default what the suffix says.
            every: all matches, not only the accepted ones.

        Raises:
            ConfigError: an unknown format, or a suffix that says none.
            DataError: the file cannot be written.
        """
        write_matches(self.columns(every), self.report(), path, format)

    def save(
        self,
        directory: str | os.PathLike[str],
        format: str | Sequence[str] = "tsv",
        overwrite: bool = False,
    ) -> None:
        """Write a directory: the matches, those that are not sure enough, candidates, who has no counterpart, a report.

        Files are `alignment.*`, `rejected.tsv`, `candidates.tsv`, `unmatched.tsv`, `report.json`, and with what a page
        shows of each entity `entities.parquet`.

        Args:
            directory: where; made if need be.
            format: of the matches, as in `write`; or several.
            overwrite: replace an alignment that is there.

        Raises:
            ConfigError: an unknown format, or the directory holds something and `overwrite` does not allow for it.
            DataError: it cannot be written.
        """
        tables = {
            "rejected": self._columns(~self.accepted),
            "candidates": self._candidate_columns(),
            "unmatched": self._unmatched_columns(),
        }
        formats = (format,) if isinstance(format, str) else tuple(format)
        doubtful = (self.confidence - self.threshold).abs().argsort(stable=True)[:MOST]
        shown = torch.stack([self.left[doubtful], self.right[doubtful]], 1).reshape(-1)
        matches = self.candidates.match[torch.isin(self.candidates.entity, shown)]
        about = portraits(self.pair, torch.cat([shown, matches[matches >= 0]]), self.known, self.pictures)
        write_directory(self.columns(), tables, self.report(), about, directory, formats, overwrite)

    def report(self) -> dict[str, Any]:
        """Counts and figures, JSON-ready."""
        return {
            "method": self.method,
            "decoder": self.decoder,
            "matched_from": "left"
            if bool(torch.isin(self.candidates.entity, self.pair.left_entities).all())
            else "right",
            "matches": len(self),
            "matched_by_decoder": len(self.left),
            "threshold": self.threshold,
            "expected_precision": _number(self.expected_precision),
            "expected_recall": _number(self.expected_recall),
            "known_links": len(self.known),
            "pivots": self.pivots,
            "decisions": dict(zip(("accepted", "rejected"), self.decided, strict=True)),
            "held_out_links": self.held_out,
            "reliability": self.reliability.as_dict(),
            "without_counterpart": {
                "left": int(torch.isin(self.unmatched, self.pair.left_entities).sum()),
                "right": int(torch.isin(self.unmatched, self.pair.right_entities).sum()),
                "threshold": self.unmatched_threshold,
                "expected_precision": _number(self.unmatched_precision),
            },
            "share_with_counterpart": dict(zip(("left", "right"), self.counterparts, strict=True)),
            "withheld_links": len(self.withheld),
            "measured": self.measured,
            "seconds": round(self.seconds, 2),
            "earlier_seconds": round(self.earlier_seconds, 2),
            "notes": list(self.notes),
        }

    def _candidate_columns(self) -> dict[str, list[Any]]:
        found = self.candidates
        rank = torch.arange(1, found.match.shape[1] + 1).expand(found.match.shape)
        entity = found.entity[:, None].expand(found.match.shape)
        there = found.match >= 0
        return {
            "entity": [self.pair.uris[entity] for entity in entity[there].tolist()],
            "rank": rank[there].tolist(),
            "candidate": [self.pair.uris[entity] for entity in found.match[there].tolist()],
            "score": found.score[there].tolist(),
        }

    def _unmatched_columns(self) -> dict[str, list[Any]]:
        entities = self.unmatched.tolist()
        is_left = torch.isin(self.unmatched, self.pair.left_entities).tolist()
        return {
            "entity": [self.pair.uris[entity] for entity in entities],
            "side": ["left" if left else "right" for left in is_left],
            "probability": self.unmatched_probability.tolist(),
            "name": [self.pair.names[entity] for entity in entities],
        }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value
