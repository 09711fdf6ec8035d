"""AlignmentGraph: the triples of two knowledge graphs as edges, relation sets and the orders that operators walk.

docs/model.md, Graph. Everything is built by sorting and counting whole columns; nothing loops over triples.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.errors import CheckpointError, InputError
from loginmea_fast.view import View, check_rows, places_of

__all__ = ["AlignmentGraph", "View", "check_rows"]

_INT32_MAX = 2**31 - 1
_FORMAT_VERSION = 1
# Of the entities; where more are asked for, two hops reach nearly all edges and a receptive field only costs.
_MOST = 0.5
_TENSORS = (
    "dst_ptr",
    "dst_source",
    "dst_set",
    "src_ptr",
    "src_destination",
    "src_set",
    "src_edge",
    "set_ptr",
    "set_edge",
    "set_rel_ptr",
    "set_relation",
    "set_count",
    "visit_order",
    "rel_ptr",
    "rel_set",
    "rel_count",
    "neighborhood_size",
)


class AlignmentGraph:
    """Two knowledge graphs in one id space, as the operators read them.

    Triples (h, r, t) of both graphs are taken with their inverses (t, r + R, h); each is an incidence whose
    destination stands first and whose source stands last. All incidences with the same destination i and source j
    make one edge; its *relation set* is the multiset of their relation ids, and equal sets are numbered once. Edges
    are kept in three orders, so that every gradient is a sum over a contiguous range.

    Attributes:
        num_entities: N, entities of both graphs.
        num_relations: R, relations before inverses; relation ids run to 2R.
        num_edges: E, distinct (destination, source) pairs.
        num_relation_sets: U, distinct relation sets.
        dst_ptr: int64 [N + 1], `dst_source` int32 [E], `dst_set` int32 [E]: edges by (destination, source).
        src_ptr: int64 [N + 1], `src_destination`, `src_set`, `src_edge` int32 [E]: the same edges by (source, set,
            destination); `src_edge` is the edge's position in destination order.
        set_ptr: int64 [U + 1], `set_edge` int32 [E]: positions in destination order, grouped by set.
        set_rel_ptr: int64 [U + 1], `set_relation` int32 [nnz], `set_count` float32 [nnz]: the distinct relations of
            each set and how often each occurs.
        visit_order: int32 [N], entities breadth-first, the order in which kernels gain most from the cache. Rows
            stay where they are in memory.
        rel_ptr: int64 [2R + 1], `rel_set` int32 [nnz], `rel_count` float32 [nnz]: the transpose of the set contents,
            the sets that each relation stands in.
        neighborhood_size: int32 [N], size of {i} and its distinct neighbours: degree + 1, less one for a self loop.
    """

    num_entities: int
    num_relations: int
    num_edges: int
    num_relation_sets: int
    dst_ptr: Tensor
    dst_source: Tensor
    dst_set: Tensor
    src_ptr: Tensor
    src_destination: Tensor
    src_set: Tensor
    src_edge: Tensor
    set_ptr: Tensor
    set_edge: Tensor
    set_rel_ptr: Tensor
    set_relation: Tensor
    set_count: Tensor
    visit_order: Tensor
    rel_ptr: Tensor
    rel_set: Tensor
    rel_count: Tensor
    neighborhood_size: Tensor

    def __init__(self, num_entities: int, num_relations: int, tensors: dict[str, Tensor]) -> None:
        """Wrap finished tensors; `from_triples`, `from_edges` and `load` are the ways to make one."""
        self.num_entities = num_entities
        self.num_relations = num_relations
        for name in _TENSORS:
            setattr(self, name, tensors[name])
        self.num_edges = self.dst_source.numel()
        self.num_relation_sets = self.set_ptr.numel() - 1

    @classmethod
    def from_triples(
        cls, triples: Tensor | np.ndarray, num_entities: int, num_relations: int
    ) -> AlignmentGraph:
        """Build the graph from the triples of both knowledge graphs.

        Args:
            triples: int64 [T, 3], (head, relation, tail); repeated triples count as often as they occur.
            num_entities: N; entities without triples are normal.
            num_relations: R; relation ids are below it.

        Raises:
            InputError: wrong shape or dtype, no triples, an id out of range, or more incidences than int32 can count.
        """
        t = triples.cpu().numpy() if isinstance(triples, Tensor) else np.asarray(triples)
        if t.ndim != 2 or t.shape[1] != 3:
            raise InputError(
                f"triples must have shape [triples, 3] = (head, relation, tail); got {list(t.shape)}"
            )
        if t.dtype.kind not in "iu":
            raise InputError(f"triples must hold integers; got {t.dtype}")
        if len(t) == 0:
            raise InputError("a graph needs at least one triple; got none")
        entities, relations = (num_entities, "num_entities"), (num_relations, "num_relations")
        _check_ids(t, (("head", *entities), ("relation", *relations), ("tail", *entities)), "triple")
        _check_counts(2 * len(t), num_entities)
        head, relation, tail = (t[:, c].astype(np.int64) for c in range(3))
        # As in the authors' code: h hears from t through r, t hears from h through the inverse r + R.
        destination = np.concatenate([head, tail])
        source = np.concatenate([tail, head])
        relation = np.concatenate([relation, relation + num_relations])
        return cls._from_incidences(destination, source, relation, num_entities, num_relations)

    @classmethod
    def from_edges(
        cls, edge_index: Tensor, edge_type: Tensor, num_entities: int, num_relation_ids: int
    ) -> AlignmentGraph:
        """Build the graph from directed, typed edges as PyTorch Geometric holds them; no inverses are added.

        Args:
            edge_index: int64 [2, T], row 0 sources, row 1 destinations.
            edge_type: int64 [T], relation id of each, below `num_relation_ids`.
            num_entities: N.
            num_relation_ids: number of relation ids; must be even, as reflectors have 2R rows.

        Raises:
            InputError: wrong shape or dtype, an id out of range, or more edges than int32 can count.
        """
        if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_type.shape != edge_index.shape[1:]:
            raise InputError(
                "edge_index must have shape [2, edges] and edge_type [edges]; "
                f"got {list(edge_index.shape)} and {list(edge_type.shape)}"
            )
        for name, ids in (("edge_index", edge_index), ("edge_type", edge_type)):
            if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
                raise InputError(f"{name} must hold integers; got {ids.dtype}")
        if num_relation_ids % 2:
            raise InputError(
                f"num_relation_ids must be even (relations and their inverses); got {num_relation_ids}"
            )
        _check_counts(edge_type.numel(), num_entities)
        source, destination = edge_index.cpu().numpy().astype(np.int64)
        relation = edge_type.cpu().numpy().astype(np.int64)
        entities, types = (num_entities, "num_entities"), (num_relation_ids, "num_relation_ids")
        _check_ids(
            np.stack([source, relation, destination], 1),
            (("source", *entities), ("type", *types), ("destination", *entities)),
            "edge",
        )
        return cls._from_incidences(destination, source, relation, num_entities, num_relation_ids // 2)

    @classmethod
    def _from_incidences(
        cls,
        destination: np.ndarray,
        source: np.ndarray,
        relation: np.ndarray,
        num_entities: int,
        num_relations: int,
    ) -> AlignmentGraph:
        # One sort by (destination, source, relation) puts an edge's incidences side by side with its relations ordered.
        order = _lexsort3(destination, source, relation, num_entities, num_entities, 2 * num_relations)
        destination, source, relation = destination[order], source[order], relation[order]
        new_edge = np.ones(len(order), bool)
        new_edge[1:] = (destination[1:] != destination[:-1]) | (source[1:] != source[:-1])
        edge_of = np.cumsum(new_edge) - 1
        first = np.flatnonzero(new_edge)
        dst, src = destination[first], source[first]
        dst_set, representative = _number_sets(edge_of, relation, first)

        set_rel_ptr, set_relation, set_count = _set_contents(relation, first, representative)
        num_sets = len(representative)
        by_source = _lexsort3(src, dst_set, dst, num_entities, num_sets, num_entities)
        by_set = np.argsort(dst_set, kind="stable")
        dst_ptr = _pointers(dst, num_entities)
        src_ptr = _pointers(src, num_entities)
        visit = _breadth_first(dst_ptr, src, num_entities)
        by_relation = np.argsort(set_relation, kind="stable")
        set_of_member = np.repeat(np.arange(num_sets), np.diff(set_rel_ptr))

        def int32(a: np.ndarray) -> Tensor:
            return torch.from_numpy(a.astype(np.int32))

        tensors = {
            "dst_ptr": torch.from_numpy(dst_ptr),
            "dst_source": int32(src),
            "dst_set": int32(dst_set),
            "src_ptr": torch.from_numpy(src_ptr),
            "src_destination": int32(dst[by_source]),
            "src_set": int32(dst_set[by_source]),
            "src_edge": int32(by_source),
            "set_ptr": torch.from_numpy(_pointers(dst_set, num_sets)),
            "set_edge": int32(by_set),
            "set_rel_ptr": torch.from_numpy(set_rel_ptr),
            "set_relation": int32(set_relation),
            "set_count": torch.from_numpy(set_count.astype(np.float32)),
            "visit_order": int32(visit),
            "rel_ptr": torch.from_numpy(_pointers(set_relation, 2 * num_relations)),
            "rel_set": int32(set_of_member[by_relation]),
            "neighborhood_size": int32(
                np.diff(dst_ptr) + 1 - np.bincount(dst[dst == src], minlength=num_entities)
            ),
            "rel_count": torch.from_numpy(set_count[by_relation].astype(np.float32)),
        }
        return cls(num_entities, num_relations, tensors)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.dst_ptr.device

    @property
    def index(self) -> list[Tensor]:
        """All tensors in the order of the class docstring: what custom operators take."""
        return [getattr(self, name) for name in _TENSORS]

    def to(self, device: torch.device | str) -> AlignmentGraph:
        """The same graph on another device; itself where it is there already."""
        if self.device == torch.device(device):
            return self
        tensors = {name: getattr(self, name).to(device) for name in _TENSORS}
        return AlignmentGraph(self.num_entities, self.num_relations, tensors)

    def view(self, rows: Tensor | None = None, depth: int = 2) -> View:
        """What `depth` layers need of the graph for some entities: their exact receptive field (docs/model.md, View).

        Operators and models that are given a view compute what it needs and no more; the numbers are those of the whole
        graph to rounding. The last view is kept, so that the same rows asked for again cost nothing. Where more than
        half of the entities are asked for, the view walks the whole graph and takes their rows: two hops from so many
        reach nearly all edges.

        Args:
            rows: int64 [B], entities, in any order and as often as they are wanted; None for everything.
            depth: L, number of layers. The mean over neighbours in front of them needs no more of a view.

        Raises:
            InputError: an id out of range, or a depth below 1.
        """
        if rows is None:
            return View(self)
        if torch.compiler.is_compiling():  # what a view holds depends on the numbers in `rows`
            return View(self, rows)
        return View.of(self, rows, depth, _MOST)

    def sources_of(self, rows: Tensor) -> Tensor:
        """The entities with an edge to one of `rows`, int64, each once and in order."""
        reached = torch.zeros(self.num_entities, dtype=torch.bool, device=self.device)
        reached[self.dst_source[places_of(self.dst_ptr, rows.to(self.device))].long()] = True
        return reached.nonzero()[:, 0]

    def into(self, rows: Tensor, others: Tensor) -> AlignmentGraph:
        """The edges into some entities, as a graph of these and the entities that the edges come from.

        Relation sets keep their numbers, and all that hangs on them; `neighborhood_size` of `rows` stays what it is.

        Args:
            rows: int64 [n], entities, each once: they become the numbers 0 to n - 1.
            others: int64 [m], their neighbours that are not among them: numbers n to n + m - 1, without edges to them.
        """
        entities = torch.cat([rows, others]).to(self.device)
        local = torch.full((self.num_entities,), -1, device=self.device)
        local[entities] = torch.arange(len(entities), device=self.device)
        degree = (
            torch.cat([self.degrees()[entities[: len(rows)]], entities.new_zeros(len(others))]).cpu().numpy()
        )
        places = places_of(self.dst_ptr, entities[: len(rows)])
        source = local[self.dst_source[places].long()].cpu().numpy()
        dst = np.repeat(np.arange(len(entities)), degree)
        by_destination = np.argsort(dst * len(entities) + source)
        source, set_ = source[by_destination], self.dst_set[places].cpu().numpy()[by_destination]
        size = self.neighborhood_size[entities]
        size[len(rows) :] = 1
        visit = torch.arange(len(entities), dtype=torch.int32, device=self.device)
        return self._of_edges(dst, source, set_, size, visit)

    def within(self, part: Tensor) -> AlignmentGraph:
        """The same entities without the edges between different parts; relation sets keep their numbers.

        Args:
            part: int64 [N], the part of each entity.
        """
        part = part.to(self.device)
        source, destination = self.edge_index()
        kept = part[source] == part[destination]
        source, destination, set_ = (t[kept].cpu().numpy() for t in (source, destination, self.dst_set))
        own = np.bincount(destination[source == destination], minlength=self.num_entities)
        size = np.bincount(destination, minlength=self.num_entities) + 1 - own
        sizes = torch.from_numpy(size.astype(np.int32)).to(self.device)
        return self._of_edges(destination, source, set_, sizes, self.visit_order)

    def _of_edges(
        self, dst: np.ndarray, source: np.ndarray, set_: np.ndarray, size: Tensor, visit: Tensor
    ) -> AlignmentGraph:
        """A graph of edges of these relation sets, by (destination, source); as many entities as `size` has."""
        count = len(size)
        by_source = _lexsort3(source, set_, dst, count, self.num_relation_sets, count)
        kept = ("set_rel_ptr", "set_relation", "set_count", "rel_ptr", "rel_set", "rel_count")
        tensors = {name: getattr(self, name) for name in kept}
        tensors |= {"neighborhood_size": size, "visit_order": visit}
        made = {
            "dst_ptr": _pointers(dst, count),
            "dst_source": source.astype(np.int32),
            "dst_set": set_,
            "src_ptr": _pointers(source, count),
            "src_destination": dst[by_source].astype(np.int32),
            "src_set": set_[by_source],
            "src_edge": by_source.astype(np.int32),
            "set_ptr": _pointers(set_, self.num_relation_sets),
            "set_edge": np.argsort(set_, kind="stable").astype(np.int32),
        }
        tensors |= {name: torch.from_numpy(array).to(self.device) for name, array in made.items()}
        return AlignmentGraph(count, self.num_relations, tensors)

    def edge_index(self) -> Tensor:
        """int64 [2, E], row 0 sources, row 1 destinations, in destination order (PyTorch Geometric's layout)."""
        degree = self.dst_ptr.diff()
        destination = torch.repeat_interleave(torch.arange(self.num_entities, device=self.device), degree)
        return torch.stack([self.dst_source.long(), destination])

    def degrees(self) -> Tensor:
        """int64 [N]: edges into each entity."""
        return self.dst_ptr.diff()

    def summary(self) -> dict[str, float | int]:
        """Counts that describe the graph, JSON-ready."""
        degree = self.degrees()
        sizes = self.set_ptr.diff()
        incidences = (self._set_sizes() * sizes).sum()
        return {
            "entities": self.num_entities,
            "entities_without_triples": int((degree == 0).sum()),
            "relations": self.num_relations,
            "incidences": int(incidences),
            "edges": self.num_edges,
            "relation_sets": self.num_relation_sets,
            "singleton_sets": int((self._set_sizes() == 1).sum()),
            "mean_degree": round(self.num_edges / max(self.num_entities, 1), 2),
            "highest_degree": int(degree.max()) if self.num_entities else 0,
            "bytes": sum(t.numel() * t.element_size() for t in self.index),
        }

    def _set_sizes(self) -> Tensor:
        rows = torch.repeat_interleave(self.set_rel_ptr.diff())
        return torch.zeros(self.num_relation_sets, dtype=torch.float64, device=self.device).index_add_(
            0, rows, self.set_count.double()
        )

    def save(self, path: str | Path) -> None:
        """Write the graph to one safetensors file."""
        from safetensors.torch import save_file

        header = {
            "version": _FORMAT_VERSION,
            "num_entities": self.num_entities,
            "num_relations": self.num_relations,
        }
        tensors = {name: getattr(self, name).cpu().contiguous() for name in _TENSORS}
        save_file(tensors, str(path), metadata={"alignment_graph": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> AlignmentGraph:
        """Read a graph that `save` wrote.

        Raises:
            CheckpointError: the file is missing, cut short, or no graph of a version known here.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if "alignment_graph" not in metadata:
                    raise CheckpointError(
                        f"{path} holds no AlignmentGraph; write one with AlignmentGraph.save"
                    )
                header = json.loads(metadata["alignment_graph"])
                if header["version"] > _FORMAT_VERSION:
                    raise CheckpointError(
                        f"{path} was written by a newer version of loginmea_fast (graph format {header['version']}, "
                        f"this one reads up to {_FORMAT_VERSION}); upgrade the package"
                    )
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read as a graph: {error}; build it again from the triples"
            ) from error
        return cls(header["num_entities"], header["num_relations"], tensors)

    def __repr__(self) -> str:
        return (
            f"AlignmentGraph(num_entities={self.num_entities}, num_relations={self.num_relations}, "
            f"num_edges={self.num_edges}, num_relation_sets={self.num_relation_sets}, device={self.device})"
        )


def _check_counts(incidences: int, num_entities: int) -> None:
    for count, what in ((incidences, "typed edges, inverses included"), (num_entities, "entities")):
        if count > _INT32_MAX:
            raise InputError(
                f"a graph can have {_INT32_MAX:,} {what}, as many as 32-bit numbers count; got {count:,}: split it"
            )


def _check_ids(t: np.ndarray, limits: tuple[tuple[str, int, str], ...], what: str) -> None:
    """Check the columns of `t`, each by what it is called, its limit and the argument that sets the limit."""
    for column, (name, limit, argument) in enumerate(limits):
        wrong = np.flatnonzero((t[:, column] < 0) | (t[:, column] >= limit))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"{what} {row} has {name} {int(t[row, column])}, outside [0, {limit}); check {argument} and the ids"
            )


def _lexsort3(a: np.ndarray, b: np.ndarray, c: np.ndarray, na: int, nb: int, nc: int) -> np.ndarray:
    """Order by (a, b, c): one sort of a packed key where it fits 63 bits, three stable sorts where not."""
    if na * nb * nc < 2**63:
        return np.argsort((a * nb + b) * nc + c, kind="stable")
    return np.lexsort((c, b, a))


def _number_sets(
    edge_of: np.ndarray, relation: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number equal relation multisets once.

    Incidences are sorted by edge, then relation, so equal multisets are equal runs. Sets of one size are compared as
    rows of a matrix: exact, and as many sorts as there are sizes.

    Returns:
        set of each edge [E], and for each set one edge that has it [U]; sets are numbered by (size, contents).
    """
    size = np.diff(np.append(first, len(relation)))
    set_of = np.empty(len(first), np.int64)
    representatives: list[np.ndarray] = []
    numbered = 0
    for k in np.unique(size):
        edges = np.flatnonzero(size == k)
        rows = relation[first[edges, None] + np.arange(k)]
        representative, inverse = _distinct(rows, int(relation.max()) + 1)
        set_of[edges] = numbered + inverse
        representatives.append(edges[representative])
        numbered += len(representative)
    return set_of, np.concatenate([np.empty(0, np.int64), *representatives])


def _distinct(rows: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The first of each kind of equal rows, kinds in order, and the kind of every row; numbers are below `limit`.

    Rows that fit 63 bits are compared as one number: NumPy takes many times as long to sort rows. Where these numbers
    are few, as for sets of one relation, which most are, they are counted and not sorted.
    """
    width = rows.shape[1]
    if limit**width >= 2**63:
        _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        return first, kind.reshape(-1)
    key = rows @ (limit ** np.arange(width - 1, -1, -1, dtype=np.int64))
    if limit**width > 4 * len(rows):
        _, first, kind = np.unique(key, return_index=True, return_inverse=True)
        return first, kind
    place = np.full(limit**width, -1)
    place[key[::-1]] = np.arange(len(key))[
        ::-1
    ]  # of places assigned twice the last stays, the first of the rows
    there = place >= 0
    return place[there], (there.cumsum() - 1)[key]


def _set_contents(
    relation: np.ndarray, first: np.ndarray, representative: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pointers, distinct relations and counts of every set, read off its representative edge."""
    size = np.diff(np.append(first, len(relation)))[representative]
    set_of = np.repeat(np.arange(len(representative)), size)
    offset = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    members = relation[np.repeat(first[representative], size) + offset]
    new = np.ones(len(members), bool)
    new[1:] = (set_of[1:] != set_of[:-1]) | (members[1:] != members[:-1])
    start = np.flatnonzero(new)
    count = np.diff(np.append(start, len(members)))
    return _pointers(set_of[start], len(representative)), members[start], count


def _pointers(sorted_or_not: np.ndarray, rows: int) -> np.ndarray:
    pointers = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(sorted_or_not, minlength=rows), out=pointers[1:])
    return pointers


def _breadth_first(pointers: np.ndarray, neighbor: np.ndarray, num_entities: int) -> np.ndarray:
    """Breadth-first order over all components, each frontier expanded as one array operation.

    A component is entered at its entity of lowest degree, as Cuthill and McKee do. The walk ends after some thousands
    of steps and the rest is appended by smallest neighbour: a crowd of components of two or three entities would
    otherwise cost a Python step each.
    """
    degree = np.diff(pointers)
    visited = np.zeros(num_entities, bool)
    by_degree = np.argsort(degree, kind="stable")
    by_degree = by_degree[degree[by_degree] > 0]
    parts: list[np.ndarray] = []
    steps, next_start = 0, 0
    while steps < 2000:
        while next_start < len(by_degree) and visited[by_degree[next_start]]:
            next_start += 1
        if next_start == len(by_degree):
            break
        frontier = by_degree[next_start : next_start + 1]
        visited[frontier] = True
        while len(frontier):
            parts.append(frontier)
            steps += 1
            count = degree[frontier]
            offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            reached = neighbor[np.repeat(pointers[frontier], count) + offset]
            reached = reached[~visited[reached]]
            unique, where = np.unique(reached, return_index=True)
            frontier = reached[np.sort(where)] if len(unique) else unique
            visited[frontier] = True
    rest = np.flatnonzero(~visited)
    with_edges = rest[degree[rest] > 0]
    key = np.minimum(with_edges, neighbor[pointers[with_edges]])
    parts += [with_edges[np.argsort(key, kind="stable")], rest[degree[rest] == 0]]
    return np.concatenate(parts)
