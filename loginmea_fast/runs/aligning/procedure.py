"""`align`: matches with confidence, from two graphs and a few known links, or from a trained run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.split import is_among
from loginmea_fast.data.subset import without_entities
from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.evaluation.calibration import lowest_threshold
from loginmea_fast.evaluation.decoders import get_decoder
from loginmea_fast.evaluation.embedding import Embedding, shares_of
from loginmea_fast.evaluation.matches import match_metrics
from loginmea_fast.evaluation.rows import check_links
from loginmea_fast.log import announce
from loginmea_fast.propagation import cautions
from loginmea_fast.runs.aligning.alignment import Alignment, BestCandidates
from loginmea_fast.runs.aligning.confidence import (
    FEW,
    Confidence,
    Judged,
    apart_from_others,
    calibrate,
    judge,
    judge_alone,
    judge_run,
    together,
)
from loginmea_fast.runs.aligning.decisions import Decisions
from loginmea_fast.runs.aligning.evidence import Evidence
from loginmea_fast.runs.aligning.keeping import Kept
from loginmea_fast.runs.aligning.matching import FEATURES, Matched, Pool, find_pool
from loginmea_fast.runs.aligning.methods import (
    BESIDE_MODALITIES,
    FOLDS,
    METHODS,
    Embed,
    Method,
    Plan,
    Round,
    divide_links,
    embed_by,
    without_joined,
)
from loginmea_fast.runs.aligning.pivots import Pivots, find_pivots, weigh_pivots
from loginmea_fast.runs.fitting import FitResult
from loginmea_fast.runs.loading import LoadedRun, load_run
from loginmea_fast.training.config import Config

__all__ = ["align", "check_options"]

DIRECTIONS = ("left_to_right", "right_to_left")
_PROBABLE = 0.5  # what is less probable than not is neither accepted nor learned from
_CANDIDATES = (
    20  # of each entity, both ways, where `decoder_k` is not given: a match further down is no match
)
_UNMATCHED = 0.5  # an entity is judged to have no counterpart where that is more probable than not
Links = Tensor | np.ndarray | Sequence[Sequence[int]]


@dataclass(frozen=True)
class _Settings:
    """How embeddings become matches."""

    pair: AlignmentPair
    evidence: Evidence
    decoder: str
    decoder_k: int
    csls_k: int
    backend: str
    direction: str

    def pool(self, embedding: Embedding, learned: Tensor) -> Pool:
        """Entities of both graphs that no link has which was learned from; the side that is matched from is left."""
        left, right = (
            entities[~torch.isin(entities, learned[:, side])]
            for side, entities in enumerate((self.pair.left_entities, self.pair.right_entities))
        )
        if not (len(left) and len(right)):
            raise DataError(
                f"nothing is left to align: {len(left):,} entities of graph 1 and {len(right):,} of graph 2 are "
                "without a known link"
            )
        neighbours = self.csls_k if get_decoder(self.decoder).scores == "csls" else 0
        pool = find_pool(
            embedding, left, right, learned, self.evidence, self.decoder_k, neighbours, self.backend
        )
        pool = pool.excluding(self.pair.rejected)
        return pool if self.forward else pool.flipped()

    @property
    def forward(self) -> bool:
        """Whether graph 1 is matched from."""
        return self.direction == DIRECTIONS[0]

    def turned(self, links: Tensor) -> np.ndarray:
        """Links with the side that is matched from in front."""
        return (links if self.forward else links.flip(1)).numpy()


@dataclass
class _Learned:
    """What was learned of the pair.

    Attributes:
        pool: entities that are neither known nor pivots, and their candidates.
        judged: links that were held out.
        known: links that were known, int64 [K, 2].
        withheld: links of the pair that nothing was learned from.
        accepted: those of the known links that somebody has decided on, int64 [A, 2]: they are matches, too.
        pivots: pairs that were learned from without being known, and how probable it is that each is right.
        notes: for the reader of the figures.
    """

    pool: Pool
    judged: Judged
    known: Tensor
    withheld: Tensor
    accepted: Tensor
    pivots: Pivots | None = None
    pivot_confidence: np.ndarray = field(default_factory=lambda: np.empty(0))
    notes: list[str] = field(default_factory=list)


def align(
    source: AlignmentPair | LoadedRun | FitResult | str | os.PathLike[str],
    *,
    method: Method = "model",
    config: Config | None = None,
    seeds: Links | None = None,
    decisions: Decisions | None = None,
    pivots: bool | None = None,
    folds: int | None = None,
    precision: float = 0.95,
    decoder: str = "one_to_one",
    direction: str = "left_to_right",
    k: int = 5,
    progress: bool | None = None,
    keep: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> Alignment:
    """Match the entities of two graphs, and say how sure each match is.

    Known links teach the method, but for some that are held out and matched as all other entities are: by these a
    confidence is calibrated (docs/align.md).

    Args:
        source: a pair, whose links are the known ones, those that an official split tests by left out; or a trained
            run (its directory, or what `fit` or `load_run` returned), whose validation links calibrate and whose test
            links are measured.
        method: "model" trains LoginMEA by `fit`; "propagate" is not trained and sooner done. A run has its own.
        config: of training, of propagation and of the search; `Config()` by default.
        seeds: int64 [S, 2], links of (left, right) entities to take for the known ones instead of `source.links`; what
            other links the pair has is then measured against, and nothing is learned from it.
        decisions: pairs that somebody has accepted, which are learned from like known links and are matches of the
            confidence 1, or rejected, which are never matched; see `read_decisions`. A run has learned already.
        pivots: whether pairs that equal names and identifiers give are learned from as well; by default where fewer
            than 30 links are known. Where names give some, modalities of names are left out: they would find these
            pairs again and say nothing of the others.
        folds: 1 holds a part of the known links out; K from 2 on holds each out once, in K trainings and one more
            with all links. By default 1, but 5 of the untrained method where known links are few or there are pivots.
        precision: of the accepted matches, as expected: it sets the threshold of confidence.
        decoder: how matches are found among the candidates; "one_to_one", "mutual", "csls", ...
        direction: "left_to_right" matches every entity of graph 1, "right_to_left" every one of graph 2; decoders that
            match both sides at once differ little.
        k: candidates of each entity that are kept.
        progress: False is silent; otherwise what is being done, and how far it is, on stderr.
        keep: a directory for the trainings, so that the same call goes on with them after it was stopped; by default
            they are gone when it ends. Propagation is quick enough to begin anew.
        overwrite: trainings of other inputs in `keep` are removed, not refused.
        overrides: configuration by keyword, for example `epochs=100`.

    Returns:
        The matches; see `Alignment`.

    Raises:
        ConfigError: a wrong key or value, or trainings of other inputs in `keep`.
        TrainingInterrupted: SIGINT or SIGTERM came while training; all is saved in `keep`.
        DataError: neither a known link nor a pivot, nothing left to align, or a run without validation links.
        InputError: seeds that are no links of the pair's entities.
    """
    started, kept = time.perf_counter(), None
    check_options(method, precision, decoder, direction, k, folds)
    if isinstance(source, AlignmentPair):
        config = Config.of(config, overrides)
        pair = source
        kept = None if keep is None or method != "model" else Kept(keep, overwrite)
        settings, learned = _from_pair(
            pair, config, method, seeds, decisions, pivots, folds, progress, decoder, direction, kept
        )
    else:
        if any(given is not None for given in (seeds, decisions, pivots, folds, config, keep)):
            raise ConfigError(
                "a run has its links and its configuration; leave seeds, decisions, pivots, folds, config and keep out"
            )
        run = source if isinstance(source, (LoadedRun, FitResult)) else load_run(source, **overrides)
        if overrides and run is source:
            raise ConfigError("a run that is loaded has its configuration; leave overrides out")
        pair, method = run.problem.pair, "model"
        settings = _settings(pair, run.config, decoder, direction)
        learned = _from_run(run, settings)
    earlier = 0.0 if kept is None else kept.seconds
    found = _alignment(settings, learned, method, precision, k)
    seconds = time.perf_counter() - started + earlier
    return replace(found, seconds=seconds, earlier_seconds=earlier, pictures=pair.pictures)


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
    for name, count in (("k (--candidates)", k), ("folds", 1 if folds is None else folds)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1; got {count!r}")
    get_decoder(decoder)


def _settings(pair: AlignmentPair, config: Config, decoder: str, direction: str) -> _Settings:
    k = config.decoder_k if "decoder_k" in config.model_fields_set else _CANDIDATES
    return _Settings(pair, Evidence(pair), decoder, k, config.csls_k, config.backend, direction)


def _from_run(run: LoadedRun | FitResult, settings: _Settings) -> _Learned:
    """A run's validation links are held out, or its test links where there are none."""
    split = run.problem.split
    held = split.valid if len(split.valid) else split.test
    if not len(held):
        raise DataError(
            "the run held no link out, so that nothing says how sure its matches are; train with valid_ratio above 0, "
            "or give the pair itself to align"
        )
    chose = "validation links, which also chose its epoch" if len(split.valid) else "test links"
    pool = settings.pool(without_joined(run.embedding), split.train)
    return _Learned(
        pool,
        judge_run(pool, settings.turned(held), settings.decoder),
        torch.cat([split.train, split.valid]),
        split.test,
        split.train[:0],
        notes=[f"confidence rests on the {len(held):,} {chose}, of the run"],
    )


