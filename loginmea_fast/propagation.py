"""Alignment without training: labels of known links travel over both graphs (after LightEA, Mao et al., EMNLP 2022).

Every known link gets one random unit vector, the same on both sides; what hears the same labels from alike places is
taken for the same. There are no parameters, so this stands beside the modules and imports operators, graph and data.

With a_j = degree_j^(-1/4) (a neighbour of many says little of each), w_s the number of relations in set s and
b_i = sum of w_s(e) a_j over the edges e of i:

    labels      X_0: a seed's vector, other rows zero                                               [N, D]
    relations   P_(l+1) = unit rows of  sum over the entities i that r leads to of a_i X_l[i] ,  P_0 = 0      [2R, D]
    entities    X_(l+1) = unit rows of  0.3 b_i X_l[i] + sum_e w_s(e) a_j X_l[j] + mean(a) sum over r of i of P_l[r]
    triples     T = unit rows of  sum_e W_s(e) * Z_j ,   Z_j = a_j unit( sum_l h_l D_l X_l[j] ) ,
                W_s = sum over the relations of s of  unit( sum_l D'_l S P_l[r] )
    F = unit rows of  [ T | X_depth / 2 ]

with random signs D_l, D'_l, S a cyclic shift of the columns, h = 1, and 1/2 at the last step. The product element by
element sketches the outer product of relation and label: labels stay apart by the relation that brought them, and no
column is needed for every pair of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.data import AlignmentPair, Feature
from loginmea_fast.data.split import is_among
from loginmea_fast.errors import InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.mapped import normalize, room_for
from loginmea_fast.ops import mutual_nearest, propagate
from loginmea_fast.ops.graph_mean import sparse_product
from loginmea_fast.whitening import whiten_rows

__all__ = [
    "VIEWS",
    "Propagated",
    "cautions",
    "join",
    "late_weight",
    "one_sided",
    "propagate_labels",
    "propagate_rounds",
]

VIEWS = ("entities", "relations", "triples")

_OWN = 0.3  # of an entity's own labels beside its neighbours'
_DISCOUNT = 0.25  # power of a neighbour's degree by which it counts less
_LAST_HOP = 0.5  # of the labels from furthest away in the triples
_BESIDE = 0.5  # of the entities' view beside the triples'
_BLOCK = 4096  # rows that are made ready at a time
_RANKED = 1024  # rows whose cosines with all others are held at a time
_NO_LENGTH = 1e-24  # square of a row without a direction
_TIE = 1e-6  # between scores of equal rows, whose float32 sums may end otherwise
_REACHED = 0.5  # of a graph's entities without a link; where labels can reach fewer, it is said
_NARROW = 4  # the entities' view needs a fourth of the columns: nothing in it is a product of two sketches


@dataclass(frozen=True)
class Propagated:
    """What propagation made of the known links.

    Attributes:
        embedding: [N, D'], unit rows; zero where no label arrives.
        reached: bool [N], entities at which a label arrives.
        seeds: how many known links there were.
        one_sided: how many of them have an entity without a neighbour, so that their label travels in one graph at
            most and joins nothing.
    """

    embedding: Tensor
    reached: Tensor
    seeds: int
    one_sided: int

    def feature(self) -> Feature:
        """The embedding as a modality, in half precision. For training make it with `folds`."""
        return Feature(self.embedding.half(), self.reached, "labels of the known links, propagated")


class _Incidence(NamedTuple):
    """Which relation ids lead to which entity, each once: by entity, and transposed."""

    ptr: Tensor
    relation: Tensor
    value: Tensor
    t_ptr: Tensor
    entity: Tensor
    t_value: Tensor

    def sums_by_entity(self, p: Tensor, rows: int) -> Iterator[Tensor]:
        """So many rows at a time."""
        for start in range(0, len(self.ptr) - 1, rows):
            ptr = self.ptr[start : start + rows + 1]
            own = slice(int(ptr[0]), int(ptr[-1]))
            yield sparse_product(ptr - ptr[0], self.relation[own], self.value[own], *self[3:], p)

    def sums_by_relation(self, x: Tensor) -> Tensor:
        return sparse_product(*self[3:], *self[:3], x)


def propagate_labels(
    graph: AlignmentGraph,
    seeds: Tensor,
    views: Sequence[str] = VIEWS,
    width: int = 2048,
    depth: int = 2,
    seed: int = 0,
    folds: int = 0,
    whitening: float = 0.0,
    backend: str = "auto",
) -> Propagated:
    """Embed all entities by the known links alone; the same again for the same seed, on one machine.

    Args:
        graph: both graphs.
        seeds: int64 [S, 2], known links, left entity first.
        views: "entities", with or without "relations", "triples", or all of them.
        width: D, columns of a label.
        depth: steps that labels travel.
        seed: of the labels and signs.
        folds: 0, or at least 2: a seed's own row is then what the links of the other folds alone make of it, as the
            row of an entity without a link is. An embedding that is trained on needs that: its own label would tell
            a seed its partner.
        whitening: power of `loginmea_fast.whitening` by which directions that most entities share are damped; 0: not.
        backend: of `ops.propagate`.

    Returns:
        `Propagated`, on the device of the graph, float32. D' is `width` for one of the views and 5/4 of it for triples
        beside entities.

    Raises:
        InputError: no seeds, ids outside the graph, unknown views, a size below one, or no seed with neighbours on
            both sides.
    """
    _check(graph, seeds, views, width, depth, folds)
    lost = one_sided(graph, seeds)
    generator = torch.Generator().manual_seed(seed)
    labels = F.normalize(torch.randn(len(seeds), width, generator=generator), dim=1)
    signs = torch.randint(0, 2, (2, depth + 1, width), generator=generator).mul_(2).sub_(1).to(graph.device)
    seeds, labels = seeds.to(graph.device), labels.to(graph.device)
    incidence = _incidence(graph)

    def run(used: Tensor) -> Tensor:
        return _embed(graph, incidence, seeds[used], labels[used], signs, views, depth, backend)

    everything = torch.ones(len(seeds), dtype=torch.bool, device=graph.device)
    embedding = run(everything)
    if folds:
        fold = torch.randperm(len(seeds), generator=generator).to(graph.device) % folds
        for number in range(folds):
            others = run(fold != number)
            own = seeds[fold == number].reshape(-1)
            embedding[own] = others[own]
    whiten_rows(embedding, whitening, centred=False)  # signs of labels are random
    reached = embedding.any(1)
    return Propagated(embedding, reached, len(seeds), lost)


def one_sided(graph: AlignmentGraph, seeds: Tensor) -> int:
    """How many of the known links [S, 2] have an entity without a neighbour.

    Raises:
        InputError: all of them, so that propagation would join nothing.
    """
    count = int((graph.degrees()[seeds.to(graph.device)] == 0).any(1).sum())
    if count == len(seeds):
        raise InputError(
            f"each of the {len(seeds):,} known links has an entity without a neighbour, so no label reaches both "
            "graphs; give links between entities that stand in triples"
        )
    return count


def cautions(pair: AlignmentPair, links: Tensor) -> list[str]:
    """What is to be said of known links [S, 2] before their labels are propagated, a sentence each; mostly nothing.

    Labels of links that have an entity without a neighbour join nothing. Entities that no path joins to a known link
    are reached by none, however far labels travel: it is said where they are more than half of those without a link.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = pair.triples[:, ::2]
    stands = torch.zeros(pair.num_entities, dtype=torch.bool)
    stands[ends] = True
    joins = stands[links].all(1)
    said = []
    if lost := int((~joins).sum()):
        said.append(
            f"{lost:,} of {len(links):,} known links have an entity without a neighbour, so that their labels join "
            "nothing"
        )
    edges = coo_array((np.ones(len(ends), dtype=np.int8), tuple(ends.T.numpy())), shape=(len(stands),) * 2)
    component = torch.from_numpy(connected_components(edges, directed=False)[1]).long()
    spoken = torch.zeros(len(stands), dtype=torch.bool)
    spoken[component[links[joins]]] = True
    shares, few = [], False
    for side, entities in enumerate((pair.left_entities, pair.right_entities)):
        others = entities[~torch.isin(entities, links[:, side])]
        reached = int(spoken[component[others]].sum())
        shares.append(f"{reached:,} of {len(others):,}")
        few |= reached < _REACHED * len(others)
    if few:
        said.append(
            f"labels of the known links can reach {shares[0]} entities without a link in the left graph and "
            f"{shares[1]} in the right; give links in further parts of the graphs, or names or values to tell the "
            "rest by"
        )
    return said


def propagate_rounds(
    graph: AlignmentGraph,
    seeds: Tensor,
    left_entities: Tensor,
    right_entities: Tensor,
    rounds: int = 2,
    csls_k: int = 10,
    backend: str = "auto",
    rejected: Tensor | None = None,
    **options: float | Sequence[str],
) -> tuple[Propagated, Tensor]:
    """Propagate, take mutual nearest neighbours for links, and propagate again: bootstrapping without training.

    Every round proposes afresh among all entities without a known link, so that a wrong pair can go again.

    Args:
        graph: both graphs.
        seeds: int64 [S, 2], known links.
        left_entities: [n1] ids of the left graph.
        right_entities: [n2] ids of the right graph.
        rounds: proposals; 0 is `propagate_labels`.
        csls_k: neighbours of CSLS in the search.
        backend: of the operators.
        rejected: int64 [R, 2], pairs that are never taken for links.
        options: of `propagate_labels`.

    Returns:
        The last propagation, and the pairs that it was made with beside the seeds, int64 [P, 2].

    Raises:
        InputError: as `propagate_labels`, or a seed that does not go from left to right.
    """
    for side, name, entities in ((0, "left", left_entities), (1, "right", right_entities)):
        strange = ~torch.isin(seeds[:, side], entities)
        if strange.any():
            link = seeds[strange][0].tolist()
            raise InputError(
                f"known link {link} has no {name} entity in its place; give links as (left entity, right entity)"
            )
    left, right = (
        entities[~torch.isin(entities, linked)]
        for entities, linked in zip((left_entities, right_entities), seeds.unbind(1), strict=True)
    )
    pairs = seeds[:0]
    found = propagate_labels(graph, seeds, backend=backend, **options)  # type: ignore[arg-type]
    for _ in range(rounds):
        rows = [ids[found.reached[ids.to(graph.device)].cpu()] for ids in (left, right)]
        sides = [found.embedding[ids.to(graph.device)] for ids in rows]
        k = min(csls_k, len(rows[0]), len(rows[1]))
        mutual = mutual_nearest(sides[0], sides[1], csls_k=k, backend=backend).cpu()
        pairs = torch.stack([rows[0][mutual[:, 0]], rows[1][mutual[:, 1]]], 1)
        if rejected is not None:
            pairs = pairs[~is_among(pairs, rejected)]
        del found, sides  # before as much is made again
        found = propagate_labels(graph, torch.cat([seeds, pairs]), backend=backend, **options)  # type: ignore[arg-type]
    return found, pairs


def join(embedding: Tensor, propagated: Tensor, weight: float) -> Tensor:
    """Two embeddings side by side: unit rows of [ E / |E| | weight F ], a late modality.

    The cosine of two rows is then (cos_E + weight^2 cos_F) / (1 + weight^2) where both have a direction.

    Args:
        embedding: E [N, D], of a model.
        propagated: F [N, D'], unit or zero rows.
        weight: of F.

    Returns:
        [N, D + D'], in the dtype of E.

    Raises:
        InputError: other numbers of rows, or a weight that is negative or no number.
    """
    _check_join(embedding, propagated, weight)
    rows = F.normalize(embedding, dim=1)
    return F.normalize(torch.cat([rows, (weight * propagated).to(rows.dtype)], 1), dim=1)


def _check_join(embedding: Tensor, propagated: Tensor, weight: float) -> None:
    if embedding.shape[0] != propagated.shape[0]:
        raise InputError(
            f"both embeddings must have a row an entity; got {embedding.shape[0]} and {propagated.shape[0]} rows"
        )
    if not 0 <= weight < float("inf"):
        raise InputError(f"the weight of the propagated labels must be finite and not negative; got {weight}")


def late_weight(
    embedding: Tensor,
    propagated: Tensor,
    links: Tensor,
    left_entities: Tensor,
    right_entities: Tensor,
    weights: Sequence[float] = (0.0, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0),
    csls_k: int = 10,
    usual: float | None = None,
) -> float:
    """The weight of `join` by which validation links find each other best: mean reciprocal rank, both ways.

    A few hundred links hardly tell neighbouring weights apart. So a `usual` weight is kept unless the best one is
    better by more than two standard errors of the difference, link by link: three links alone cannot overturn it.

    Args:
        embedding: E [N, D].
        propagated: F [N, D'], of labels that are not those of `links`.
        links: int64 [V, 2], validation links.
        left_entities: ids of the left graph among which partners are ranked: those without a training link.
        right_entities: the same of the right graph.
        weights: to choose from; of equally good ones the first.
        csls_k: neighbours of CSLS; 0 leaves it out.
        usual: the weight to keep unless links speak clearly for another, or the nearest to it in `weights`; None takes
            the best one.

    Returns:
        One of `weights`.

    Raises:
        InputError: no links to choose by, or no weights; what `join` refuses, or a value that is not finite.
    """
    if len(links) == 0 or len(weights) == 0:
        raise InputError(
            f"a weight is chosen from some by validation links; got {len(weights)} weights and {len(links)} links"
        )
    for weight in weights:
        _check_join(embedding, propagated, weight)
    # A card may round float32 products to TF32, by a setting of the process that has no say in a choice.
    dtype = torch.float64 if embedding.is_cuda else torch.float32
    sides = []
    for own, entities in zip(links.unbind(1), (left_entities, right_entities), strict=True):
        ids = torch.cat([own, entities[~torch.isin(entities, own)]]).to(embedding.device)
        rows = embedding[ids].to(dtype), propagated[ids.to(propagated.device)].to(embedding.device, dtype)
        if not all(bool(part.isfinite().all()) for part in rows):
            raise InputError("a weight is chosen by rows of finite numbers; these hold others")
        sides.append((F.normalize(rows[0], dim=1), rows[1]))
    left, right = sides
    found = _reciprocal_ranks(left, right, len(links), weights, csls_k)
    best = int(found.mean(1).argmax())
    if usual is None:
        return weights[best]
    kept = min(range(len(weights)), key=lambda i: abs(weights[i] - usual))
    gain = found[best] - found[kept]
    error = gain.std(correction=0) / (len(links) - 1) ** 0.5  # no number where there is one link
    return weights[best if bool(gain.mean() > 2 * error) else kept]


def _reciprocal_ranks(
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor],
    links: int,
    weights: Sequence[float],
    csls_k: int,
) -> Tensor:
    """Reciprocal CSLS ranks [weights, links], the mean of both ways, of the first rows of two sides for each other.

    A cosine of joined rows is (e . e' + w^2 f . f') / lengths: both products are formed once, for all weights, block by
    block.

    Args:
        left: E [n, D] and F [n, D'], unit or zero rows.
        right: the same, of m rows.
        links: row i of the left and row i of the right belong together, for so many.
        weights: w of F.
        csls_k: neighbours; 0 ranks by cosine.
    """
    k = min(csls_k, len(left[0]), len(right[0]))
    # 1 / lengths of the joined rows of a side, for each weight; a row of zeros stays one.
    scales = [
        [
            (e.square().sum(1) + weight**2 * f.square().sum(1)).clamp_min(_NO_LENGTH).rsqrt()
            for weight in weights
        ]
        for e, f in (left, right)
    ]

    def cosines(some: slice, side: int) -> Iterator[Tensor]:
        """Of some rows of a side with all of the other, for each weight."""
        (e, f), (others_e, others_f) = (left, right) if side == 0 else (right, left)
        of_e, of_f = e[some] @ others_e.T, f[some] @ others_f.T
        for weight, own, others in zip(weights, scales[side], scales[1 - side], strict=True):
            yield torch.add(of_e, of_f, alpha=weight**2).mul_(own[some, None]).mul_(others)

    nearest: list[list[Tensor]] = [[] for _ in weights]  # means of the k nearest of left rows, by block
    best = [left[0].new_empty(len(right[0]), 0) for _ in weights]  # the k nearest of right rows
    step = max(_RANKED, k)
    for start in range(0, len(left[0]) if k else 0, step):
        for number, found in enumerate(cosines(slice(start, start + step), 0)):
            nearest[number].append(found.topk(k, 1).values.mean(1))
            candidates = torch.cat([best[number], found.T], 1)
            best[number] = candidates.topk(k, 1).values
    zeros = [e.new_zeros(len(e)) for e, _ in (left, right)]
    near_left = [torch.cat(blocks) if k else zeros[0] for blocks in nearest]
    near_right = [rows.mean(1) if k else zeros[1] for rows in best]
    reciprocal = torch.zeros(len(weights), links, dtype=torch.float64)
    for side, near in enumerate((near_right, near_left)):
        for start in range(0, links, step):
            some = slice(start, min(start + step, links))
            for number, found in enumerate(cosines(some, side)):
                scores = found.mul_(2).sub_(near[number])
                partner = scores.diagonal(start)[: len(scores), None]
                above, level = scores > partner + _TIE, (scores - partner).abs_() <= _TIE
                ranks = 1 + above.sum(1) + (level.sum(1) - 1) / 2
                reciprocal[number, some] += ranks.double().reciprocal().cpu() / 2
    return reciprocal


