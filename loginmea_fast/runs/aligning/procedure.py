"""`align`: matches with confidence, from two graphs and a few known links, or from a trained run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.evaluation.calibration import lowest_threshold
from loginmea_fast.evaluation.decoders import get_decoder
from loginmea_fast.evaluation.embedding import Embedding
from loginmea_fast.evaluation.matches import match_metrics
from loginmea_fast.evaluation.rows import check_links
from loginmea_fast.log import log
from loginmea_fast.runs.aligning.alignment import Alignment, BestCandidates
from loginmea_fast.runs.aligning.confidence import FEW, Confidence, calibrate, judge
from loginmea_fast.runs.aligning.evidence import Evidence
from loginmea_fast.runs.aligning.matching import FEATURES, Matched, Pool, find_pool
from loginmea_fast.runs.aligning.methods import METHODS, Method, divide_links, embed_by
from loginmea_fast.runs.fitting import FitResult
from loginmea_fast.runs.loading import LoadedRun, load_run
from loginmea_fast.training.config import Config

__all__ = ["align", "check_options"]

DIRECTIONS = ("left_to_right", "right_to_left")
_UNMATCHED = 0.5  # an entity is judged to have no counterpart where that is more probable than not
Links = Tensor | np.ndarray | Sequence[Sequence[int]]


@dataclass(frozen=True)
class _Stage:
    """An embedding, links that it was learned from, and links that were held out from it."""

    embedding: Embedding
    learned: Tensor
    held: Tensor


@dataclass(frozen=True)
class _Settings:
    decoder: str
    decoder_k: int
    csls_k: int
    backend: str
    direction: str
    evidence: Evidence

    def pool(self, pair: AlignmentPair, stage: _Stage) -> Pool:
        """Entities of both graphs that no link has which was learned from; the side that is matched from is left."""
        sides = [
            entities[~torch.isin(entities, stage.learned[:, side])]
            for side, entities in enumerate((pair.left_entities, pair.right_entities))
        ]
        if not all(map(len, sides)):
            raise DataError(
                f"nothing is left to align: {len(sides[0]):,} entities of graph 1 and {len(sides[1]):,} of graph 2 "
                "are without a known link"
            )
        neighbours = self.csls_k if get_decoder(self.decoder).scores == "csls" else 0
        pool = find_pool(
            stage.embedding,
            sides[0],
            sides[1],
            stage.learned,
            self.evidence,
            self.decoder_k,
            neighbours,
            self.backend,
        )
        return pool if self.direction == DIRECTIONS[0] else pool.flipped()

    def turned(self, links: Tensor) -> np.ndarray:
        """Links with the side that is matched from in front."""
        return (links if self.direction == DIRECTIONS[0] else links.flip(1)).numpy()


def align(
    source: AlignmentPair | LoadedRun | FitResult | str | os.PathLike[str],
    *,
    method: Method = "model",
    config: Config | None = None,
    seeds: Links | None = None,
    folds: int | None = None,
    precision: float = 0.95,
    decoder: str = "one_to_one",
    direction: str = "left_to_right",
    k: int = 5,
    progress: bool | None = None,
    **overrides: Any,
) -> Alignment:
    """Match the entities of two graphs, and say how sure each match is.

    Known links teach the method, but for some that are held out and matched as all other entities are: by these a
    confidence is calibrated (docs/align.md).

    Args:
        source: a pair, whose links are the known ones; or a trained run (its directory, or what `fit` or `load_run`
            returned), whose validation links calibrate and whose test links are measured.
        method: "model" trains LoginMEA by `fit`; "propagate" is not trained and takes seconds. A run has its own.
        config: of training, of propagation and of the search; `Config()` by default.
        seeds: int64 [S, 2], links of (left, right) entities to take for the known ones instead of `source.links`; what
            other links the pair has is then measured against, and nothing is learned from it.
        folds: 1 holds a part of the known links out; K from 2 on holds each out once, in K trainings and one more
            with all links. By default 1, but 5 of the untrained method where known links are few.
        precision: of the accepted matches, as expected: it sets the threshold of confidence.
        decoder: how matches are found among the candidates; "one_to_one", "mutual", "csls", ...
        direction: "left_to_right" matches every entity of graph 1, "right_to_left" every one of graph 2; decoders that
            match both sides at once differ little.
        k: candidates of each entity that are kept.
        progress: of `fit`.
        overrides: configuration by keyword, for example `epochs=100`.

    Returns:
        The matches; see `Alignment`.

    Raises:
        ConfigError: a wrong key or value.
        DataError: no known link, nothing left to align, or a run without validation links.
        InputError: seeds that are no links of the pair's entities.
    """
    started = time.perf_counter()
    check_options(method, precision, decoder, direction, k, folds)
    if isinstance(source, AlignmentPair):
        config = Config.build(overrides) if config is None else config.override(**overrides)
        pair = source
        known, withheld = _known(pair, config, seeds)
        stages, final = _stages(pair, config, method, known, folds, progress)
        notes: list[str] = []
    else:
        if seeds is not None or folds is not None or config is not None:
            raise ConfigError("a run has its links and its configuration; leave seeds, folds and config out")
        run = source if isinstance(source, (LoadedRun, FitResult)) else load_run(source, **overrides)
        if overrides and run is source:
            raise ConfigError("a run that is loaded has its configuration; leave overrides out")
        pair, config, split = run.problem.pair, run.config, run.problem.split
        known, withheld, method = torch.cat([split.train, split.valid]), split.test, "model"
        held = split.valid if len(split.valid) else split.test
        if not len(held):
            raise DataError(
                "the run held no link out, so that nothing says how sure its matches are; train with valid_ratio "
                "above 0, or give the pair itself to align"
            )
        stages = [final] = [_Stage(run.embedding, split.train, held)]
        chose = "validation links, which also chose its epoch" if len(split.valid) else "test links"
        notes = [f"confidence rests on the {len(held):,} {chose}, of the run"]
    evidence = Evidence(pair)
    settings = _Settings(decoder, config.decoder_k, config.csls_k, config.backend, direction, evidence)
    return _matched(pair, settings, stages, final, known, withheld, method, precision, k, notes, started)


def check_options(
    method: str = "model",
    precision: float = 0.95,
    decoder: str = "one_to_one",
    direction: str = DIRECTIONS[0],
    k: int = 5,
    folds: int | None = None,
) -> None:
    """Raise `ConfigError` for what `align` does not take; asked before data is read."""
    for name, value, known in (("method", method, METHODS), ("direction", direction, DIRECTIONS)):
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if not isinstance(precision, (int, float)) or not 0 < precision <= 1:
        raise ConfigError(f"precision must be above 0 and at most 1; got {precision!r}")
    for name, count in (("k", k), ("folds", 1 if folds is None else folds)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1; got {count!r}")
    get_decoder(decoder)


def _known(pair: AlignmentPair, config: Config, seeds: Links | None) -> tuple[Tensor, Tensor]:
    """Links to learn from, and the other links of the pair."""
    if seeds is not None:
        known = check_links(pair, seeds)
    elif config.seed_ratio is not None:
        split = pair.split(
            config.seed_ratio, 0, config.seed if config.split_seed is None else config.split_seed
        )
        known = split.train
    else:
        known = pair.links
    if len(known) < 1:
        raise DataError("there is no known link; give some as seeds")
    size = pair.num_entities
    mine = known[:, 0] * size + known[:, 1]
    other = pair.links[~torch.isin(pair.links[:, 0] * size + pair.links[:, 1], mine)]
    # An entity that a seed has is not matched again, so that its other links can be neither right nor wrong.
    apart = ~(torch.isin(other[:, 0], known[:, 0]) | torch.isin(other[:, 1], known[:, 1]))
    return known, other[apart]


def _stages(
    pair: AlignmentPair,
    config: Config,
    method: Method,
    known: Tensor,
    folds: int | None,
    progress: bool | None,
) -> tuple[list[_Stage], _Stage]:
    """The method with some links held out, and the one that gives the matches."""
    embed = embed_by(method, pair, config, progress)
    seed = config.seed if config.split_seed is None else config.split_seed
    plan = divide_links(known, method, folds, seed)
    stages = []
    for number, (learned, held) in enumerate(plan.rounds, start=1):
        log.info(
            "%s by %s links, %s held out%s",
            "training" if method == "model" else "propagation",
            f"{len(learned):,}",
            f"{len(held):,}",
            f" ({number} of {len(plan.rounds)})" if len(plan.rounds) > 1 else "",
        )
        stages.append(_Stage(embed(learned), learned, held))
    if plan.final is None:
        return stages, stages[0]
    log.info(
        "%s by all %s known links", "training" if method == "model" else "propagation", f"{len(known):,}"
    )
    return stages, _Stage(embed(plan.final), plan.final, known[:0])


def _matched(
    pair: AlignmentPair,
    settings: _Settings,
    stages: list[_Stage],
    final: _Stage,
    known: Tensor,
    withheld: Tensor,
    method: str,
    precision: float,
    k: int,
    notes: list[str],
    started: float,
) -> Alignment:
    judged, pool = [], None
    for stage in stages:
        shared = settings.pool(pair, stage)
        if stage is final:
            pool = shared
        judged.append(judge(shared, settings.turned(stage.held), settings.decoder))
    if pool is None:
        pool = settings.pool(pair, final)
    found = pool.without(*settings.turned(known).T).decoded(settings.decoder)
    if not len(found.pool.left):
        raise DataError("nothing is left to align: every entity of one side has a known link")
    confidence = calibrate(judged, found)
    if confidence.rough:
        notes.append(
            f"confidences are a rough guess: they rest on {confidence.links} held-out links, and {FEW} are few; give "
            "more known links"
        )
    if not found.converged:
        notes.append(f"{settings.decoder} did not converge; its last iterate was taken")
    features = found.features
    sure = confidence.right(features)
    order = np.argsort(-sure, kind="stable")
    threshold = lowest_threshold(sure, precision)
    accepted = sure >= threshold
    left, right = found.left, found.right
    unmatched, probability = _unmatched(found, confidence, accepted)
    if settings.direction != DIRECTIONS[0]:
        left, right = right, left
    columns = {
        name: torch.from_numpy(values[order])
        for name, values in (
            ("left", left),
            ("right", right),
            ("score", features[:, 0]),
            ("margin", features[:, 1]),
        )
    }
    measured = None
    if len(withheld):
        measured = _measure(left[accepted], right[accepted], sure, (left, right), withheld)
    shares = confidence.shares if settings.direction == DIRECTIONS[0] else confidence.shares[::-1]
    return Alignment(
        pair=pair,
        **columns,
        mutual=torch.from_numpy(features[order, 3] > 0),
        confidence=torch.from_numpy(sure[order]),
        evidence={
            name: torch.from_numpy(features[order, len(FEATURES) + column])
            for column, name in enumerate(settings.evidence.names)
            if name != "neighbors_shared"
        },
        threshold=threshold,
        expected_precision=float(sure[accepted].mean()) if accepted.any() else float("nan"),
        expected_recall=confidence.recall(threshold) if confidence.links else float("nan"),
        held_out=confidence.links,
        reliability=confidence.reliability,
        candidates=_candidates(found, k),
        unmatched=torch.from_numpy(unmatched),
        unmatched_probability=torch.from_numpy(probability),
        unmatched_threshold=_UNMATCHED,
        unmatched_precision=float(probability.mean()) if len(probability) else float("nan"),
        counterparts=(shares[0], shares[1]),
        known=known,
        withheld=withheld,
        measured=measured,
        method=method,
        decoder=settings.decoder,
        seconds=time.perf_counter() - started,
        notes=tuple(notes),
    )


def _unmatched(found: Matched, confidence: Confidence, accepted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entities of both sides judged to have no counterpart, and how probable that is; none that is matched."""
    judged, probabilities = [], []
    sides = (found.pool.left, found.left), (found.pool.right, found.right)
    for side, (entities, matched) in enumerate(sides):
        probability = confidence.without_counterpart(found.nearest(side), side)
        chosen = (probability >= _UNMATCHED) & ~np.isin(entities, matched[accepted])
        judged.append(entities[chosen])
        probabilities.append(probability[chosen])
    return np.concatenate(judged), np.concatenate(probabilities)


