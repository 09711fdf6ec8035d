"""The CUDA kernels of the search by themselves: margins of the search would hide a list that lacks its last places."""

from __future__ import annotations

import pytest
import torch

from loginmea_fast.ops import _dispatch


@pytest.fixture
def device() -> str:
    """Where the kernels run, or a skip with the reason that users would read."""
    name = "cuda" if torch.cuda.is_available() else "cpu"
    if reason := _dispatch.native_reason(torch.zeros(1, device=name), "cuda"):
        pytest.skip(reason)
    return name


def test_cuda_lists_hold_the_largest_of_all_strips(device: str) -> None:
    rows, columns, capacity, scale = 45, 150, 16, 1.5
    scores = torch.randn(rows, columns, device=device)
    scores[3] = scores[3].sort().values  # every score is larger than those before: each is taken
    row_shift, column_shift = torch.randn(rows, device=device), torch.randn(columns, device=device)
    of_rows = torch.full((rows, capacity), -torch.inf, device=device)
    of_columns = torch.full((columns, capacity), -torch.inf, device=device)
    row_index, column_index = (torch.full_like(v, -1, dtype=torch.int32) for v in (of_rows, of_columns))
    kernels, stream = _dispatch.cuda_kernels(scores)
    for first in (0, 30):
        strip = scores[first : first + 30].contiguous()
        kernels.search_offer(
            strip.data_ptr(), *strip.shape, scale, row_shift[first:].data_ptr(), column_shift.data_ptr(), first, 0,
            of_rows[first:].data_ptr(), row_index[first:].data_ptr(), capacity,
            of_columns.data_ptr(), column_index.data_ptr(), capacity, stream,
        )  # fmt: skip
    for values, index, offered in (
        (of_rows, row_index, scale * scores - column_shift),
        (of_columns, column_index, (scale * scores - row_shift[:, None]).T),
    ):
        torch.testing.assert_close(values.sort(descending=True).values, offered.topk(capacity).values)
        torch.testing.assert_close(offered.gather(1, index.long()), values)


def test_cuda_counts_are_those_of_the_thresholds(device: str) -> None:
    rows, columns, scale, offset, pair_shift = 70, 300, 2.0, 5, -2
    scores = torch.randn(rows, columns, device=device)
    high, low, above, below = torch.randn(4, rows + columns, device=device) / 4
    low, below = high - 0.3, above - 0.3
    row, column = (
        [t[:rows] for t in (high, low, above, below)],
        [t[rows:] for t in (high, low, above, below)],
    )
    counts = [torch.zeros(n, dtype=torch.int32, device=device) for n in (rows, columns)]
    codes = torch.full((2 * rows * columns,), -1, dtype=torch.int32, device=device)
    used = torch.zeros(1, dtype=torch.int32, device=device)
    kernels, stream = _dispatch.cuda_kernels(scores)
    kernels.search_count(
        scores.data_ptr(), rows, columns, scale, *(t.data_ptr() for t in (*row, *column)), offset, pair_shift,
        *(t.data_ptr() for t in counts), codes.data_ptr(), len(codes), used.data_ptr(), stream,
    )  # fmt: skip
    i, j = torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)
    rival = offset + i + pair_shift != j
    found = set(codes[: int(used)].tolist())
    expected = set()
    for way, (shift, limit, axis) in enumerate(((column, row, 1), (row, column, 0))):
        wide = [t[None, :] if axis else t[:, None] for t in shift[:2]]
        bound = [t[:, None] if axis else t[None, :] for t in limit[2:]]
        counted = scale * scores - wide[0] > bound[0]
        assert torch.equal(counts[way], counted.sum(axis, dtype=torch.int32))
        undecided = (scale * scores - wide[1] >= bound[1]) & ~counted & rival
        expected |= {way << 28 | offset + a << 14 | b for a, b in undecided.nonzero().tolist()}
    assert found == expected
    assert len(found) == int(used)