def _from_pair(
    pair: AlignmentPair,
    config: Config,
    method: Method,
    seeds: Links | None,
    decisions: Decisions | None,
    asked: bool | None,
    folds: int | None,
    progress: bool | None,
    decoder: str,
    direction: str,
    kept: Kept | None,
) -> tuple[_Settings, _Learned]:
    """Learn from known links and pivots: once for each part that is held out, and for the matches."""
    known, withheld = _known(pair, config, seeds)
    decisions = Decisions.beside_rejected(pair, decisions)
    accepted = decisions.beside(pair, known)
    known = torch.cat([known, accepted])
    pair = replace(pair, rejected=decisions.rejected)
    withheld = _apart(withheld, accepted)
    pivots, notes = _pivots(pair, known, asked)
    if pivots is not None and len(pair.rejected):
        pivots = pivots.only(~is_among(pivots.links, pair.rejected))
        if not len(pivots):
            if not len(known):
                raise DataError(
                    "every pivot is rejected and no link is known; give a few known pairs as seeds"
                )
            pivots, notes = None, []
    others = {} if pivots is None else {n: f for n, f in pair.features.items() if n not in pivots.found_by}
    # Where neither triples nor another modality would tell anything, names and pictures stay.
    tells = bool(len(pair.triples)) or any(name not in BESIDE_MODALITIES for name in others)
    if pivots is not None and pivots.found_by and tells:
        pair = pair.with_features(others)
        if config.modalities is not None:
            named = tuple(name for name in config.modalities if name in others)
            config = config.override(modalities=named or None)
    links = known if pivots is None else torch.cat([known, pivots.links])
    settings = _settings(pair, config, decoder, direction)
    decided = torch.zeros(len(links), dtype=torch.bool)
    decided[len(known) - len(accepted) : len(known)] = len(links) - len(accepted) >= FEW
    if kept is not None:
        kept.open(pair, [links[~decided], links[decided], pair.rejected], config, folds)
    embed = embed_by(method, config, progress, kept)
    what = "training" if method == "model" else "propagation"
    seed = config.seed if config.split_seed is None else config.split_seed
    if pivots is not None and folds is None and method == "propagate":
        folds = FOLDS  # each pivot is to be weighed
    plan = divide_links(links[~decided], method, folds, seed, links[decided])
    once = int((~decided).sum())
    if method == "model" and folds in (None, 1) and len(plan.rounds[0].held) < FEW < once:
        notes.append(
            f"--folds {FOLDS} (folds={FOLDS}) holds each of the {once} known links out once, so that confidences rest "
            f"on more; it takes {FOLDS} times as long"
        )
    say = (lambda _: None) if progress is False else announce
    pool, judged = _judged(settings, embed, plan, what, say)
    confidence = np.empty(0)
    if pivots is not None:
        held = torch.cat([one.held for one in plan.rounds if not one.alone])
        number = torch.cat([one.number for one in plan.rounds if not one.alone])
        confidence, trust = _weighed(pivots, judged, held, number)
        probable = torch.from_numpy(confidence >= _PROBABLE)
        told = ", ".join(f"{share:.0%} of those by {source}" for source, share in trust.items())
        notes.append(
            f"of the pivots about {told} are right, as far as links held out from each other can tell; "
            f"{int((~probable).sum()):,} improbable ones are left out"
        )
        pivots, confidence = pivots.only(probable), confidence[probable.numpy()]
        links = torch.cat([known, pivots.links])
    if len(pair.triples) and (method == "propagate" or config.propagation == "late"):
        notes += cautions(pair, links)
    free = [
        ~torch.isin(entities, links[:, side])
        for side, entities in enumerate((pair.left_entities, pair.right_entities))
    ]
    if plan.again and all(map(torch.any, free)):  # else every entity is known or a pivot
        say(f"{what} by all {len(links):,} links")
        pool = settings.pool(embed(pair, links), links)
    taken = settings.turned(links)
    found = _Learned(
        pool.without(taken[:, 0], taken[:, 1]), judged, known, withheld, accepted, pivots, confidence, notes
    )
    return settings, found


