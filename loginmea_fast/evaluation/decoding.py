"""From embeddings back to entities: the best matches of each, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.split import first_of_each
from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.evaluation.decoders import find_candidates, get_decoder
from loginmea_fast.evaluation.decoders.base import check_number
from loginmea_fast.evaluation.embedding import Embedding, check_embedding
from loginmea_fast.evaluation.metrics import neighbours
from loginmea_fast.evaluation.plans import RANKED_EXACTLY
from loginmea_fast.evaluation.rows import check_candidates, check_links

__all__ = ["Decoded", "Decoding", "Match", "decode"]

DIRECTIONS = ("left_to_right", "right_to_left")


@dataclass(frozen=True)
class Match:
    """An entity that may be the partner, its name, and its score."""

    entity: int
    name: str
    score: float


@dataclass(frozen=True)
class Decoded:
    """An entity, its name, its partners where they are known, and its matches, the best first."""

    entity: int
    name: str
    partners: tuple[int, ...]
    matches: tuple[Match, ...]

    @property
    def correct(self) -> bool | None:
        """Whether the best match is a partner; None where no partner is known."""
        if not self.partners:
            return None
        return bool(self.matches) and self.matches[0].entity in self.partners


@dataclass(frozen=True)
class Decoding(Sequence[Decoded]):
    """Matches of many entities, in columns; a sequence of `Decoded` for people, made as it is read.

    Attributes:
        queries: int64 [Q], the entities that were decoded.
        matches: int64 [Q, k], their best matches, the best first; -1 where a decoder gives no more.
        scores: [Q, k]: cosine, CSLS, or what the decoder scores by; -infinity where there is no match.
        links: int64 [B, 2], (query, partner) as far as they are known.
        names: [N], names of all entities.
        csls_k: neighbours that CSLS took; 0 is cosine.
        decoder: how the matches were found.
        converged: False where a decoder that iterates did not come to its end.
    """

    queries: Tensor
    matches: Tensor
    scores: Tensor
    links: Tensor
    names: Sequence[str]
    csls_k: int
    decoder: str
    converged: bool = True

    def __len__(self) -> int:
        return len(self.queries)

    @overload
    def __getitem__(self, place: int) -> Decoded: ...

    @overload
    def __getitem__(self, place: slice) -> list[Decoded]: ...

    def __getitem__(self, place: int | slice) -> Decoded | list[Decoded]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        partners = self.links[self.links[:, 0] == self.queries[place], 1]
        return self._one(int(place), partners.tolist())

    def __iter__(self) -> Iterator[Decoded]:
        partners: dict[int, list[int]] = {}
        for entity, partner in self.links.tolist():
            partners.setdefault(entity, []).append(partner)
        for place, entity in enumerate(self.queries.tolist()):
            yield self._one(place, partners.get(entity, []))

    def _one(self, place: int, partners: list[int]) -> Decoded:
        entity = int(self.queries[place])
        found = zip(self.matches[place].tolist(), self.scores[place].tolist(), strict=True)
        matches = tuple(Match(key, self.names[key], score) for key, score in found if key >= 0)
        return Decoded(entity, self.names[entity], tuple(partners), matches)


def decode(
    embedding: Embedding,
    pair: AlignmentPair,
    links: Tensor | None = None,
    k: int = 5,
    csls_k: int = 10,
    candidates: str = "test",
    backend: str = "auto",
    direction: str = "left_to_right",
    decoder: str | None = None,
    decoder_k: int = 50,
    known: Tensor | None = None,
    threshold: float | None = None,
) -> Decoding:
    """The k best entities of the other graph for each entity of one.

    Args:
        embedding: of the entities, for example `JointEmbedding(model, features, graph)` or `load_run(RUN).embedding`.
        pair: names and entities.
        links: int64 [B, 2], entities to decode with their partners, each link once; None decodes every entity of a
            graph.
        k: matches of each; as many as there are candidates where these are fewer.
        csls_k: neighbours of CSLS; 0 scores by cosine. Both whole sides take part, whichever entities are decoded:
            those of `links` under "test", both graphs under "all". The number taken is in the result.
        candidates: "test" matches among the partners in `links`, "all" (always so without links) among all entities of
            the other graph.
        backend: of the search.
        direction: "left_to_right" decodes entities of graph 1, "right_to_left" those of graph 2.
        decoder: name of a decoder, which sees the best candidates of both sides; by default every entity takes its
            nearest, by CSLS or, where csls_k is 0, by cosine.
        decoder_k: candidates of each entity, both ways, that the decoder sees.
        known: int64 [K, 2], links that are known already: their entities are neither decoded nor candidates.
        threshold: matches that score below it are left out, so that an entity may have none.

    Raises:
        InputError: no embedding; links of another shape or type, with ids that no entity has, or that do not lead from
            graph 1 to graph 2; no links; nobody left to decode or to match with; k or
            decoder_k below one; a threshold that is no number.
        ConfigError: an unknown protocol, direction or decoder.
    """
    check_embedding(embedding)
    check_candidates(candidates)
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction must be one of {', '.join(DIRECTIONS)}; got {direction!r}")
    for name, value, least in (("k", k, 1), ("csls_k", csls_k, 0), ("decoder_k", decoder_k, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} must be a whole number of at least {least}; got {value!r}")
    if threshold is not None:
        threshold = check_number("threshold", threshold)
    chosen = get_decoder("cosine" if decoder in (None, "csls") and not csls_k else decoder or "csls")
    if chosen.scores == "cosine":
        csls_k = 0
    sides = [pair.left_entities, pair.right_entities]
    truth = torch.empty(0, 2, dtype=torch.int64)
    if links is not None:
        truth = check_links(pair, links)
        if len(truth) == 0:
            raise InputError("there are no links to decode; leave links out to decode every entity")
        if candidates == "test":
            sides = [_in_order(column) for column in truth.unbind(1)]
    if known is not None:
        linked = check_links(pair, known)
        sides = [side[~torch.isin(side, linked[:, way])] for way, side in enumerate(sides)]
    if direction == "right_to_left":
        sides, truth = sides[::-1], truth.flip(1)
    queries = sides[0] if links is None else _in_order(truth[torch.isin(truth[:, 0], sides[0]), 0])
    if len(queries) == 0 or len(sides[1]) == 0:
        raise InputError(
            f"{len(queries)} entities to decode and {len(sides[1])} to match with; leave known links out of links, or "
            "give fewer known ones"
        )
    others = sides[0][~torch.isin(sides[0], queries)]
    keys = sides[1]
    csls_k = neighbours(csls_k, len(queries) + len(others), len(keys)) if csls_k else 0
    converged = True
    if chosen.name in RANKED_EXACTLY:
        joint = embedding.embed(torch.cat([queries, keys, others] if csls_k else [queries, keys]))
        end = len(queries) + len(keys)
        scores, index = ops.alignment_topk(
            joint[: len(queries)],
            joint[len(queries) : end],
            min(k, len(keys)),
            csls_k,
            query_extra=joint[end:] if csls_k else None,
            backend=backend,
        )
        matches, scores = keys[index.cpu()], scores.cpu()
    else:
        joint = embedding.embed(torch.cat([queries, others, keys]))
        end = len(queries) + len(others)
        matching = chosen.match(find_candidates(joint[:end], joint[end:], decoder_k, csls_k, backend))
        converged = matching.converged
        scores, index = (torch.from_numpy(part[: len(queries)]) for part in matching.best(min(k, len(keys))))
        matches = torch.where(index >= 0, keys[index.clamp_min(0)], -1)
    if threshold is not None:
        matches, scores = (
            matches.where(scores >= threshold, -1),
            scores.where(scores >= threshold, -torch.inf),
        )
    return Decoding(queries, matches, scores, truth, pair.names, csls_k, chosen.name, converged)


def _in_order(entities: Tensor) -> Tensor:
    """Each entity once, in order of first appearance."""
    return entities[first_of_each(entities[:, None])]
