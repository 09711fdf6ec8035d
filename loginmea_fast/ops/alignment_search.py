"""Ranks, best matches and mutual nearest neighbours without the matrix of scores.

The formulas head the reference. Every backend gives the float64 answer: a fast pass decides what its
rounding cannot change, and the few candidates that are left are scored again in float64. So a result depends
neither on the backend nor on the number of threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops import _search_exact as exact
from loginmea_fast.reference import alignment_search as reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from loginmea_fast.ops._search_exact import Passes, Side

    Rows = Tensor | np.ndarray

__all__ = ["AlignmentRanks", "alignment_ranks", "alignment_topk", "alignment_topk_both", "mutual_nearest"]

_FLOATS = (*_dispatch.FLOATS, torch.float16)
_SCREENS = (None, "bfloat16")


class _BothWays(NamedTuple):
    left_to_right: Tensor
    right_to_left: Tensor


class AlignmentRanks(_BothWays):
    """Ranks both ways; unpacks as `ranks_lr, ranks_rl`.

    Attributes:
        left_to_right: [B], rank of right row b among all right candidates, seen from left row b; 1 is best.
            A candidate with an equal score counts one half. float32; float64 from 2^22 candidates on, where
            float32 has no halves.
        right_to_left: [B], the other way.
        ties: two int64 [B]: how many other candidates have the score of the pair, both ways.
    """

    ties: tuple[Tensor, Tensor]

    def __new__(cls, ranks: tuple[Tensor, Tensor], ties: tuple[Tensor, Tensor]) -> AlignmentRanks:  # noqa: D102
        self = super().__new__(cls, *ranks)
        self.ties = ties
        return self


def alignment_ranks(
    left: Rows,
    right: Rows,
    csls_k: int = 0,
    left_extra: Rows | None = None,
    right_extra: Rows | None = None,
    screen: str | None = None,
    backend: str = "auto",
    *,
    pairs: Tensor | None = None,
    progress: bool = False,
) -> AlignmentRanks:
    """Rank of every true counterpart, both ways, by cosine or CSLS.

    Row b of `left` and row b of `right` are a pair, or `pairs` says which rows are. Left rows are ranked against all
    right rows and the other way round; `*_extra` are further candidates without a counterpart (evaluation among all
    target entities). A row may stand in several pairs: its other partners are no rivals, as in link prediction.
    With s the cosine, r the mean of the `csls_k` best cosines on the other side (extra rows take part) and
    TIE = 2^-46:

        c_ij = 2 s_ij - r_i - r_j        (CSLS: Conneau et al., ICLR 2018; c = s where csls_k = 0)
        rank_b = 1 + #{j : c_ij > c_b + TIE} + 1/2 #{j : |c_ij - c_b| <= TIE}    pair b = (i, j_b), j no partner of i

    A zero row has no direction: its cosine with everything is 0, so its counterpart ties with all candidates. CSLS
    breaks those ties by the candidates' own r alone, which says nothing of the pair: leave such rows out of a
    report.

    Args:
        left: [B, D] rows, float32, float64, bfloat16 or float16; a tensor or a numpy array,
            which may be memory-mapped. With `pairs` [N, D], each entity once.
        right: [B, D], dtype and device of `left`. With `pairs` [M, D].
        csls_k: neighbours in r; 0 ranks by cosine.
        left_extra: [X, D] further left candidates, or None.
        right_extra: [Y, D] further right candidates, or None.
        screen: "bfloat16" makes the first pass in bfloat16; the answer is the same. The reference
            has no such pass and ignores it.
        backend: "auto", "reference", "cpu" or "triton".
        pairs: int64 [B, 2], rows of `left` and of `right` that are partners, no pair twice; by default row b with row
            b. It is fastest where most rows stand at the place of their partner.
        progress: show a progress bar on stderr.

    Returns:
        `AlignmentRanks`, on the device of `left`.

    Raises:
        InputError: shapes, dtypes or devices do not fit, there is no pair or one stands twice, a value is not finite,
            or csls_k is larger than the candidates of a side.
        BackendError: the backend asked for by name cannot serve.
    """
    a, b = _tensor("left", left), _tensor("right", right)
    more_a = None if left_extra is None else _tensor("left_extra", left_extra)
    more_b = None if right_extra is None else _tensor("right_extra", right_extra)
    _check({"left": a, "right": b, "left_extra": more_a, "right_extra": more_b}, screen, backend)
    if pairs is None:
        _dispatch.check_shape("right", b, tuple(a.shape), "[B, D], as left")
        pairs = torch.arange(len(a), device=a.device)[:, None].expand(-1, 2)
    pairs = _checked_pairs(pairs, len(a), len(b)).to(a.device)
    if len(pairs) == 0:
        raise InputError("left and right hold no pairs, so there is nothing to rank")
    _check_k("csls_k", csls_k, min(_count(a, more_a), _count(b, more_b)), least=0)
    ranks_lr, ranks_rl, ties_lr, ties_rl = _alignment_ranks(
        a, b, more_a, more_b, pairs, csls_k, screen, backend, progress
    )
    return AlignmentRanks((ranks_lr, ranks_rl), (ties_lr, ties_rl))


def alignment_topk(
    queries: Rows,
    keys: Rows,
    k: int,
    csls_k: int = 0,
    screen: str | None = None,
    backend: str = "auto",
    *,
    query_extra: Rows | None = None,
    approximate: str | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """The k best keys of every query, by cosine or CSLS.

    Scores are those of `alignment_ranks`. Larger scores come first; scores that differ by at most 2^-46
    stand by index. The cosine of a zero row with anything is 0.

    Args:
        queries: [Q, D] rows, float32, float64, bfloat16 or float16; a tensor or a numpy array,
            which may be memory-mapped.
        keys: [M, D], dtype and device of `queries`.
        k: how many keys to return, at most M.
        csls_k: neighbours in the means of CSLS, taken among these queries, `query_extra` and keys; 0 for cosine.
        screen: "bfloat16" makes the first pass in bfloat16; the answer is the same.
        backend: "auto", "reference", "cpu" or "triton".
        query_extra: [X, D] further queries, or None: they count in the means of CSLS and get no row in the result, so
            that scores do not depend on which queries were asked for.
        approximate: "faiss" has faiss propose candidates, which are then scored exactly. The result is
            approximate; how many true neighbours a sample found is logged as a warning. Rows on cpu only.
        progress: show a progress bar on stderr.

    Returns:
        Scores float32 [Q, k] (float64 for float64 rows) and index int64 [Q, k], on the device of `queries`.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a value is not finite, k is not in 1 .. M, or
            csls_k is larger than the rows of a side.
        BackendError: the backend asked for by name cannot serve.
    """
    a, b = _tensor("queries", queries), _tensor("keys", keys)
    more = None if query_extra is None else _tensor("query_extra", query_extra)
    _check({"queries": a, "keys": b, "query_extra": more}, screen, backend)
    _check_approximate("alignment_topk", approximate, a)
    if len(b) == 0:
        raise InputError("keys hold no rows, so there is nothing to search")
    _check_k("k", k, len(b), least=1)
    if len(a) == 0:
        return a.new_empty((0, k), dtype=_score_dtype(a)), a.new_empty((0, k), dtype=torch.int64)
    _check_k("csls_k", csls_k, min(_count(a, more), len(b)), least=0)
    return _alignment_topk(a, b, more if csls_k else None, k, csls_k, screen, backend, approximate, progress)


def alignment_topk_both(
    left: Rows,
    right: Rows,
    k: int,
    csls_k: int = 0,
    screen: str | None = None,
    backend: str = "auto",
    *,
    progress: bool = False,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The k best right rows of every left row and the k best left rows of every right row, of the same products.

    The results are those of `alignment_topk(left, right, ...)` and `alignment_topk(right, left, ...)`, in half the time
    where both sets of lists fit in memory.

    Args:
        left: [N, D] rows, float32, float64, bfloat16 or float16; a tensor or a numpy array,
            which may be memory-mapped.
        right: [M, D], dtype and device of `left`.
        k: how many to return, at most N and M.
        csls_k: neighbours in the means of CSLS; 0 for cosine.
        screen: "bfloat16" makes the first pass in bfloat16; the answer is the same.
        backend: "auto", "reference", "cpu" or "triton".
        progress: show a progress bar on stderr.

    Returns:
        (scores [N, k], index [N, k]) and (scores [M, k], index [M, k]), on the device of `left`.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a side is empty, a value is not finite, or k or csls_k is
            larger than the rows of a side.
        BackendError: the backend asked for by name cannot serve.
    """
    a, b = _tensor("left", left), _tensor("right", right)
    _check({"left": a, "right": b}, screen, backend)
    if len(a) == 0 or len(b) == 0:
        raise InputError(f"both sides need rows; got {len(a)} on the left and {len(b)} on the right")
    _check_k("k", k, min(len(a), len(b)), least=1)
    _check_k("csls_k", csls_k, min(len(a), len(b)), least=0)
    results = _alignment_topk_both(a, b, k, csls_k, screen, backend, progress)
    return (results[0], results[1]), (results[2], results[3])