def _judged(
    settings: _Settings, embed: Embed, plan: Plan, what: str, say: Callable[[str], None]
) -> tuple[Pool, Judged]:
    """Learn in each round and judge what it held out; the pool of the first, whose graphs are whole."""
    first: Pool | None = None
    judged = []
    for count, one in enumerate(plan.rounds, start=1):
        kind = "without counterpart" if one.alone else "held out"
        number = f" ({count} of {len(plan.rounds)})" if len(plan.rounds) > 1 else ""
        say(f"{what} by {len(one.learned):,} links, {len(one.held):,} {kind}{number}")
        if not one.alone:
            pool = settings.pool(embed(settings.pair, one.learned), one.learned)
            first = pool if first is None else first
            judged.append(
                judge(pool.decoded(settings.decoder), settings.turned(one.held), one.number.numpy())
            )
        elif len(one.held):
            judged.append(_judged_alone(settings, embed, one))
    assert first is not None
    return first, together(judged)


def _judged_alone(settings: _Settings, embed: Embed, one: Round) -> Judged:
    """Learn from graphs without some counterparts."""
    right_gone, left_gone = one.gone
    gone = torch.cat([one.held[right_gone, 1], one.held[left_gone, 0]])
    pair, number = without_entities(settings.pair, gone)
    reduced = replace(settings, pair=pair, evidence=Evidence(pair))
    learned = number[one.learned]
    found = reduced.pool(embed(pair, learned), learned).decoded(settings.decoder)
    alone = [(number[one.held[right_gone, 0]], one.number[right_gone])]
    alone.append((number[one.held[left_gone, 1]], one.number[left_gone]))
    (left, left_number), (right, right_number) = alone if settings.forward else alone[::-1]
    numbers = left_number.numpy(), right_number.numpy()
    return judge_alone((found, found), left.numpy(), right.numpy(), numbers)