def _embed(
    graph: AlignmentGraph,
    incidence: _Incidence,
    seeds: Tensor,
    labels: Tensor,
    signs: Tensor,
    views: Sequence[str],
    depth: int,
    backend: str,
) -> Tensor:
    """F of the module's formulas."""
    count, width = graph.num_entities, labels.shape[1]
    said = graph.degrees().clamp_min(1).float().pow_(-_DISCOUNT)
    weights = _set_sizes(graph)
    heard = propagate(said[:, None], weights, graph, normalize=False, backend=backend)[:, 0]
    x = labels.new_zeros(count, width).index_add_(0, seeds[:, 0], labels).index_add_(0, seeds[:, 1], labels)
    x = F.normalize(x, dim=1)
    z = x * signs[0, 0] if "triples" in views else None
    p = labels.new_zeros(2 * graph.num_relations, width)
    z_relations = torch.zeros_like(p)
    for step in range(1, depth + 1):
        spoken = x.mul_(said[:, None])
        own = _OWN * heard / said
        if "relations" in views:
            x = propagate(spoken, weights, graph, own, normalize=False, backend=backend)
            for rows, told in zip(x.split(_BLOCK), incidence.sums_by_entity(p, _BLOCK), strict=True):
                rows.add_(told, alpha=float(said.mean()))
            normalize(x)
        else:
            x = propagate(spoken, weights, graph, own, backend=backend)
        p = F.normalize(incidence.sums_by_relation(spoken), dim=1)
        del spoken
        if z is not None:
            z.addcmul_(x, signs[0, step], value=_LAST_HOP if step == depth else 1.0)
            z_relations = z_relations + p.roll(width // 2 + 1, 1) * signs[1, step]
    if z is None:
        return x
    w = _set_sums(graph, F.normalize(z_relations, dim=1))
    beside = F.normalize(x[:, : max(width // _NARROW, 1)], dim=1).mul_(_BESIDE)
    del x
    triples = propagate(normalize(z).mul_(said[:, None]), w, graph, backend=backend)
    if "entities" not in views:
        return triples
    del z
    found = room_for(count, width + beside.shape[1], triples.dtype, triples.device)
    found[:, :width] = triples
    del triples
    found[:, width:] = beside
    return normalize(found)


def _set_sums(graph: AlignmentGraph, relations: Tensor) -> Tensor:
    """Sum of the rows of a relation table over every relation set, with multiplicity: [2R, D] -> [U, D]."""
    members = graph.set_rel_ptr, graph.set_relation, graph.set_count
    return sparse_product(*members, graph.rel_ptr, graph.rel_set, graph.rel_count, relations)


def _set_sizes(graph: AlignmentGraph) -> Tensor:
    """Relations of each set, with multiplicity: [U, 1]."""
    return _set_sums(graph, torch.ones(2 * graph.num_relations, 1, device=graph.device))


def _incidence(graph: AlignmentGraph) -> _Incidence:
    size = graph.set_rel_ptr.diff()
    degree = graph.degrees()
    destination = torch.repeat_interleave(torch.arange(graph.num_entities, device=graph.device), degree)
    members = size[graph.dst_set.long()]
    first = graph.set_rel_ptr[graph.dst_set.long()]
    offset = torch.arange(int(members.sum()), device=graph.device)
    offset -= torch.repeat_interleave(members.cumsum(0) - members, members)
    relation = graph.set_relation[torch.repeat_interleave(first, members) + offset].long()
    key = torch.repeat_interleave(destination, members) * (2 * graph.num_relations) + relation
    key = key.unique()
    entity, relation = key // (2 * graph.num_relations), key % (2 * graph.num_relations)
    by_relation = torch.argsort(relation, stable=True)

    def pointers(ids: Tensor, rows: int) -> Tensor:
        counts = torch.bincount(ids, minlength=rows)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    ones = torch.ones(len(key), device=graph.device)
    return _Incidence(
        pointers(entity, graph.num_entities),
        relation.int(),
        ones,
        pointers(relation, 2 * graph.num_relations),
        entity[by_relation].int(),
        ones,
    )


def _check(
    graph: AlignmentGraph, seeds: Tensor, views: Sequence[str], width: int, depth: int, folds: int
) -> None:
    if seeds.dim() != 2 or seeds.shape[1] != 2 or seeds.dtype != torch.int64:
        raise InputError(f"seeds must be int64 [links, 2]; got {seeds.dtype} {list(seeds.shape)}")
    if len(seeds) == 0:
        raise InputError("there is no known link whose label could travel; give at least one")
    if int(seeds.min()) < 0 or int(seeds.max()) >= graph.num_entities:
        raise InputError(f"seeds name an entity outside 0 to {graph.num_entities - 1}; check the ids")
    if unknown := set(views) - set(VIEWS):
        raise InputError(f"unknown views {', '.join(sorted(unknown))}; there are {', '.join(VIEWS)}")
    if not {"entities", "triples"} & set(views):
        raise InputError("the view 'relations' is part of 'entities' or 'triples'; name one of these")
    if width < 1 or depth < 1:
        raise InputError(f"width and depth must be at least 1; got {width} and {depth}")
    if folds and not 2 <= folds <= len(seeds):
        raise InputError(
            f"folds must be 0 or from 2 to the {len(seeds)} seeds, so that each fold has some; got {folds}"
        )
