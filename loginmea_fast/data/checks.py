"""Checks that readers share: every one names the file, the line and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loginmea_fast.errors import DataError

__all__ = ["check_membership", "check_parts", "repeated_links"]


def check_membership(path: Path, column: np.ndarray, side: np.ndarray, graph: int, lists: str) -> None:
    """Every id of a column must be an entity of one graph.

    Args:
        path: the file the column was read from, line n = position n - 1.
        column: int64 ids.
        side: int8 [N], 1 or 2 = the graph that an entity belongs to.
        graph: 1 or 2, the graph that these ids must belong to.
        lists: what lists the entities, for the error, for example "ent_ids_1".
    """
    beyond = column >= len(side)
    wrong = beyond | (side[np.where(beyond, 0, column)] != graph)
    if not wrong.any():
        return
    position = int(wrong.argmax())
    entity = int(column[position])
    why = (
        f"is beyond the entity list, which has {len(side):,} entities"
        if beyond[position]
        else f"belongs to graph {3 - graph}, not to graph {graph}"
    )
    raise DataError(
        f"{path}, line {position + 1}: entity {entity} {why}; add it to {lists} or correct the line"
    )


def repeated_links(path: Path, links: np.ndarray, tolerated: float, show: list[str]) -> tuple[str, ...]:
    """Links whose entity has another link already: a note, or a DataError where there are more than are tolerated.

    A link that is the same as an earlier one is none of them: `AlignmentPair` keeps it once.

    Args:
        path: the file the links were read from.
        links: int64 [P, 2].
        tolerated: share of links that may be such.
        show: [N] what to call an entity.

    Returns:
        Notes, none or one.
    """
    distinct = np.sort(np.unique(links, axis=0, return_index=True)[1])
    again = np.zeros(len(links), dtype=bool)
    for column in links[distinct].T:
        first = np.unique(column, return_index=True)[1]
        seen = np.ones(len(distinct), dtype=bool)
        seen[first] = False
        again[distinct[seen]] = True
    count = int(again.sum())
    if count == 0:
        return ()
    line = int(again.argmax())
    left, right = links[line]
    earlier = int(((links[:line, 0] == left) | (links[:line, 1] == right)).argmax())
    entity = left if links[earlier, 0] == left else right
    where = f"line {line + 1}: entity {entity} ({show[entity]}) is linked already on line {earlier + 1}"
    if count <= tolerated * len(links):
        return (f"{path.name}, {where}; {count} of {len(links):,} links are such, all are kept",)
    raise DataError(f"{path}, {where}; keep one of the two links (tolerated: {tolerated:.1%} of the links)")


def check_parts(
    paths: list[Path], parts: list[np.ndarray], links: np.ndarray, num_entities: int
) -> tuple[str, ...]:
    """An official split must consist of known links, each in one part; links left out are a note."""
    key = links[:, 0] * num_entities + links[:, 1]
    used = np.empty(0, dtype=np.int64)
    for path, part in zip(paths, parts, strict=True):
        own = part[:, 0] * num_entities + part[:, 1]
        unknown, twice = ~np.isin(own, key), np.isin(own, used)
        if (unknown | twice).any():
            line = int((unknown | twice).argmax())
            why = "is not among all links" if unknown[line] else "is in another part of the split too"
            raise DataError(
                f"{path}, line {line + 1}: link {part[line].tolist()} {why}; correct or delete the line"
            )
        used = np.concatenate([used, own])
    unused = len(np.setdiff1d(key, used))
    return (f"the official split leaves out {unused:,} of {len(links):,} links",) if unused else ()
