"""The emulator itself: what is right on a card is right on it, and what is wrong there shows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.emulation import library

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++, which compiles kernels for the CPU"
)


def probe_sources() -> dict[str, str]:
    """The kernels of probes.cu in place of the package's."""
    kept = {"cuda/tensor_map.cu"}
    files = {
        name: text
        for name, text in library.sources().items()
        if name in kept or not name.endswith((".cu", "_cuda.cpp"))
    }
    return {**files, "probes.cu": (library.HERE / "probes.cu").read_text()}


@pytest.fixture(scope="module")
def probes() -> ModuleType:
    return library.load(library.build(probe_sources(), "probes"), "probes")


def test_threads_meet_at_a_barrier_and_a_missing_one_shows(probes: ModuleType) -> None:
    out = torch.empty(64)
    for run, right in (
        (probes.reverse, torch.arange(63.0, -1.0, -1.0)),
        (probes.rotate, torch.arange(1.0, 65.0) % 64),
    ):
        run(out.data_ptr(), True)
        assert torch.equal(out, right)
        run(out.data_ptr(), False)
        assert not torch.equal(out, right)


def test_lanes_meet_at_shuffles_and_ballots(probes: ModuleType) -> None:
    out = torch.empty(32)
    probes.warp_sum(out.data_ptr())
    assert (out == 496 + 16 + 1000 * 496).all()


def test_what_is_copied_is_there_once_it_was_waited_for_and_by_others_after_a_barrier(
    probes: ModuleType,
) -> None:
    given, out = torch.rand(256), torch.empty(256)
    probes.fetch(given.data_ptr(), out.data_ptr(), True, True)
    assert torch.equal(out, given.roll(-4))
    for wait, together in ((False, True), (True, False)):
        probes.fetch(given.data_ptr(), out.data_ptr(), wait, together)
        assert out.isnan().any()


def _place(
    lane: int, value: int, shape: tuple[tuple[int, ...], ...], stride: tuple[tuple[int, ...], ...]
) -> int:
    """Offset of a lane's value by a layout of CuTe: digits of lane and value in mixed radix, times strides."""
    total = 0
    for number, sizes, steps in zip((lane, value), shape, stride, strict=True):
        for size, step in zip(sizes, steps, strict=True):
            total += number % size * step
            number //= size
    return total


# CUTLASS, include/cute/atom/mma_traits_sm80.hpp: (lane, value) -> offset, the first dimension of A, B^T and C fastest.
LAYOUTS = {
    False: {
        "a": (((4, 8), (2, 2)), ((16, 1), (8, 64))),
        "b": (((4, 8), (2,)), ((8, 1), (32,))),
        "c": (((4, 8), (2, 2)), ((32, 1), (16, 8))),
    },
    True: {
        "a": (((4, 8), (2, 2, 2)), ((32, 1), (16, 8, 128))),
        "b": (((4, 8), (2, 2)), ((16, 1), (8, 64))),
        "c": (((4, 8), (2, 2)), ((32, 1), (16, 8))),
    },
}


def _fragments(matrix: Tensor, layout: tuple, values: int, threads: int = 32) -> Tensor:
    """[threads, values] of a matrix whose first dimension runs fastest."""
    flat = matrix.T.contiguous().view(-1)
    places = torch.tensor([[_place(thread, v, *layout) for v in range(values)] for thread in range(threads)])
    return flat[places]


@pytest.mark.parametrize("narrow", [False, True], ids=["tf32", "bf16"])
def test_fragments_lie_as_the_layouts_of_cute_say(probes: ModuleType, narrow: bool) -> None:
    depth = 16 if narrow else 8
    a, b = (torch.randint(-8, 9, (n, depth)).float() for n in (16, 8))
    c = torch.randint(-8, 9, (16, 8)).float()
    layouts = LAYOUTS[narrow]
    per_word = 2 if narrow else 1
    fa, fb = (_fragments(m, layouts[name], n * per_word) for m, name, n in ((a, "a", 4), (b, "b", 2)))
    if narrow:
        fa, fb = fa.bfloat16(), fb.bfloat16()
    fc = _fragments(c, layouts["c"], 4)
    probes.product(fa.data_ptr(), fb.data_ptr(), fc.data_ptr(), narrow)
    assert torch.equal(fc, _fragments(c + a @ b.T, layouts["c"], 4))


@pytest.mark.parametrize("row", [0, 8, 200])
def test_a_box_is_swizzled_and_zero_where_the_table_ends(probes: ModuleType, row: int) -> None:
    table, out = torch.rand(70, 48), torch.empty(128, 32)
    probes.fetch_box(table.data_ptr(), *table.shape, 0, row, out.data_ptr(), True)
    padded = torch.zeros(300, 64)
    padded[:70, :48] = table
    for box, lying in enumerate(
        out.view(2, 64, 8, 4)
    ):  # in pieces of 16 bytes: piece j of row r lies at j ^ (r % 8)
        pieces = padded[row : row + 64, 32 * box : 32 * box + 32].view(64, 8, 4)
        places = torch.arange(8) ^ (torch.arange(64) % 8)[:, None]
        assert torch.equal(lying.gather(1, places[:, :, None].expand(-1, -1, 4)), pieces)
    probes.fetch_box(table.data_ptr(), *table.shape, 0, row, out.data_ptr(), False)
    assert out.isnan().any(), "there before the barrier said so"