def _candidates(found: Matched, k: int) -> BestCandidates:
    """The k best of every entity that was matched from."""
    plan = found.plan
    order = np.lexsort((-plan.scores, plan.left))
    column = np.arange(len(order)) - np.searchsorted(plan.left[order], plan.left[order])
    order, column = order[column < k], column[column < k]
    width = int(column.max()) + 1
    score = np.full((plan.num_left, width), -np.inf)
    match = np.full((plan.num_left, width), -1)
    score[plan.left[order], column] = plan.scores[order]
    match[plan.left[order], column] = found.pool.right[plan.right[order]]
    return BestCandidates(torch.from_numpy(found.pool.left), torch.from_numpy(match), torch.from_numpy(score))


def _measure(
    left: np.ndarray,
    right: np.ndarray,
    sure: np.ndarray,
    every: tuple[np.ndarray, np.ndarray],
    withheld: Tensor,
) -> dict[str, float]:
    gold = list(map(tuple, withheld.tolist()))
    accepted = match_metrics(list(zip(left.tolist(), right.tolist(), strict=True)), gold)
    whole = match_metrics(list(zip(*(ids.tolist() for ids in every), strict=True)), gold, sure)
    figures = {name: accepted[name] for name in ("judged", "right", "precision", "recall", "f1")}
    return {**figures, "calibration_error": whole["calibration"]["error"]}