def mutual_nearest(
    left: Rows,
    right: Rows,
    csls_k: int = 0,
    screen: str | None = None,
    backend: str = "auto",
    *,
    approximate: str | None = None,
    progress: bool = False,
) -> Tensor:
    """Pairs of rows each of which is the other's best match, by cosine or CSLS.

    Scores are those of `alignment_ranks`; of equally good matches (to 2^-46) the first counts.

    Args:
        left: [N, D] rows, float32, float64, bfloat16 or float16; a tensor or a numpy array,
            which may be memory-mapped.
        right: [M, D], dtype and device of `left`.
        csls_k: neighbours in the means of CSLS; 0 for cosine.
        screen: "bfloat16" makes the first pass in bfloat16; the answer is the same.
        backend: "auto", "reference", "cpu" or "triton".
        approximate: "faiss" has faiss propose candidates, which are then scored exactly. The result is
            approximate; how many true neighbours a sample found is logged as a warning. Rows on cpu only.
        progress: show a progress bar on stderr.

    Returns:
        int64 [P, 2] (left row, right row), ascending by left row; empty where a side is empty.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a value is not finite, or csls_k is larger than the
            rows of a side that is not empty.
        BackendError: the backend asked for by name cannot serve.
    """
    a, b = _tensor("left", left), _tensor("right", right)
    _check({"left": a, "right": b}, screen, backend)
    _check_approximate("mutual_nearest", approximate, a)
    if len(a) == 0 or len(b) == 0:
        return a.new_empty((0, 2), dtype=torch.int64)
    _check_k("csls_k", csls_k, min(len(a), len(b)), least=0)
    return _mutual_nearest(a, b, csls_k, screen, backend, approximate, progress)


