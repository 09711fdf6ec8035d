"""Which entities a ranking of links forms rows of, and where the partners stand among them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.split import as_ids, first_of_each
from loginmea_fast.errors import ConfigError, InputError

__all__ = ["PROTOCOLS", "LinkRows", "check_candidates", "check_links", "link_rows"]

PROTOCOLS = ("test", "all")


@dataclass(frozen=True)
class LinkRows:
    """Entities to embed for ranking links; every entity once.

    Attributes:
        left: int64 [N] entities of graph 1.
        right: int64 [M] entities of graph 2.
        pairs: int64 [B, 2], where the entities of each link stand in `left` and `right`. As many links as can be stand
            at the same place on both sides, which is what `ops.alignment_ranks` is fastest at.
    """

    left: Tensor
    right: Tensor
    pairs: Tensor


def link_rows(
    links: Tensor, left_entities: Tensor | None = None, right_entities: Tensor | None = None
) -> LinkRows:
    """Rows of `links` [B, 2], and of further candidates where there are any."""
    lead = torch.ones(len(links), dtype=torch.bool)
    for column in links.unbind(1):
        lead &= first_of_each(column[:, None])
    sides, places = [], []
    for column, further in zip(links.unbind(1), (left_entities, right_entities), strict=True):
        rest = column[~lead] if further is None else torch.cat([column[~lead], further])
        rest = rest[first_of_each(rest[:, None]) & ~torch.isin(rest, column[lead])]
        rows = torch.cat([column[lead], rest])
        order = rows.argsort()
        sides.append(rows)
        places.append(order[torch.searchsorted(rows[order], column.contiguous())])
    return LinkRows(sides[0], sides[1], torch.stack(places, 1))


def check_candidates(candidates: str) -> None:
    """Raise `ConfigError` unless `candidates` is a protocol."""
    if candidates not in PROTOCOLS:
        raise ConfigError(f"candidates must be one of {', '.join(PROTOCOLS)}; got {candidates!r}")


def check_links(pair: AlignmentPair, links: object) -> Tensor:
    """Links as int64 [B, 2] on the CPU, from a tensor, an array or a list.

    Raises:
        InputError: another shape or type, an id that no entity has, a link that does not lead from graph 1 to graph 2,
            or one that stands twice.
    """
    checked = as_ids("links", links, 2)
    for side, entities in enumerate((pair.left_entities, pair.right_entities)):
        wrong = (~torch.isin(checked[:, side], entities)).nonzero()
        if len(wrong):
            row = int(wrong[0, 0])
            entity = int(checked[row, side])
            where = (
                f"belongs to graph {2 - side}"
                if 0 <= entity < pair.num_entities
                else f"is none: ids are 0 to {pair.num_entities - 1}"
            )
            raise InputError(
                f"link {row}, {checked[row].tolist()}, must have an entity of graph {side + 1} in column {side}, and "
                f"{entity} {where}; links are (entity of graph 1, entity of graph 2)"
            )
    first = first_of_each(checked)
    if not bool(first.all()):
        link = checked[int((~first).nonzero()[0, 0])].tolist()
        raise InputError(f"the link {link} stands twice; give each link once")
    return checked