def _known(pair: AlignmentPair, config: Config, seeds: Links | None) -> tuple[Tensor, Tensor]:
    """Links to learn from, and the other links of the pair."""
    if seeds is not None:
        known = check_links(pair, seeds)
    elif config.seed_ratio is not None:
        seed = config.seed if config.split_seed is None else config.split_seed
        known = pair.split(config.seed_ratio, 0, seed).train
    elif pair.official_split is not None and len(pair.official_split.test):
        known = torch.cat([pair.official_split.train, pair.official_split.valid])
    else:
        known = pair.links
    return known, _apart(pair.links[~is_among(pair.links, known)], known)


def _apart(links: Tensor, known: Tensor) -> Tensor:
    """Links whose entities are not matched already: of those that are, another link is neither right nor wrong."""
    return links[~(torch.isin(links[:, 0], known[:, 0]) | torch.isin(links[:, 1], known[:, 1]))]


def _pivots(pair: AlignmentPair, known: Tensor, asked: bool | None) -> tuple[Pivots | None, list[str]]:
    """Pivots apart from known links where they are asked for or links are few, and what is to be said of them."""
    if not (len(known) < FEW if asked is None else asked):
        if not len(known):
            raise DataError("there is no known link; give some as seeds, or let pivots be learned from")
        return None, []
    every = find_pivots(pair)
    pivots = every.apart_from(known)
    if len(pivots) + len(known) == 0:
        raise DataError(
            "there is no known link and no pivot: no name, identifier or identifying value is the same in both graphs "
            "and unique in each. Give a few known pairs as seeds (a table of left, right), or names or identifiers as "
            "attributes"
        )
    if not len(pivots):
        return None, []
    notes = [f"pairs that were learned from without being known (pivots): {pivots.summary()}"]
    right, seen = every.right_among(known)
    if seen:
        notes.append(f"of the pivots with a known entity {right:,} of {seen:,} are right")
    if not len(known):
        notes.append(
            "no link is known, so that all of this is unsupervised: confidences rest on pivots alone"
        )
    return pivots, notes


