"""Ways to embed entities from known links: a trained model, or propagation, which is not trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair, Feature
from loginmea_fast.data.sketch import sketch
from loginmea_fast.data.values import made_of_values, value_feature
from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.evaluation.embedding import Embedding, StoredEmbedding
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.propagation import join, one_sided, propagate_rounds
from loginmea_fast.runs.aligning.keeping import Kept
from loginmea_fast.runs.fitting import fit
from loginmea_fast.training.config import Config
from loginmea_fast.training.interrupt import TrainingInterrupted
from loginmea_fast.training.late import JOINED, LateEmbedding, weights_by_links

__all__ = [
    "BESIDE_MODALITIES",
    "METHODS",
    "Embed",
    "Method",
    "Plan",
    "Round",
    "divide_links",
    "embed_by",
    "without_joined",
]

Method = Literal["model", "propagate"]
METHODS: tuple[Method, ...] = ("model", "propagate")
Embed = Callable[[AlignmentPair, Tensor], Embedding]

HELD_OUT = 0.2  # of the known links, for calibration
MOST_HELD_OUT = 1000  # which calibrate as well as more would
ENOUGH_HELD_OUT = 300  # for which propagation is done in further rounds
FOLDS = 5  # in which each link is held out once
ROUNDS = 2  # of bootstrapping by propagation
_USUAL_MODALITY_WEIGHT = 1.0  # beside the labels; kept unless links speak clearly for another
_TO_WEIGH = 5  # links from which it is chosen
BESIDE_MODALITIES = ("relation", "attribute")  # the graph itself, and what two graphs seldom name alike


@dataclass(frozen=True)
class Round:
    """One method learned for calibration.

    Attributes:
        learned: int64 [T, 2], links that it learns from.
        held: int64 [B, 2], links held out; no entity of them stands among those learned from.
        number: int64 [B], which of all held-out links each is.
        alone: whether one entity of each held-out link is taken out of the graphs, so that the other has no
            counterpart: of every second link the right one, of the others the left one.
    """

    learned: Tensor
    held: Tensor
    number: Tensor
    alone: bool

    @property
    def gone(self) -> tuple[Tensor, Tensor]:
        """Held-out links whose right entity is taken out, bool [B], and those whose left one is."""
        second = self.number % 2 == 1
        return ~second & self.alone, second & self.alone


@dataclass(frozen=True)
class Plan:
    """Known links divided for calibration.

    Attributes:
        rounds: those in which held-out links keep their entities, then those in which each loses one.
        again: whether the matches are those of the method learned anew from all links; else of the first round.
    """

    rounds: tuple[Round, ...]
    again: bool


def divide_links(links: Tensor, method: Method, folds: int | None, seed: int, decided: Tensor) -> Plan:
    """Divide known links [S, 2] into those to learn from and those held out, twice over: with and without counterpart.

    Args:
        links: each once.
        method: "propagate" is cheap enough to be done several times, and again with all links; "model" learns twice
            from the same part, unless `folds` asks for more.
        folds: 1 holds a part out once; K from 2 on holds every link out once, in K rounds of both kinds and one more
            with all links; None chooses.
        seed: of the shuffle.
        decided: int64 [A, 2], further links, which are always learned from. Those that somebody was asked about were
            the doubtful ones: held out, they would say that matches are less sure than they are.
    """
    count = len(links)
    shuffled = links[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    every = torch.cat([links, decided])
    if count < 2:
        return Plan((Round(every, links[:0], torch.arange(0), False),), False)
    part = min(max(int(count * HELD_OUT), 1), MOST_HELD_OUT)
    again = method == "propagate" if folds is None else folds > 1 or method == "propagate"
    if folds is None and method == "propagate":
        parts = torch.arange(count).chunk(min(FOLDS, count))[: -(-ENOUGH_HELD_OUT // part)]
        parts = tuple(places[:MOST_HELD_OUT] for places in parts)
    elif folds is None or folds == 1:
        parts = (torch.arange(part),)
    else:
        parts = torch.arange(count).chunk(min(folds, count))
    rounds = []
    for alone in (False, True):
        for places in parts:
            apart = torch.ones(count, dtype=torch.bool)
            apart[places] = False
            train, held = torch.cat([shuffled[apart], decided]), shuffled[places]
            clean = _is_apart(held, train)
            if alone:  # of an entity with several links one counterpart would stay
                clean &= _once(every, held)
            rounds.append(Round(train, held[clean], places[clean], alone))
    return Plan(tuple(rounds), again)


def _is_apart(held: Tensor, train: Tensor) -> Tensor:
    """Which links share no entity with those to learn from."""
    return ~(torch.isin(held[:, 0], train[:, 0]) | torch.isin(held[:, 1], train[:, 1]))


def _once(links: Tensor, held: Tensor) -> Tensor:
    """Which of the held links, bool [B], have no entity that another of all links has."""
    once = torch.ones(len(held), dtype=torch.bool)
    for side in (0, 1):
        entities, times = links[:, side].unique(return_counts=True)
        once &= torch.isin(held[:, side], entities[times == 1])
    return once


def embed_by(method: Method, config: Config, progress: bool | None, kept: Kept | None = None) -> Embed:
    """A function from a pair and links to learn from, int64 [T, 2], to an embedding of all its entities.

    Args:
        method: how.
        config: of it.
        progress: of `fit`.
        kept: where trainings are, those of an earlier call among them; None keeps them in memory.

    Raises:
        ConfigError: an unknown method.
    """
    if method == "model":
        return lambda pair, links: _trained(pair, config, links, progress, kept)
    if method == "propagate":
        return _Propagation(config)
    raise ConfigError(f"method must be one of {', '.join(METHODS)}; got {method!r}")


def _trained(
    pair: AlignmentPair, config: Config, links: Tensor, progress: bool | None, kept: Kept | None
) -> Embedding:
    known = replace(pair, links=links, official_split=None)
    out, resume = (None, False) if kept is None else kept.next()
    started = time.perf_counter()
    try:
        found = fit(known, config.override(seed_ratio=1.0), out, resume=resume, progress=progress)
    except TrainingInterrupted as stopped:
        assert kept is not None
        raise TrainingInterrupted(
            f"stopped; what was trained is kept in {kept.directory}, and the same command goes on with it",
            stopped.exit_code - 128,
        ) from None
    if kept is not None and resume and found.run is not None:
        kept.count(found.run.metrics(), time.perf_counter() - started)
    return without_joined(found.embedding)


def without_joined(embedding: Embedding) -> Embedding:
    """What a run aligns by, less the labels of links that joined (`late_pairs`).

    Scores of such pairs stand apart from all others, so that confidences tell right pairs less well.
    """
    return embedding.without(JOINED) if isinstance(embedding, LateEmbedding) else embedding


class _Propagation:
    """Labels of the links, propagated, and modalities beside them by weights that links held back choose.

    They are chosen once, by the links of the first call: scores of several rounds are then of one scale.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.weights: list[float] | None = None

    def __call__(self, pair: AlignmentPair, links: Tensor) -> Embedding:
        graph = pair.graph()
        spoken = _spoken(pair, self.config)
        sketches = [sketch(_feature(pair, name, links)) for name in spoken]
        if self.weights is None:
            self.weights = self._chosen(pair, graph, dict(zip(spoken, sketches, strict=True)), links)
        found = self._labels(pair, graph, links)
        parts = [("labels", found.shape[1])]
        for name, rows, weight in zip(spoken, sketches, self.weights, strict=True):
            found = join(found, rows, weight)
            parts.append((name, rows.shape[1]))
        return StoredEmbedding(found, parts)

    def _chosen(
        self, pair: AlignmentPair, graph: AlignmentGraph, sketches: dict[str, Tensor], links: Tensor
    ) -> list[float]:
        if not sketches:
            return []
        held = min(max(int(len(links) * HELD_OUT), 1), MOST_HELD_OUT)
        known, chosen = links[held:], links[:held]
        chosen = chosen[_is_apart(chosen, known)]
        if len(chosen) < _TO_WEIGH:  # so few say no more than chance
            return [_USUAL_MODALITY_WEIGHT] * len(sketches)
        labels = StoredEmbedding(self._labels(pair, graph, known))
        # What links have taught would look better on these than it is on others.
        apart = [
            sketch(_feature(pair, name, known)) if _is_taught(pair, name) else rows
            for name, rows in sketches.items()
        ]
        beside = [(rows, _USUAL_MODALITY_WEIGHT) for rows in apart]
        return weights_by_links(labels, beside, pair, chosen, links, self.config)

    def _labels(self, pair: AlignmentPair, graph: AlignmentGraph, links: Tensor) -> Tensor:
        config = self.config
        if not len(pair.triples):  # tables of rows: modalities alone tell
            if not _spoken(pair, config):
                raise DataError(
                    "the graphs have neither triples nor names nor values to be aligned by; give triples, or "
                    "attributes that name the entities"
                )
            return torch.zeros(pair.num_entities, 1)
        one_sided(graph, links)
        return propagate_rounds(
            graph,
            links,
            pair.left_entities,
            pair.right_entities,
            rounds=ROUNDS,
            csls_k=config.csls_k,
            backend="auto" if config.backend == "triton" else config.backend,
            rejected=pair.rejected,
            width=config.propagation_width,
            seed=config.seed,
            whitening=config.whitening,
        )[0].embedding


def _spoken(pair: AlignmentPair, config: Config) -> list[str]:
    names = list(pair.features) if config.modalities is None else list(config.modalities)
    if missing := [name for name in names if name not in pair.features]:
        has = ", ".join(pair.features) or "none"
        raise ConfigError(f"the data has no modality {missing[0]!r}; there are {has}", "modalities")
    return [name for name in names if name not in BESIDE_MODALITIES]


def _feature(pair: AlignmentPair, name: str, links: Tensor) -> Feature:
    """A modality; that of values as links tell which attributes of the two graphs mean the same."""
    if _is_taught(pair, name):
        assert pair.values is not None, "links teach what the values are"
        return value_feature(pair.values, pair.num_entities, links)[0]
    return pair.features[name]


def _is_taught(pair: AlignmentPair, name: str) -> bool:
    """Whether links decide what a modality is."""
    return name == "value" and pair.values is not None and made_of_values(pair.features[name])