# CUTLASS, include/cute/atom/mma_traits_sm90_gmma.hpp: CLayout_64xN.
def _group_layout(columns: int) -> tuple:
    return ((4, 8, 4), (2, 2, columns // 8)), ((128, 1, 16), (64, 8, 512))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("narrow", [False, True], ids=["tf32", "bf16"])
def test_numbers_of_a_warpgroup_lie_as_the_layout_of_cute_says(
    probes: ModuleType, narrow: bool, ranks: int
) -> None:
    depth, columns = 64 if narrow else 32, 64 * ranks
    dtype = torch.bfloat16 if narrow else torch.float32
    a, b = (torch.randint(-8, 9, (n, depth)).to(dtype) for n in (64, columns))
    c = torch.randint(-8, 9, (64, columns)).float()
    layout = _group_layout(columns)
    lying = _fragments(c, layout, columns // 2, 128)
    probes.group_product(a.data_ptr(), b.data_ptr(), lying.data_ptr(), narrow, ranks, 0)
    assert torch.equal(lying, _fragments(c + a.float() @ b.float().T, layout, columns // 2, 128))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (1, "without wgmma.fence"),
        (3, "written before the products that add to them have ended"),
        (4, "ask for different products"),
    ],
)
def test_products_of_a_warpgroup_that_no_card_would_make_are_an_error(
    probes: ModuleType, wrong: int, words: str
) -> None:
    a, c = torch.rand(64, 32), torch.zeros(128, 32)
    with pytest.raises(RuntimeError, match=words):
        probes.group_product(a.data_ptr(), a.data_ptr(), c.data_ptr(), False, 1, wrong)


def test_products_that_were_not_waited_for_are_not_there(probes: ModuleType) -> None:
    a, c = torch.rand(64, 32), torch.zeros(128, 32)
    probes.group_product(a.data_ptr(), a.data_ptr(), c.data_ptr(), False, 1, 2)
    assert c.isnan().all()


def test_products_keep_the_digits_of_tf32_and_truncate_their_sums(probes: ModuleType) -> None:
    a, b = torch.zeros(32, 4), torch.zeros(32, 2)
    a[0, 0], b[0, 0] = 1 + 2**-11, 1  # one digit more than TF32 has
    c = torch.zeros(32, 4)
    probes.product(a.data_ptr(), b.data_ptr(), c.data_ptr(), False)
    assert c[0, 0] == 1
    a[0, 0], c[0, 0] = 1, 2.0**25 - 2
    probes.product(a.data_ptr(), b.data_ptr(), c.data_ptr(), False)
    assert c[0, 0] == 2.0**25 - 2, "rounded up, which tensor cores do not do"


@pytest.mark.parametrize(
    ("meetings", "message"), [(True, "meet for different things"), (False, "wait at __syncthreads")]
)
def test_threads_that_miss_each_other_are_an_error_and_the_next_launch_is_not(
    probes: ModuleType, meetings: bool, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        probes.divide(meetings)
    test_lanes_meet_at_shuffles_and_ballots(probes)


def test_the_order_of_threads_changes_from_launch_to_launch(probes: ModuleType) -> None:
    orders = []
    for _ in range(2):
        tickets, threads = torch.zeros(1, dtype=torch.int32), torch.empty(64, dtype=torch.int32)
        probes.order(tickets.data_ptr(), threads.data_ptr())
        assert sorted(threads.tolist()) == list(range(64))
        orders.append(threads.tolist())
    assert orders[0] != orders[1]


def test_a_grid_that_no_card_takes_is_said_and_so_is_shared_memory(probes: ModuleType) -> None:
    with pytest.raises(ValueError, match="got 1 x 65536 x 1; use fewer rows"):
        probes.grid(1, 65536, 0)
    for shared in (227 << 10, (227 << 10) - 255):  # all of it, and all but what the kernel declares
        with pytest.raises(ValueError, match=f"grid: needs {shared} bytes .* gives it {(227 << 10) - 256};"):
            probes.grid(1, 1, shared)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("read(x.data_ptr(), y.data_ptr(), 64)", "heap-buffer-overflow"),
        ("read(x.data_ptr(), y.data_ptr(), -1)", "heap-buffer-overflow"),
        ("read_four(x.data_ptr() + 4, y.data_ptr())", "misaligned address"),
        ("read(x.data_ptr(), y.data_ptr(), 63)", ""),
    ],
)
def test_what_lies_beyond_a_tensor_is_seen_by_the_sanitizer(call: str, words: str, tmp_path: Path) -> None:
    path = library.build(probe_sources(), "probes", sanitize=True)
    code = (
        "import torch; from tests.emulation import library; from pathlib import Path\n"
        f"p = library.load(Path({str(path)!r}), 'probes'); x = torch.rand(64); y = torch.empty(4); p.{call}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=library.ROOT,
        env=library.sanitized_environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == (words == "")
    assert words in done.stderr


def test_shared_memory_and_launches_of_unknown_form_are_refused() -> None:
    assert library.translate("alignas(8) __shared__ A sums[kN][R::kColumns], more[2];") == (
        'auto& sums = emulation::shared<A[kN][R::kColumns]>("sums"); '
        'auto& more = emulation::shared<A[2]>("more");'
    )
    for text in ("__shared__ float one;", "kernel<<<1, 2>>>();", 'asm volatile("");'):
        with pytest.raises(ValueError, match="expected"):
            library.translate(text)
