"""The approximate first stage of alignment_search: faiss proposes candidates, which are then scored in float64.

What is returned has its exact score; what faiss did not propose is missed. A warning is logged with the share that
was found of the true nearest neighbours of a sample of rows, so that nobody mistakes the result for the exact one.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.log import log
from loginmea_fast.ops._search_exact import Best, Scoring, Side, pair_cosines
from loginmea_fast.reference import alignment_search as reference
from loginmea_fast.reference.alignment_search import Tick

PROPOSALS = 10  # at least, for each row
CELLS = 4  # of the index: this times the square root of its rows
TRAINING_ROWS = 64  # for each cell
LEAST_PROBED, PROBED = 8, 1 / 16  # cells, of the cells
SAMPLE = 256  # rows on which recall is measured, each against all candidates
BLOCK = 4096


def unavailable(rows: Tensor) -> str | None:
    """Why faiss cannot serve, or None."""
    if importlib.util.find_spec("faiss") is None:
        return "faiss is not installed; pip install faiss-cpu"
    if rows.device.type != "cpu":
        return f"it needs rows on cpu, these are on {rows.device}"
    return None


def side(parts: list[Tensor]) -> Side:
    """Norms of matrices; NaN where a row is not finite."""
    blocks = []
    for part in parts:
        for start, stop in reference.spans(len(part), BLOCK):
            norm = part[start:stop].to(torch.float64).norm(dim=1)
            blocks.append(torch.where(norm > 0, 1 / norm, 0).where(norm.isfinite(), torch.nan))
    inverse = torch.cat(blocks)
    return Side(parts, inverse, torch.zeros(len(inverse)))


def alignment_topk(queries: Side, keys: Side, k: int, csls_k: int, tick: Tick) -> Best:
    """Scores float64 [Q, k] and index int64 [Q, k]."""
    count = max(2 * k, csls_k, PROPOSALS)
    index, cosines = _propose("alignment_topk", queries, keys, count, tick)
    scoring = _scoring(queries, keys, cosines, None, csls_k)
    return _best(queries, keys, index, cosines, scoring, k)


def mutual_nearest(left: Side, right: Side, csls_k: int, tick: Tick) -> Tensor:
    """Pairs [P, 2]."""
    count = max(csls_k, PROPOSALS)
    to_right = _propose("mutual_nearest", left, right, count, tick)
    to_left = _propose("mutual_nearest", right, left, count, lambda done: None)
    scoring = _scoring(left, right, to_right[1], to_left[1], csls_k)
    nearest = _best(left, right, *to_right, scoring, 1)[1][:, 0]
    return reference.mutual(nearest, _best(right, left, *to_left, scoring.swapped(), 1)[1][:, 0])


def _scoring(left: Side, right: Side, to_right: Tensor, to_left: Tensor | None, csls_k: int) -> Scoring:
    """Means over what was proposed."""
    if csls_k == 0:
        return Scoring(1.0, *(torch.zeros(len(rows), dtype=torch.float64) for rows in (left, right)))
    if to_left is None:
        to_left = _propose("CSLS", right, left, max(csls_k, PROPOSALS), lambda done: None)[1]
    means = [cosines.topk(csls_k).values.clamp_min(-1).mean(1) for cosines in (to_right, to_left)]
    return Scoring(2.0, *means)


def _best(queries: Side, keys: Side, index: Tensor, cosines: Tensor, scoring: Scoring, k: int) -> Best:
    scores = scoring.scale * cosines - scoring.left[:, None] - scoring.right[index.clamp_min(0)]
    scores, index = reference.best_first(scores, index.clamp_min(0), k)
    short = scores.isinf().any(1).nonzero()[:, 0]  # too little was proposed: these rows are searched in full
    for chosen in short.split(BLOCK):
        scores[chosen], index[chosen] = reference.topk_rows(
            *([queries.rows(chosen)], keys.parts, k, scoring.scale),
            *(scoring.left[chosen], scoring.right, lambda done: None),
        )
    return scores, index


def _propose(what: str, queries: Side, keys: Side, count: int, tick: Tick) -> tuple[Tensor, Tensor]:
    """Index int64 [Q, count], -1 where nothing was proposed, and cosines float64, -infinity there."""
    count = min(count, len(keys))
    searcher, description = _index(keys)
    found = []
    for _, rows in queries.blocks(BLOCK):
        found.append(torch.from_numpy(searcher.search(_unit(rows), count)[1]))
        tick(len(found[-1]) * len(keys))
    index = torch.cat(found)
    recall, sampled = _recall(queries, keys, index)
    log.warning(
        "%s is approximate (faiss, %s): %.3f of the %d nearest neighbours of %d sampled rows were proposed",
        *(what, description, recall, min(PROPOSALS, count), sampled),
    )
    cosines = torch.empty(index.shape, dtype=torch.float64)
    for places, _ in queries.blocks(BLOCK):
        i = torch.arange(places.start, places.stop)[:, None].expand(-1, count)
        j = index[places]
        values = pair_cosines(queries, i.reshape(-1), keys, j.clamp_min(0).reshape(-1)).view(j.shape)
        cosines[places] = values.where(j >= 0, -torch.inf)
    return index, cosines


def _index(keys: Side) -> tuple[Any, str]:
    """An index of keys by cosine and what to call it."""
    import faiss

    width, total = keys.parts[0].shape[1], len(keys)
    cells = min(int(CELLS * total**0.5), total // TRAINING_ROWS)
    if cells < 2:
        index, description = faiss.IndexFlatIP(width), "flat"
    else:
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(cells, max(LEAST_PROBED, round(cells * PROBED)))
        description = f"{index.nprobe} of {cells} cells probed"
        index.train(_unit(keys.rows(_spread(total, cells * TRAINING_ROWS))))
    for _, rows in keys.blocks(BLOCK):
        index.add(_unit(rows))
    return index, description


def _recall(queries: Side, keys: Side, index: Tensor) -> tuple[float, int]:
    """The share of true neighbours that are in `index`, and on how many rows it was measured."""
    chosen = _spread(len(queries), SAMPLE)
    k = min(PROPOSALS, index.shape[1])
    zeros = (torch.zeros(len(chosen), dtype=torch.float64), torch.zeros(len(keys), dtype=torch.float64))
    rows = [queries.rows(chosen)]
    true = reference.topk_rows(rows, keys.parts, k, 1.0, *zeros, lambda done: None)[1]
    return float((true[:, :, None] == index[chosen][:, None, :]).any(2).double().mean()), len(chosen)


def _spread(rows: int, count: int) -> Tensor:
    """At most `count` places, evenly over `rows`."""
    return torch.linspace(0, rows - 1, min(rows, count), dtype=torch.float64).round().long()


def _unit(rows: Tensor) -> Any:
    return reference.unit_rows(rows).float().numpy()