def _weighed(
    pivots: Pivots, judged: Judged, held: Tensor, number: Tensor
) -> tuple[np.ndarray, dict[str, float]]:
    """How probable each pivot is, by what was matched while it was held out; and the share of each source."""
    place = dict(zip(map(tuple, held.tolist()), number.tolist(), strict=True))
    own = np.array([place.get(pair, -1) for pair in map(tuple, pivots.links.tolist())])
    count = int(number.max()) + 1 if len(number) else 0
    agrees, sure = np.zeros(count, dtype=bool), np.zeros(count)
    agrees[judged.link] = judged.correct
    # By calibrations that did not see them: what learned that a pivot is wrong has no doubt to tell of.
    everyone = np.ones(len(judged.correct))
    sure[judged.link] = apart_from_others(judged.features, judged.correct, everyone, judged.link)
    source = np.array(pivots.source)
    confidence, trusts = np.empty(len(pivots)), {}
    for name in dict.fromkeys(pivots.source):
        seen = own[(source == name) & (own >= 0)]
        if len(seen) < FEW:  # by themselves they tell little
            seen = own[own >= 0]
        _, trusts[name] = weigh_pivots(agrees[seen], sure[seen])
        mine = source == name
        known = mine & (own >= 0)
        confidence[mine] = trusts[name]
        confidence[known], _ = weigh_pivots(agrees[own[known]], sure[own[known]], trusts[name])
    return confidence, trusts


