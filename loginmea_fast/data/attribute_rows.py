"""Attributes and their values as rows, as every layout writes them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from torch import Tensor

from loginmea_fast.data.identifiers import plain_spelling
from loginmea_fast.data.rdf_terms import quoted
from loginmea_fast.data.tables import AttributeTable, ValueTable

__all__ = ["attribute_rows", "one_line", "value_lines"]


def attribute_rows(
    types: AttributeTable | None, table: ValueTable | None, entities: Sequence[int]
) -> Iterator[tuple[int, str, str]]:
    """Entity, attribute and value of some entities: each occurrence of a type, with a value if there is one for it.

    Types and values may come from two files; values of which no type is left come last.
    """
    own = set(entities)
    values: defaultdict[tuple[int, str], deque[tuple[str, str]]] = defaultdict(deque)
    if table is not None:
        spelt = [plain_spelling(kind) for kind in table.kinds]
        for entity, kind, text in zip(table.entity.tolist(), table.kind.tolist(), table.texts, strict=True):
            if entity in own:
                values[entity, spelt[kind]].append((table.kinds[kind], text))
    if types is not None:
        spelt = [plain_spelling(kind) for kind in types.types]
        for entity, kind in zip(types.entity.tolist(), types.kind.tolist(), strict=True):
            if entity in own:
                said = values.get((entity, spelt[kind]))
                yield entity, types.types[kind], said.popleft()[1] if said else ""
    for (entity, _), said in values.items():
        for name, text in said:
            yield entity, name, text


def value_lines(table: ValueTable, entities: Tensor, uris: list[str]) -> list[str]:
    """Lines of uri, attribute, value for some entities."""
    own = set(entities.tolist())
    rows = zip(table.entity.tolist(), table.kind.tolist(), table.texts, strict=True)
    return [
        f"{uris[entity]}\t{table.kinds[kind]}\t{one_line(text)}"
        for entity, kind, text in rows
        if entity in own
    ]


def one_line(value: str) -> str:
    """A value for a line of tab-separated fields: one with tabs or line breaks is written as an RDF literal."""
    return quoted(value) if any(character in value for character in "\t\n\r") else value