def _tensor(name: str, rows: Rows) -> Tensor:
    """Return the tensor, without its gradient, or the array as a tensor on the same memory, mapped or not."""
    if isinstance(rows, Tensor):
        return rows.detach()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing here writes
            return torch.from_numpy(rows)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a float tensor or numpy array: {error}") from None


def _check(sides: Mapping[str, Tensor | None], screen: str | None, backend: str) -> None:
    _dispatch.check_backend_name(backend)
    if screen not in _SCREENS:
        raise InputError(f"screen must be None or 'bfloat16'; got {screen!r}")
    width = None
    for name, rows in sides.items():
        if rows is None:
            continue
        _dispatch.check_float(name, rows, _FLOATS)
        _dispatch.check_shape(name, rows, (None, width), "[rows, width], the same width on both sides")
        width = rows.shape[1]
        if width == 0:
            raise InputError(f"{name} must be at least one column wide; got {list(rows.shape)}")
    _dispatch.check_same_dtype(**sides)
    _dispatch.check_same_device(**sides)


def _check_approximate(op: str, approximate: str | None, rows: Tensor) -> None:
    if approximate is None:
        return
    if approximate != "faiss":
        raise InputError(f"approximate must be None or 'faiss'; got {approximate!r}")
    from loginmea_fast.ops import _search_faiss

    if reason := _search_faiss.unavailable(rows):
        raise BackendError(f"{op}: approximate='faiss' cannot serve this call: {reason}")


def _check_k(name: str, k: int, most: int, least: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool) or not least <= k <= most:
        raise InputError(
            f"{name} must be an integer from {least} to {most}, the candidates there are; got {k!r}"
        )


def _checked_pairs(pairs: Tensor, num_left: int, num_right: int) -> Tensor:
    if not isinstance(pairs, Tensor) or pairs.dtype != torch.int64:
        came = pairs.dtype if isinstance(pairs, Tensor) else type(pairs).__name__
        raise InputError(f"pairs must be an int64 tensor [B, 2] of left and right rows; got {came}")
    _dispatch.check_shape("pairs", pairs, (None, 2), "[B, 2], a left and a right row")
    for side, rows in enumerate((num_left, num_right)):
        column = pairs[:, side]
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < rows:
            wrong = int(((column < 0) | (column >= rows)).nonzero()[0])
            raise InputError(
                f"pairs name rows that are there, 0 to {rows - 1} on the {('left', 'right')[side]}; "
                f"got {int(column[wrong])} in pair {wrong}"
            )
    keys = pairs[:, 0] * max(num_right, 1) + pairs[:, 1]
    if len(keys.unique()) != len(keys):
        raise InputError("pairs hold a pair twice; give each once, by pairs.unique(dim=0)")
    return pairs