def _alignment(settings: _Settings, learned: _Learned, method: str, precision: float, k: int) -> Alignment:
    taken = settings.turned(learned.known)
    found = learned.pool.without(taken[:, 0], taken[:, 1]).decoded(settings.decoder)
    pivots = learned.pivots
    if not len(found.pool.left) and pivots is None:
        raise DataError("nothing is left to align: every entity of one side has a known link")
    confidence = calibrate(learned.judged, found)
    notes = list(learned.notes)
    if confidence.rough or pivots is not None:
        few = f", and {FEW} are few" if confidence.rough else ", pivots among them, which may be wrong"
        notes.append(
            f"confidences are a rough guess: they rest on {confidence.links} held-out links{few}; give more known links"
        )
    if not found.converged:
        notes.append(f"{settings.decoder} did not converge; its last iterate was taken")
    left, right, features, sure = found.left, found.right, found.features, confidence.right(found.features)
    source = ["matched"] * len(left)
    given, given_source = learned.accepted, ["accepted"] * len(learned.accepted)
    given_confidence = np.ones(len(given))
    if pivots is not None:
        given, given_source = torch.cat([given, pivots.links]), given_source + pivots.source
        given_confidence = np.concatenate([given_confidence, learned.pivot_confidence])
    if len(given):
        links = settings.turned(given)
        all_links = np.concatenate([settings.turned(learned.known), links, np.stack([left, right], 1)])
        own = links if settings.forward else links[:, ::-1]
        measures = settings.evidence(
            own[:, 0], own[:, 1], all_links if settings.forward else all_links[:, ::-1]
        )
        unknown = np.full((len(links), len(FEATURES)), np.nan)
        features = np.concatenate([features, np.concatenate([unknown, measures], 1)])
        left, right = np.concatenate([left, links[:, 0]]), np.concatenate([right, links[:, 1]])
        sure = np.concatenate([sure, given_confidence])
        source += given_source
    # What people are certain of must not pay for what the method is not: the precision is asked of the other matches.
    undecided = np.array(source) != "accepted"
    threshold = lowest_threshold(sure[undecided], precision, confidence.known, confidence.weights)
    threshold = max(threshold, _PROBABLE)
    accepted = sure >= threshold
    if not (accepted & undecided).any():
        notes.append(
            f"no match is sure enough for a precision of {precision:g}; rejected.tsv has them, the surest first. Give "
            "more known links, or ask for less by --precision (precision=...)"
        )
    unmatched, probability = _unmatched(found, confidence, left[accepted], right[accepted])
    counterparts = confidence.shares
    if not settings.forward:
        left, right, counterparts = right, left, counterparts[::-1]
    shares = shares_of(found.pool.embedding, torch.from_numpy(left), torch.from_numpy(right))
    order = np.argsort(-sure, kind="stable")

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[order]))

    return Alignment(
        pair=settings.pair,
        left=column(left),
        right=column(right),
        score=column(features[:, 0]),
        margin=column(features[:, 1]),
        mutual=column(features[:, 3] > 0),
        confidence=column(sure),
        source=[source[place] for place in order] if len(given) else None,
        evidence={
            name: column(features[:, len(FEATURES) + number])
            for number, name in enumerate(settings.evidence.names)
            if name != "neighbors_shared"
        },
        shares={name: column(share.numpy()) for name, share in shares.items()},
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
        counterparts=(counterparts[0], counterparts[1]),
        known=learned.known,
        pivots={} if pivots is None else pivots.counts,
        decided=(len(learned.accepted), len(settings.pair.rejected)),
        withheld=learned.withheld,
        measured=_measure(left, right, sure, accepted, learned.withheld) if len(learned.withheld) else None,
        method=method,
        decoder=settings.decoder,
        seconds=0.0,
        notes=tuple(notes),
    )


def _unmatched(
    found: Matched, confidence: Confidence, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Entities of both sides judged to have no counterpart, and how probable that is; none that is matched."""
    judged, probabilities = [], []
    for side, (entities, matched) in enumerate(((found.pool.left, left), (found.pool.right, right))):
        probability = confidence.without_counterpart(found.nearest(side), side)
        chosen = (probability >= _UNMATCHED) & ~np.isin(entities, matched)
        judged.append(entities[chosen])
        probabilities.append(probability[chosen])
    return np.concatenate(judged), np.concatenate(probabilities)


def _candidates(found: Matched, k: int) -> BestCandidates:
    """The k best of every entity that was matched from."""
    plan = found.plan
    order = np.lexsort((-plan.scores, plan.left))
    column = np.arange(len(order)) - np.searchsorted(plan.left[order], plan.left[order])
    order, column = order[column < k], column[column < k]
    width = int(column.max(initial=-1)) + 1
    score = np.full((plan.num_left, width), -np.inf)
    match = np.full((plan.num_left, width), -1)
    score[plan.left[order], column] = plan.scores[order]
    match[plan.left[order], column] = found.pool.right[plan.right[order]]
    return BestCandidates(torch.from_numpy(found.pool.left), torch.from_numpy(match), torch.from_numpy(score))


def _measure(
    left: np.ndarray, right: np.ndarray, sure: np.ndarray, accepted: np.ndarray, withheld: Tensor
) -> dict[str, float]:
    """What the withheld links say of the accepted matches, and of all confidences."""
    gold = list(map(tuple, withheld.tolist()))
    pairs = list(zip(left.tolist(), right.tolist(), strict=True))
    figures = match_metrics([pair for pair, taken in zip(pairs, accepted, strict=True) if taken], gold)
    error = match_metrics(pairs, gold, sure)["calibration"]["error"]
    kept = ("judged", "right", "precision", "recall", "f1")
    return {**{name: figures[name] for name in kept}, "calibration_error": error}
