"""AlignmentPair: two knowledge graphs in one id space, the links between them, and features of their entities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loginmea_fast.data.split import Split, as_ids, divide, first_of_each, take_valid
from loginmea_fast.errors import DataError

if TYPE_CHECKING:
    from loginmea_fast.graph import AlignmentGraph

__all__ = ["AlignmentPair", "AttributeTable", "Feature", "Split"]

FIELD_SEED_RATIO = 0.3  # what DBP15K is usually trained with


@dataclass(frozen=True)
class Feature:
    """One modality: a row of numbers for every entity of both graphs.

    Attributes:
        values: [N, width] floating point, dense (float32, float16, bfloat16 or float64) or sparse CSR. A sparse
            feature is never made dense, a half-precision one never widened.
        present: [N] bool, True where the entity has this modality itself. Elsewhere the row of a dense feature was
            filled in (see ``description``), the row of a sparse one is empty.
        description: one line for summaries: what the numbers are and how gaps were filled.
    """

    values: Tensor
    present: Tensor
    description: str = ""

    def __post_init__(self) -> None:
        values, present = self.values, self.present
        if values.ndim != 2 or not values.is_floating_point():
            raise DataError(
                f"a feature must be a floating-point matrix [entities, width], "
                f"this one has shape {list(values.shape)} and dtype {values.dtype}; convert it first"
            )
        if values.layout not in (torch.strided, torch.sparse_csr):
            raise DataError(
                f"a feature must be dense or sparse CSR, not {values.layout}; call .to_sparse_csr() on it"
            )
        if present.shape != (values.shape[0],) or present.dtype != torch.bool:
            raise DataError(
                f"a presence mask must be bool [{values.shape[0]}], one flag for each row of its feature, "
                f"this one is {present.dtype} {list(present.shape)}"
            )
        row = first_nonfinite_row(values)
        if row is not None:
            raise DataError(
                f"the feature row of entity {row} holds NaN or infinity; repair it or leave the entity out"
            )

    @property
    def width(self) -> int:
        """Columns, the ``d_m`` that a projection of this modality takes in."""
        return self.values.shape[1]

    @property
    def is_sparse(self) -> bool:
        """Whether ``values`` is sparse CSR."""
        return self.values.layout == torch.sparse_csr

    @property
    def num_present(self) -> int:
        """How many entities have this modality themselves."""
        return int(self.present.sum())

    def to(self, device: torch.device | str) -> Feature:
        """The same feature on another device."""
        return replace(self, values=self.values.to(device), present=self.present.to(device))


@dataclass(frozen=True)
class AttributeTable:
    """Which entity has which attribute type: one row an occurrence, in file order, repeats kept.

    Attributes:
        entity: [A] int64 entity ids.
        kind: [A] int64 index into ``types``.
        types: the attribute types, in order of first occurrence.
    """

    entity: Tensor
    kind: Tensor
    types: list[str]


@dataclass(frozen=True)
class AlignmentPair:
    """Two knowledge graphs whose entities share one id space, 0 to N - 1.

    Ids may be given as tensors or numpy arrays of whole numbers; they are kept as int64 tensors.

    Ids are those of the files, where these are 0 to N - 1: DBP15K interleaves the ranges of its two graphs, so
    ``left_entities`` and ``right_entities`` say which id belongs to which graph.

    Attributes:
        name: what to call it, usually the directory.
        uris: [N] identifiers as they stand in the files, position = entity id.
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
        words: words of each entity's (translated) name by entity id, or None.
        has_image: [N] bool, which entities have a picture according to the data, or None where they do not say.
        file_ids: [N] int64, the ids that the files give the entities, or None where they give none or ours.
        features: modality -> Feature, in the order in which a model gets them.
        notes: quirks of the files that were tolerated, one sentence each.
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
    words: Mapping[int, list[str]] | None = None
    has_image: Tensor | None = None
    file_ids: Tensor | None = None
    features: dict[str, Feature] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, columns in (
            ("left_entities", None),
            ("right_entities", None),
            ("triples", 3),
            ("links", 2),
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
        for name, values, limit in (
            ("triples", self.triples[:, ::2], count),
            ("triples", self.triples[:, 1], self.num_relations),
            ("links", self.links, count),
        ):
            if values.numel() and (int(values.min()) < 0 or int(values.max()) >= limit):
                raise DataError(f"{name} name an id outside 0 to {limit - 1}; check the id lists")
        is_right = torch.zeros(count, dtype=torch.bool)
        is_right[self.right_entities] = True
        self._check_triples(is_right)
        self._check_links(is_right)
        self._check_tables(count)

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
        wrong = (is_right[self.links[:, 0]] | ~is_right[self.links[:, 1]]).nonzero()
        if len(wrong):
            row = int(wrong[0, 0])
            left, right = self.links[row].tolist()
            graphs = [1 + int(is_right[left]), 1 + int(is_right[right])]
            remedy = "swap its columns" if graphs == [2, 1] else "correct or delete it"
            raise DataError(
                f"link {row}, {[left, right]}, leads from graph {graphs[0]} to graph {graphs[1]}; "
                f"a link leads from an entity of graph 1 to one of graph 2, {remedy}"
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
        size = self.num_entities
        known = self.links[:, 0] * size + self.links[:, 1]
        for name, part in vars(self.official_split).items():
            unknown = part[~torch.isin(part[:, 0] * size + part[:, 1], known)]
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
        if self.attributes is not None:
            table = self.attributes
            for name, ids, limit in (
                ("entity", table.entity, count),
                ("kind", table.kind, len(table.types)),
            ):
                if ids.shape != table.entity.shape or (
                    len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit
                ):
                    raise DataError(
                        f"attributes.{name} must hold one id from 0 to {limit - 1} for each of "
                        f"{len(table.entity):,} occurrences; check the table"
                    )
        for modality, feature in self.features.items():
            if feature.values.shape[0] != count:
                raise DataError(
                    f"feature {modality!r} has {feature.values.shape[0]} rows, "
                    f"the two graphs have {count} entities; one row an entity is needed"
                )

    @property
    def num_entities(self) -> int:
        """N, entities of both graphs together."""
        return len(self.left_entities) + len(self.right_entities)

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


def first_nonfinite_row(values: Tensor) -> int | None:
    """Row of the first NaN or infinity, or None; looks at a block of rows at a time to stay frugal."""
    if values.layout == torch.sparse_csr:
        bad = (~values.values().isfinite()).nonzero()
        if not len(bad):
            return None
        return int(torch.searchsorted(values.crow_indices(), bad[0, 0], right=True)) - 1
    block = max(1, (1 << 22) // max(values.shape[1], 1))
    for start in range(0, values.shape[0], block):
        rows = values[start : start + block].isfinite().all(dim=1)
        if not bool(rows.all()):
            return start + int((~rows).nonzero()[0, 0])
    return None