def _count(rows: Tensor, more: Tensor | None) -> int:
    return len(rows) + (0 if more is None else len(more))


def _score_dtype(rows: Tensor) -> torch.dtype:
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


def _rank_dtype(rows: Tensor, more: Tensor | None) -> torch.dtype:
    return torch.float32 if _count(rows, more) < 2**22 else torch.float64


@contextmanager
def _bar(what: str, scores: int, passes: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many scores have been computed since it was last called."""
    if not progress:
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=scores * passes, desc=what, unit="score", unit_scale=True) as bar:
        yield bar.update


def _check_finite(**sides: Tensor | None) -> None:
    """Raise `InputError` at the first row with a value that is not finite: such a row has no rank."""
    for name, rows in sides.items():
        if rows is None:
            continue
        for start, stop in reference.spans(len(rows), reference.COLUMNS):
            bad = ~torch.isfinite(rows[start:stop]).all(1)
            if bad.any():
                raise InputError(
                    f"{name} holds a value that is not finite, in row {start + int(bad.nonzero()[0])}"
                )


def _passes(op: str, rows: Tensor, screen: str | None, backend: str) -> Passes | None:
    """Choose the backend; None stands for the reference."""
    candidates = {
        "cpu": lambda: _dispatch.native_reason(rows, "cpu"),
        "triton": lambda: _dispatch.triton_reason(rows[:0].float()),  # kernels see float32 cosines only
    }
    chosen = _dispatch.choose_backend(op, backend, candidates)
    narrow = screen is not None
    if chosen == "cpu":
        from loginmea_fast.ops._search_cpu import CpuPasses

        return CpuPasses(narrow)
    if chosen == "triton":
        from loginmea_fast.ops._search_device import DevicePasses

        return DevicePasses(narrow)
    return None


def search_passes(op: str, rows: Tensor, backend: str) -> Passes | None:
    """The passes of the backend that `op` would choose, for a search that is merged of several; None: the formula."""
    _check({"rows": rows}, None, backend)
    return _passes(op, rows, None, backend)


def search_side(passes: Passes, rows: Tensor) -> Side:
    """A side of one matrix, as the passes take it; raises `InputError` at a row that is not finite."""
    return _side(passes, rows=rows)


def _side(backend: Any, **matrices: Tensor | None) -> Side:
    """Prepare a side; raises `InputError` at a row that is not finite."""
    side: Side = backend.side([rows for rows in matrices.values() if rows is not None])
    if bool(side.inverse.isnan().any()):
        _check_finite(**matrices)
    return side


@_dispatch.operator("alignment_ranks")
def _alignment_ranks(
    left: Tensor,
    right: Tensor,
    left_extra: Tensor | None,
    right_extra: Tensor | None,
    pairs: Tensor,
    csls_k: int,
    screen: str | None,
    backend: str,
    progress: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ranks both ways, ties both ways."""
    passes = _passes("alignment_ranks", left, screen, backend)
    scores = _count(left, left_extra) * _count(right, right_extra)
    with _bar("alignment_ranks", scores, 2 if csls_k else 1, progress) as tick:
        if passes is not None:
            left_side = _side(passes, left=left, left_extra=left_extra)
            right_side = _side(passes, right=right, right_extra=right_extra)
            results = exact.alignment_ranks(passes, left_side, right_side, pairs, csls_k, tick)
        else:
            _check_finite(left=left, right=right, left_extra=left_extra, right_extra=right_extra)
            lefts = [rows for rows in (left, left_extra) if rows is not None]
            rights = [rows for rows in (right, right_extra) if rows is not None]
            results = reference.alignment_ranks(lefts, rights, pairs, csls_k, tick)
    ranks_lr, ranks_rl, ties_lr, ties_rl = results
    ranks_lr = ranks_lr.to(_rank_dtype(right, right_extra))
    return ranks_lr, ranks_rl.to(_rank_dtype(left, left_extra)), ties_lr, ties_rl


@_alignment_ranks.register_fake
def _(left, right, left_extra, right_extra, pairs, csls_k, screen, backend, progress):  # type: ignore[no-untyped-def]
    dtypes = _rank_dtype(right, right_extra), _rank_dtype(left, left_extra), torch.int64, torch.int64
    return tuple(left.new_empty(len(pairs), dtype=dtype) for dtype in dtypes)


@_dispatch.operator("alignment_topk")
def _alignment_topk(
    queries: Tensor,
    keys: Tensor,
    query_extra: Tensor | None,
    k: int,
    csls_k: int,
    screen: str | None,
    backend: str,
    approximate: str | None,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """Scores and index."""
    scores_made = len(queries) * len(keys) + (_count(queries, query_extra) * len(keys) if csls_k else 0)
    with _bar("alignment_topk", scores_made, 1, progress) as tick:
        if approximate is not None:
            from loginmea_fast.ops import _search_faiss as faiss

            everyone = _side(faiss, queries=queries, query_extra=query_extra)
            scores, index = faiss.alignment_topk(everyone, _side(faiss, keys=keys), k, csls_k, tick)
            scores, index = scores[: len(queries)].clone(), index[: len(queries)].clone()
        elif (passes := _passes("alignment_topk", queries, screen, backend)) is not None:
            everyone = _side(passes, queries=queries, query_extra=query_extra)
            scores, index = exact.alignment_topk(passes, everyone, _side(passes, keys=keys), k, csls_k, tick)
        else:
            _check_finite(queries=queries, keys=keys, query_extra=query_extra)
            both = [rows for rows in (queries, query_extra) if rows is not None]
            scores, index = reference.alignment_topk(both, [keys], k, csls_k, tick)
    return scores.to(_score_dtype(queries)), index


@_alignment_topk.register_fake
def _(queries, keys, query_extra, k, csls_k, screen, backend, approximate, progress):  # type: ignore[no-untyped-def]
    shape = (len(queries), k)
    return queries.new_empty(shape, dtype=_score_dtype(queries)), queries.new_empty(shape, dtype=torch.int64)


@_dispatch.operator("alignment_topk_both")
def _alignment_topk_both(
    left: Tensor,
    right: Tensor,
    k: int,
    csls_k: int,
    screen: str | None,
    backend: str,
    progress: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores and index of left rows, then of right rows."""
    with _bar("alignment_topk_both", len(left) * len(right), 2 if csls_k else 1, progress) as tick:
        passes = _passes("alignment_topk_both", left, screen, backend)
        if passes is not None:
            sides = _side(passes, left=left), _side(passes, right=right)
            to_right, to_left = exact.alignment_topk_both(passes, *sides, k, csls_k, tick)
        else:
            _check_finite(left=left, right=right)
            to_right, to_left = reference.alignment_topk_both([left], [right], k, csls_k, tick)
    dtype = _score_dtype(left)
    return to_right[0].to(dtype), to_right[1], to_left[0].to(dtype), to_left[1]


@_alignment_topk_both.register_fake
def _(left, right, k, csls_k, screen, backend, progress):  # type: ignore[no-untyped-def]
    return tuple(
        left.new_empty((len(rows), k), dtype=dtype)
        for rows in (left, right)
        for dtype in (_score_dtype(left), torch.int64)
    )


@_dispatch.operator("mutual_nearest")
def _mutual_nearest(
    left: Tensor,
    right: Tensor,
    csls_k: int,
    screen: str | None,
    backend: str,
    approximate: str | None,
    progress: bool,
) -> Tensor:
    """Pairs."""
    with _bar("mutual_nearest", len(left) * len(right), 2 if csls_k else 1, progress) as tick:
        if approximate is not None:
            from loginmea_fast.ops import _search_faiss as faiss

            return faiss.mutual_nearest(_side(faiss, left=left), _side(faiss, right=right), csls_k, tick)
        passes = _passes("mutual_nearest", left, screen, backend)
        if passes is not None:
            sides = _side(passes, left=left), _side(passes, right=right)
            return exact.mutual_nearest(passes, *sides, csls_k, tick)
        _check_finite(left=left, right=right)
        return reference.mutual_nearest([left], [right], csls_k, tick)


@_mutual_nearest.register_fake
def _(left, right, csls_k, screen, backend, approximate, progress):  # type: ignore[no-untyped-def]
    return left.new_empty((torch.library.get_ctx().new_dynamic_size(), 2), dtype=torch.int64)
