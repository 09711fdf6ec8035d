"""AlignmentPair: two knowledge graphs in one id space, the links between them, and features of their entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from loginmea_fast.data.split import Split, as_ids, divide, first_of_each, is_among, take_valid
from loginmea_fast.data.tables import AttributeTable, Feature, ValueTable
from loginmea_fast.data.textfile import shorten
from loginmea_fast.errors import DataError

if TYPE_CHECKING:
    from loginmea_fast.graph import AlignmentGraph

__all__ = ["AlignmentPair"]

FIELD_SEED_RATIO = 0.3  # what DBP15K is usually trained with


@dataclass(frozen=True)
class AlignmentPair:
    """Two knowledge graphs whose entities share one id space, 0 to N - 1.

    Ids may be given as tensors or numpy arrays of whole numbers; they are kept as int64 tensors.

    Ids are those of the files, where these are 0 to N - 1: DBP15K interleaves the ranges of its two graphs, so
    ``left_entities`` and ``right_entities`` say which id belongs to which graph.

    Attributes:
        name: what to call it, usually the directory.
        uris: [N] identifiers as they stand in the files, position = entity id; those of a graph are distinct.
        names: [N] names for display, position = entity id.
        left_entities: [n1] int64 ids of graph 1, in file order.
        right_entities: [n2] int64 ids of graph 2, in file order.
        triples: [T, 3] int64 (head, relation, tail), those of graph 1 first.
        num_left_triples: how many of the triples belong to graph 1.
        num_relations: R; relation ids are below it. An id used by both graphs is one relation, as the field has it.
        links: [P, 2] int64, pairs (left entity, right entity) known to be the same thing. An entity may have several
            (1-to-n, n-to-m); one that is given twice is kept once, which a note says.
        official_split: the split that came with the data, or None.
        relation_names: [R] names of relations, or None where the files give numbers only.
        attributes: attribute types of entities, or None.
        values: attributes with their values, or None: where a directory has them they are read if the modality
            ``value`` is asked for.
        words: words of each entity's (translated) name by entity id, or None.
        has_image: [N] bool, which entities have a picture according to the data, or None where they do not say.
        file_ids: [N] int64, the ids that the files give the entities, or None where they give none or ours.
        numbering: how entities came by their ids where these are not those of the files, for a note on vectors that
            go by them; None where they are.
        features: modality -> Feature, in the order in which a model gets them.
        notes: quirks of the files that were tolerated, one sentence each.
        rejected: [R, 2] int64, pairs (left entity, right entity) known not to be the same thing: bootstrapping never
            proposes them. Directories of data have none.
    """

    name: str
    uris: list[str]
    names: list[str]
    left_entities: Tensor
    right_entities: Tensor
    triples: Tensor
    num_left_triples: int
    num_relations: int
    links: Tensor
    official_split: Split | None = None
    relation_names: list[str] | None = None
    attributes: AttributeTable | None = None
    values: ValueTable | None = None
    words: Mapping[int, list[str]] | None = None
    has_image: Tensor | None = None
    file_ids: Tensor | None = None
    numbering: str | None = None
    features: dict[str, Feature] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rejected: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.int64))

    def __post_init__(self) -> None:
        for name, columns in (
            ("left_entities", None),
            ("right_entities", None),
            ("triples", 3),
            ("links", 2),
            ("rejected", 2),
        ):
            object.__setattr__(self, name, as_ids(name, getattr(self, name), columns))
        count = self.num_entities
        if len(self.uris) != count or len(self.names) != count:
            raise DataError(
                f"{count} entities need as many uris and names, got {len(self.uris)} and {len(self.names)}"
            )
        ids = torch.cat([self.left_entities, self.right_entities]).sort().values
        if not torch.equal(ids, torch.arange(count)):
            raise DataError(
                "the entity ids of both graphs together must be 0 to N - 1, each once; number them so"
            )
        self._check_identifiers()
        for name, values, limit in (
            ("triples", self.triples[:, ::2], count),
            ("triples", self.triples[:, 1], self.num_relations),
            ("links", self.links, count),
            ("rejected", self.rejected, count),
        ):
            if values.numel() and (int(values.min()) < 0 or int(values.max()) >= limit):
                raise DataError(f"{name} name an id outside 0 to {limit - 1}; check the id lists")
        is_right = torch.zeros(count, dtype=torch.bool)
        is_right[self.right_entities] = True
        self._check_triples(is_right)
        self._check_links(is_right)
        self._check_tables(count)

    def _check_identifiers(self) -> None:
        """In one graph an identifier is one entity's: what is said by it could else mean either."""
        for graph, entities in enumerate((self.left_entities, self.right_entities), start=1):
            own = [self.uris[entity] for entity in entities.tolist()]
            if len(set(own)) == len(own):
                continue
            first: dict[str, int] = {}
            for entity, uri in zip(entities.tolist(), own, strict=True):
                if (earlier := first.setdefault(uri, entity)) != entity:
                    raise DataError(
                        f"entities {earlier} and {entity} of graph {graph} are both called {shorten(uri)}; "
                        "make them one, or give each an identifier of its own"
                    )

    def _check_triples(self, is_right: Tensor) -> None:
        """Every triple inside one graph, those of graph 1 first."""
        head, tail = is_right[self.triples[:, 0]], is_right[self.triples[:, 2]]
        across = (head != tail).nonzero()
        if len(across):
            row = int(across[0, 0])
            raise DataError(
                f"triple {row}, {self.triples[row].tolist()}, joins entities of both graphs; a triple belongs to one, "
                "give what they share as links"
            )
        own = int((~head).sum())
        number = self.num_left_triples
        if number != own or bool(head[:own].any()):
            raise DataError(
                f"num_left_triples is {number!r}, but {own:,} of the {len(head):,} triples belong to graph 1"
                + ("" if number != own else ", and they do not come first")
                + "; put the triples of graph 1 first and give their number"
            )

    def _check_links(self, is_right: Tensor) -> None:
        """Every link from graph 1 to graph 2; each is kept once, which a note says; the official split is of them."""
        for name, pairs in (("link", self.links), ("rejected pair", self.rejected)):
            wrong = (is_right[pairs[:, 0]] | ~is_right[pairs[:, 1]]).nonzero()
            if len(wrong):
                row = int(wrong[0, 0])
                left, right = pairs[row].tolist()
                graphs = [1 + int(is_right[left]), 1 + int(is_right[right])]
                remedy = "swap its columns" if graphs == [2, 1] else "correct or delete it"
                raise DataError(
                    f"{name} {row}, {[left, right]}, leads from graph {graphs[0]} to graph {graphs[1]}; "
                    f"a {name} leads from an entity of graph 1 to one of graph 2, {remedy}"
                )
        first = first_of_each(self.links)
        if not bool(first.all()):
            again = self.links[~first]
            note = (
                f"{len(again):,} of {len(first):,} links repeat another, the first is {again[0].tolist()}; "
                "each is kept once"
            )
            object.__setattr__(self, "links", self.links[first])
            object.__setattr__(self, "notes", (*self.notes, note))
        if self.official_split is None:
            return
        for name, part in vars(self.official_split).items():
            unknown = part[~is_among(part, self.links)]
            if len(unknown):
                raise DataError(
                    f"link {unknown[0].tolist()} of the official split's {name} part is not among the links; "
                    "add it to them or take it out of the split"
                )

    def _check_tables(self, count: int) -> None:
        """What says something of every entity or relation says it of as many as there are."""
        if self.relation_names is not None and len(self.relation_names) != self.num_relations:
            raise DataError(
                f"{self.num_relations} relations need as many relation_names, got {len(self.relation_names)}"
            )
        if self.has_image is not None:
            mask = torch.as_tensor(self.has_image)
            if mask.shape != (count,) or mask.dtype != torch.bool:
                raise DataError(
                    f"has_image must be bool [{count}], one flag an entity, not {mask.dtype} {list(mask.shape)}"
                )
            object.__setattr__(self, "has_image", mask)
        if (types := self.attributes) is not None:
            _check_occurrences("attributes", types.entity, types.kind, len(types.types), count)
        if (table := self.values) is not None:
            _check_occurrences("values", table.entity, table.kind, len(table.kinds), count)
            if len(table.texts) != len(table.entity):
                raise DataError(
                    f"values has {len(table.texts):,} texts for {len(table.entity):,} occurrences; one each is needed"
                )
        for modality, feature in self.features.items():
            if feature.values.shape[0] != count:
                raise DataError(
                    f"feature {modality!r} has {feature.values.shape[0]} rows, "
                    f"the two graphs have {count} entities; one row an entity is needed"
                )

    @classmethod
    def from_labeled_triples(
        cls,
        left: Any,
        right: Any,
        seeds: Any = None,
        *,
        valid: Any = None,
        test: Any = None,
        attributes: tuple[Any, Any] = (None, None),
        entities: tuple[Any, Any] = (None, None),
        modalities: Sequence[str] | str | None = None,
        vectors: Mapping[str, Any] | None = None,
        name_attributes: Sequence[str] | str = (),
        max_repeated_links: float = 1.0,
        name: str | None = None,
        columns: Sequence[str | int] | None = None,
        bags: Literal["types", "counts"] | None = None,
        bag_size: int | None = None,
        name_ngrams: tuple[int, ...] = (2, 3),
        name_buckets: int | None = 4096,
    ) -> AlignmentPair:
        """A pair from people's own graphs, whose entities and relations are told by labels.

        A graph is a table of (head, relation, tail): tuples or lists, a numpy array, a pandas, polars or pyarrow table,
        or a mapping from names to columns. Columns are found by name (head, relation, tail; h, r, t; subject,
        predicate, object; source, type, target), else they are the first three. It may also be a networkx graph (nodes
        are entities, their data attributes; the relation is a datum of the edge or its key), or PyTorch Geometric's
        HeteroData (the middle of an edge type is the relation, "person:0" an entity unless the store has `names` or
        `uris`) or Data (`edge_type`, named by `relation_names`). None is a graph of attributes alone.

        Entities are numbered in order of first appearance: those listed in `entities`, then the heads and tails of
        triples row by row, then those of attributes; graph 1 before graph 2. Labels are strings; numbers become their
        decimal spelling. A relation or attribute that both graphs name is one.

        Args:
            left: graph 1.
            right: graph 2.
            seeds: known pairs (left label, right label), a table in any of these kinds, or None. All are training links
                of the pair's official split, of which `split` holds back a share for validation.
            valid: known pairs to select a model by, which are no seeds.
            test: known pairs to measure by, which are no seeds.
            attributes: (entity, attribute, value) of each graph, or None. An empty value says that the entity has the
                attribute. Values of rdfs:label, skos:prefLabel, schema:name, foaf:name, dc:title, `label` and `name`
                are names; of several languages the one that names most entities of both graphs comes first.
            entities: labels of each graph, for an order of one's own and for entities that nothing else names.
            modalities: features to build, as in :func:`loginmea_fast.data.load`; None takes those with vectors, then
                `relation`, `attribute`, `value` and `name` as far as there is something to build them of.
            vectors: modality -> a mapping from labels to arrays, or a file, or several; see
                :func:`loginmea_fast.data.vectors.vector_feature`.
            name_attributes: further attributes whose values are names, which come before the known ones.
            max_repeated_links: share of links whose entity has another link that is tolerated, with a note; 0 makes
                every one an error.
            name: what to call the pair.
            columns: names or positions of head, relation and tail in both tables, where they are not to be guessed.
            bags: as in :func:`loginmea_fast.data.load`.
            bag_size: as there.
            name_ngrams: lengths of the character n-grams of names.
            name_buckets: columns to hash n-grams and words into; None gives each its own column.

        Returns:
            The pair, with features. `notes` says what was guessed and left out.

        Raises:
            DataError: a table that cannot be read, a label that is missing, a graph without entities, the same file on
                both sides, or links of which none names entities of both graphs.
        """
        from loginmea_fast.data.joining import join, usual_modalities
        from loginmea_fast.data.labeled import as_graph, as_links
        from loginmea_fast.data.modalities import build_features, check_modalities
        from loginmea_fast.data.vectors import vector_sources

        for what, given in (("attributes", attributes), ("entities", entities)):
            if not isinstance(given, tuple | list) or len(given) != 2:
                raise DataError(
                    f"{what} must be a pair, those of the left and those of the right graph (None for none), not a "
                    f"{type(given).__name__}"
                )
        sources = vector_sources(vectors)
        asked = modalities.split(",") if isinstance(modalities, str) else modalities
        wanted = None if asked is None else [modality.strip() for modality in asked if modality.strip()]
        check_modalities("the pair", wanted, sources, sources)
        graphs = [
            as_graph(source, attributes[side], entities[side], ("left", "right")[side], columns)
            for side, source in enumerate((left, right))
        ]
        links = {
            part: as_links(given, called)
            for part, given, called in (
                ("train", seeds, "seeds"),
                ("valid", valid, "valid"),
                ("test", test, "test"),
            )
        }
        names = (name_attributes,) if isinstance(name_attributes, str) else tuple(name_attributes)
        fields = join(
            graphs[0],
            graphs[1],
            links,
            name_attributes=names,
            max_repeated_links=max_repeated_links,
            name=name,
        )
        pair = cls(**fields)
        if wanted is None:
            wanted = [*sources, *(modality for modality in usual_modalities(pair) if modality not in sources)]
        features, notes = build_features(
            pair,
            wanted,
            sources,
            where=pair.name,
            bags=bags,
            bag_size=bag_size,
            name_ngrams=name_ngrams,
            name_buckets=name_buckets,
        )
        return replace(pair, features=features, notes=pair.notes + notes)

    @property
    def num_entities(self) -> int:
        """N, entities of both graphs together."""
        return len(self.left_entities) + len(self.right_entities)

    @property
    def pictures(self) -> dict[int, Path]:
        """Entity id -> its picture, of those that a modality was made of."""
        return {entity: file for own in self.features.values() for entity, file in own.pictures.items()}

    @property
    def feature_dims(self) -> dict[str, int]:
        """Width of each modality, what a model is built from."""
        return {modality: feature.width for modality, feature in self.features.items()}

    def graph(self) -> AlignmentGraph:
        """Both graphs' triples as one AlignmentGraph, on the CPU; without triples it has no edges and one relation."""
        from loginmea_fast.graph import AlignmentGraph

        if not len(self.triples):
            none = torch.empty(0, dtype=torch.int64)
            return AlignmentGraph.from_edges(torch.stack([none, none]), none, self.num_entities, 2)
        return AlignmentGraph.from_triples(self.triples, self.num_entities, self.num_relations)

    def degrees(self) -> Tensor:
        """int64 [N]: distinct neighbours of each entity, itself one where it has a loop; as in `graph()`."""
        ends = torch.cat([self.triples[:, ::2], self.triples[:, ::2].flip(1)])
        neighbours = (ends[:, 0] * self.num_entities + ends[:, 1]).unique()
        return torch.bincount(neighbours // max(self.num_entities, 1), minlength=self.num_entities)

    def with_features(self, features: Mapping[str, Feature]) -> AlignmentPair:
        """The same pair with these features in place of its own."""
        return replace(self, features=dict(features))

    def split(self, seed_ratio: float | None = None, valid_ratio: float = 0.05, seed: int = 0) -> Split:
        """Divides the links into training, validation and test links.

        Links that share an entity stay together, so that no entity stands on two sides; the shares are met as nearly
        as that allows.

        Args:
            seed_ratio: share of all links that are seeds (training plus validation), in (0, 1]; 1 leaves nothing to
                test. None takes the official split where there is one, else 0.3, the field's usual share.
            valid_ratio: share of the seeds held back for validation, in [0, 1); of an official split it is taken only
                if that has no validation links of its own.
            seed: of the shuffle; the same seed gives the same split on every machine.

        Returns:
            The split; its three parts together are the links, each exactly once.

        Raises:
            DataError: a share outside its range, no training link left, or links that all hang together.
        """
        for name, share in (("seed_ratio", seed_ratio), ("valid_ratio", valid_ratio)):
            if share is not None and not isinstance(share, (int, float)):
                raise DataError(f"{name} must be a number; got {share!r}")
        if not 0 <= valid_ratio < 1:
            raise DataError(
                f"the validation share valid_ratio is {valid_ratio}, it must be in [0, 1); 0.05 is usual"
            )
        if seed_ratio is None and self.official_split is not None:
            official = self.official_split
            if len(official.valid) or valid_ratio == 0:
                return official
            return Split(*take_valid(official.train, valid_ratio, seed), official.test)
        if not len(self.links):
            raise DataError("the pair has no known link to train on; give some as seeds, a few dozen will do")
        seed_ratio = FIELD_SEED_RATIO if seed_ratio is None else seed_ratio
        if not 0 < seed_ratio <= 1:
            raise DataError(
                f"the share seed_ratio is {seed_ratio}, it must be above 0 and at most 1; 0.3 is usual"
            )
        return divide(self.links, seed_ratio, valid_ratio, seed)

    def summary(self) -> dict[str, Any]:
        """Counts, modalities with their coverage, and notes, as plain values that JSON can hold."""
        left = torch.zeros(self.num_entities, dtype=torch.bool)
        left[self.left_entities] = True
        return {
            "name": self.name,
            "entities": [len(self.left_entities), len(self.right_entities)],
            "relations": self.num_relations,
            "triples": [self.num_left_triples, len(self.triples) - self.num_left_triples],
            "links": len(self.links),
            "attribute_types": len(self.attributes.types) if self.attributes is not None else 0,
            "official_split": None
            if self.official_split is None
            else [
                len(part)
                for part in (self.official_split.train, self.official_split.valid, self.official_split.test)
            ],
            "modalities": {
                modality: {
                    "width": feature.width,
                    "storage": "sparse CSR"
                    if feature.is_sparse
                    else str(feature.values.dtype).removeprefix("torch."),
                    "present": [int((feature.present & left).sum()), int((feature.present & ~left).sum())],
                    "description": feature.description,
                }
                for modality, feature in self.features.items()
            },
            "notes": list(self.notes),
        }

    def describe(self) -> str:
        """The summary as a few lines of text."""
        facts = self.summary()
        (n1, n2), (t1, t2) = facts["entities"], facts["triples"]
        lines = [
            f"{facts['name']}: {n1:,} + {n2:,} entities, {t1:,} + {t2:,} triples, "
            f"{facts['relations']:,} relations, {facts['links']:,} links"
        ]
        if facts["official_split"] is not None:
            lines.append(
                "official split: {:,} training, {:,} validation, {:,} test links".format(
                    *facts["official_split"]
                )
            )
        for modality, entry in facts["modalities"].items():
            has = [
                f"{100 * part / max(whole, 1):.1f} %"
                for part, whole in zip(entry["present"], (n1, n2), strict=True)
            ]
            lines.append(
                f"{modality}: width {entry['width']:,}, {entry['storage']}, "
                f"present for {has[0]} + {has[1]} of the entities; {entry['description']}"
            )
        lines += [f"note: {note}" for note in facts["notes"]]
        return "\n".join(lines)


def _check_occurrences(name: str, entity: Tensor, kind: Tensor, num_kinds: int, num_entities: int) -> None:
    for column, ids, limit in (("entity", entity, num_entities), ("kind", kind, num_kinds)):
        if ids.shape != entity.shape or (len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit):
            raise DataError(
                f"{name}.{column} must hold one id from 0 to {limit - 1} for each of {len(entity):,} occurrences; "
                "check the table"
            )
