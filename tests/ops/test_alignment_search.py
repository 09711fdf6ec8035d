from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops import _search_exact as exact
from loginmea_fast.ops import alignment_search as ops
from loginmea_fast.ops.alignment_search import (
    alignment_ranks,
    alignment_topk,
    alignment_topk_both,
    mutual_nearest,
)
from loginmea_fast.reference import alignment_search as reference

BACKENDS = ("reference", "cpu", "triton")
SCREENS = (None, "bfloat16")
# pairs, further left, further right, width, neighbours of CSLS; the last ones exceed a block of every backend
SHAPES = (
    (1, 0, 0, 1, 0),
    (1, 0, 0, 7, 1),
    (7, 3, 0, 1, 2),
    (60, 0, 41, 63, 0),
    (60, 17, 41, 300, 10),
    (300, 0, 0, 301, 5),
    (500, 300, 130, 40, 25),
)
KINDS = ("random", "clustered", "ties", "zero rows")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that can serve here; the others skip with the reason that users would read."""
    name: str = request.param
    try:
        mutual_nearest(
            torch.ones(1, 1, device=_device(name)), torch.ones(1, 1, device=_device(name)), backend=name
        )
    except BackendError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of the reference where the data are small."""
    monkeypatch.setattr(reference, "ROWS", 64)
    monkeypatch.setattr(reference, "COLUMNS", 96)


def _device(backend: str) -> str:
    return "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"


def _spare_the_interpreter(backend: str, shape: tuple[int, ...]) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1" and backend == "triton" and shape[0] > 100:
        pytest.skip("takes minutes in Triton's interpreter")


def _sides(kind: str, pairs: int, more_left: int, more_right: int, width: int) -> tuple[Tensor, Tensor]:
    """Left and right candidates, pairs first, float32, that try a search in different ways."""
    g = torch.Generator().manual_seed(pairs + width)
    n, m = pairs + more_left, pairs + more_right
    left, right = torch.randn(n, width, generator=g), torch.randn(m, width, generator=g)
    if kind == "ties":  # few distinct cosines, equal rows, and copies of other lengths
        left, right = left.sign() * (left.abs() > 0.7), right.sign() * (right.abs() > 0.7)
        right[: pairs // 2] = right[torch.randint(0, 1 + pairs // 10, (pairs // 2,), generator=g)]
        left *= torch.tensor([0.3, 1, 7])[torch.randint(0, 3, (n, 1), generator=g)]
    else:
        right[:pairs] = left[:pairs] + 0.7 * right[:pairs]
    if kind == "clustered":  # cosines that differ in the seventh digit
        left, right = 1 + 3e-4 * left, 1 + 3e-4 * right
    if kind == "zero rows":
        left[::5], right[2::7] = 0, 0
    return left, right


def _halves(side: Tensor, pairs: int) -> tuple[Tensor, Tensor | None]:
    return side[:pairs], side[pairs:] if len(side) > pairs else None


def _brute_force_ranks(left: Tensor, right: Tensor, pairs: int, csls_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks by the definition, one pair after the other, sharing no code with the package."""
    a, b = left.double().numpy(), right.double().numpy()
    a, b = (x / np.where((norm := np.linalg.norm(x, axis=1)) > 0, norm, 1)[:, None] for x in (a, b))
    scores = a @ b.T
    if csls_k:
        row = np.sort(scores, axis=1)[:, -csls_k:].mean(1)
        column = np.sort(scores, axis=0)[-csls_k:].mean(0)
        scores = 2 * scores - row[:, None] - column[None, :]

    def rank(candidates: np.ndarray, own: int) -> float:
        difference = np.delete(candidates, own) - candidates[own]
        return 1 + (difference > 2**-46).sum() + 0.5 * (np.abs(difference) <= 2**-46).sum()

    there = np.array([rank(scores[p], p) for p in range(pairs)])
    back = np.array([rank(scores[:, p], p) for p in range(pairs)])
    return there, back


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("small_blocks")
def test_ranks_equal_a_brute_force(
    backend: str, shape: tuple[int, ...], kind: str, screen: str | None
) -> None:
    _spare_the_interpreter(backend, shape)
    pairs, more_left, more_right, width, csls_k = shape
    left, right = _sides(kind, pairs, more_left, more_right, width)
    (a, more_a), (b, more_b) = _halves(left, pairs), _halves(right, pairs)
    device = _device(backend)
    arguments = [None if t is None else t.to(device) for t in (a, b, more_a, more_b)]

    ranks = alignment_ranks(*arguments[:2], csls_k, *arguments[2:], screen=screen, backend=backend)

    there, back = _brute_force_ranks(left, right, pairs, csls_k)
    ranks_lr, ranks_rl = ranks
    assert ranks_lr.dtype == ranks_rl.dtype == torch.float32
    assert np.array_equal(ranks_lr.cpu().numpy(), there)
    assert np.array_equal(ranks_rl.cpu().numpy(), back)
    in_place = torch.arange(pairs)[:, None].expand(-1, 2)
    expected = reference.dense_ranks(reference.dense_scores(left, right, csls_k), in_place)
    for ties, expected_ties in zip(ranks.ties, expected[2:], strict=True):
        assert torch.equal(ties.cpu(), expected_ties)


def _brute_force_of_pairs(
    left: Tensor, right: Tensor, pairs: list[list[int]], csls_k: int
) -> list[list[float]]:
    """Filtered ranks by the definition, both ways."""
    scores = reference.dense_scores(left, right, csls_k).numpy()
    ranks: list[list[float]] = [[], []]
    for i, j in pairs:
        for way, (candidates, own, partners) in enumerate(
            (
                (scores[i], j, {b for a, b in pairs if a == i}),
                (scores[:, j], i, {a for a, b in pairs if b == j}),
            )
        ):
            rivals = [score for place, score in enumerate(candidates) if place not in partners]
            difference = np.array(rivals) - candidates[own]
            ties = (np.abs(difference) <= 2**-46).sum()
            ranks[way].append(1 + (difference > 2**-46).sum() + 0.5 * ties)
    return ranks


@pytest.mark.parametrize("csls_k", [0, 4])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["1 to n", "n to m", "scattered", "nothing in place"])
@pytest.mark.usefixtures("small_blocks")
def test_ranks_of_entities_with_several_partners(
    backend: str, shape: str, kind: str, screen: str | None, csls_k: int
) -> None:
    """Targets are distinct, and partners of one entity do not stand in each other's way."""
    _spare_the_interpreter(backend, (60,))
    left, right = _sides(kind, 60, 12, 25, 33)
    a, b, more = left[:60], right[:70], right[70:]
    aligned = [[b, b] for b in range(60)]
    pairs = {
        "1 to n": [*aligned, *([3, j] for j in range(60, 70)), [59, 69]],
        "n to m": [*aligned, *([i, j] for i in range(5) for j in range(5) if i != j)],
        "scattered": [[7, 60], *aligned[:30], [7, 61], *aligned[40:], [35, 2]],
        "nothing in place": [[i, i + 1] for i in range(60)],
    }[shape]
    device = _device(backend)
    found = alignment_ranks(
        a.to(device),
        b.to(device),
        csls_k,
        left[60:].to(device),
        more.to(device),
        screen,
        backend,
        pairs=torch.tensor(pairs),
    )
    there, back = _brute_force_of_pairs(left, right, pairs, csls_k)
    assert found.left_to_right.tolist() == there
    assert found.right_to_left.tolist() == back
    expected = reference.dense_ranks(reference.dense_scores(left, right, csls_k), torch.tensor(pairs))
    for one, other in zip((*found, *found.ties), expected, strict=True):
        assert torch.equal(one.cpu().double(), other.double())


def test_a_perfect_match_of_two_partners_ranks_first(backend: str) -> None:
    rows = torch.eye(3, device=_device(backend))
    found = alignment_ranks(
        rows, rows[[0, 0, 1, 2]], pairs=torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3]]), backend=backend
    )
    assert found.left_to_right.tolist() == found.right_to_left.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.tensor([[0, 5]]), "0 to 4 on the right; got 5 in pair 0"),
        (torch.tensor([[0, 0], [-1, 0]]), "0 to 4 on the left; got -1 in pair 1"),
        (torch.tensor([[0, 0], [0, 0]]), "a pair twice"),
        (torch.tensor([0, 1]), r"pairs must have shape \[any, 2\]"),
        (torch.ones(2, 2), "pairs must be an int64 tensor .* got torch.float32"),
        ([[0, 0]], "got list"),
        (torch.empty(0, 2, dtype=torch.int64), "no pairs"),
    ],
)
def test_bad_pairs(pairs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        alignment_ranks(torch.ones(5, 4), torch.ones(5, 4), pairs=pairs)


def _assert_best(values: Tensor, index: Tensor, scores: Tensor, k: int) -> None:
    """The k best of each row. Two that just are a tie may be none in float64 sums of other blocks, and the reverse."""
    expected_values, expected = reference.dense_topk(scores, k)
    index = index.cpu()
    difference = (scores.gather(1, index) - expected_values)[index != expected].abs()
    assert ((difference - reference.TIE).abs() <= 2**-49).all()
    assert (index.sort(1).values.diff(dim=1) > 0).all(), "one stands twice in a row"
    assert torch.allclose(values.cpu().double(), expected_values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("small_blocks")
def test_topk_and_mutual_pairs_equal_the_dense_ones(
    backend: str, shape: tuple[int, ...], kind: str, screen: str | None
) -> None:
    _spare_the_interpreter(backend, shape)
    left, right = _sides(kind, *shape[:4])
    csls_k, device = shape[4], _device(backend)
    scores = reference.dense_scores(left, right, csls_k)
    options = {"csls_k": csls_k, "screen": screen, "backend": backend}

    for k in {1, min(12, len(right)), len(right)}:
        _assert_best(*alignment_topk(left.to(device), right.to(device), k, **options), scores, k)
    k = min(12, len(left), len(right))
    both = alignment_topk_both(left.to(device), right.to(device), k, **options)
    for found, matrix in zip(both, (scores, scores.T), strict=True):
        _assert_best(*found, matrix, k)
    pairs = mutual_nearest(left.to(device), right.to(device), **options)
    assert torch.equal(pairs.cpu(), reference.dense_mutual_nearest(scores))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("screen", SCREENS)
def test_other_dtypes(backend: str, dtype: torch.dtype, screen: str | None) -> None:
    _spare_the_interpreter(backend, (150,))
    left, right = (side.to(dtype) for side in _sides("random", 150, 0, 20, 64))
    try:
        ranks = alignment_ranks(
            *(t.to(_device(backend)) for t in (left, right[:150])),
            5,
            right_extra=right[150:].to(_device(backend)),
            screen=screen,
            backend=backend,
        )
    except BackendError as error:
        pytest.skip(str(error))
    there, back = _brute_force_ranks(left, right, 150, 5)
    assert np.array_equal(ranks[0].cpu().numpy(), there)
    assert np.array_equal(ranks[1].cpu().numpy(), back)
    scores, _ = alignment_topk(left.to(_device(backend)), right.to(_device(backend)), 2, backend=backend)
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("screen", SCREENS)
def test_layouts_lengths_and_thread_counts_do_not_matter(backend: str, screen: str | None) -> None:
    _spare_the_interpreter(backend, (300,))
    left, right = (side.to(_device(backend)) for side in _sides("random", 300, 0, 0, 33))
    expected = alignment_ranks(left, right, 5, backend="reference")
    columns = torch.stack([left, left], 2)[:, :, 0]  # elements of a row are not adjacent
    wide = torch.cat([right, right], 1)[:, :33]  # rows are
    lengths = torch.logspace(-12, 12, 300, device=left.device)[:, None]
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for a, b in ((columns, wide), (left * lengths, right / lengths)):
                ranks = alignment_ranks(a, b, 5, screen=screen, backend=backend)
                assert torch.equal(ranks[0], expected[0])
                assert torch.equal(ranks[1], expected[1])
    finally:
        torch.set_num_threads(threads)
    same = alignment_ranks(left, left[:1].expand(300, -1), backend=backend)  # stride 0
    assert (same.ties[0] == 299).all()
    assert (same.left_to_right == 150.5).all()


@pytest.mark.parametrize("screen", SCREENS)
def test_lengths_at_the_ends_of_float32(backend: str, screen: str | None) -> None:
    left, right = (side.to(_device(backend)) for side in _sides("random", 80, 0, 0, 16))
    left[3] *= 1e-38
    right[5] *= 2e37
    left[7] *= 1e-43
    ranks = alignment_ranks(left, right, 3, screen=screen, backend=backend)
    there, back = _brute_force_ranks(left.cpu(), right.cpu(), 80, 3)
    assert np.array_equal(ranks[0].cpu().numpy(), there)
    assert np.array_equal(ranks[1].cpu().numpy(), back)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "wild"])
@pytest.mark.parametrize("width", [1, 64, 1500])
def test_approximate_scores_keep_their_bound(backend: str, kind: str, width: int, narrow: bool) -> None:
    if backend == "reference":
        pytest.skip("the reference does not approximate")
    if kind == "wild":  # one large element a row and the rest far below it
        left, right = (torch.randn(90, width) ** 9 for _ in range(2))
    else:
        left, right = _sides(kind, 80, 0, 10, width)
    passes = ops._passes("test", left.to(_device(backend)), "bfloat16" if narrow else None, backend)
    assert passes is not None
    a, b = passes.side([left.to(_device(backend))]), passes.side([right.to(_device(backend))])
    zeros = [torch.zeros(len(side), dtype=torch.float64, device=side.inverse.device) for side in (a, b)]
    columns = exact.Lists.empty(
        (len(b), 128), a.inverse.device
    )  # longer than there are candidates: all are kept
    truth = reference.dense_scores(left, right)
    bound = (a.slack[:, None] + b.slack[None, :]).cpu()

    def check(lists: exact.Lists, truth: Tensor, bound: Tensor) -> None:
        values, order = lists.values.cpu().sort(dim=1, descending=True)
        index = lists.index.cpu().long().gather(1, order)[:, : truth.shape[1]]
        assert torch.equal(index.sort(1).values, torch.arange(truth.shape[1]).expand_as(index))
        error = (values[:, : truth.shape[1]] - truth.gather(1, index)).abs()
        assert (error <= bound.gather(1, index)).all()

    for places, lists in passes.best(a, b, exact.Scoring(1.0, *zeros), 128, columns, lambda done: None):
        check(lists, truth[places], bound[places])
    check(columns, truth.T, bound.T)


@pytest.mark.parametrize(("kind", "kept"), [("random", True), ("clustered", False)])
def test_a_screen_that_decides_little_is_dropped(
    backend: str, kind: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spare_the_interpreter(backend, (300,))
    left, right = (side.to(_device(backend)) for side in _sides(kind, 300, 0, 0, 301))
    passes = ops._passes("test", left, "bfloat16", backend)
    if passes is None:
        pytest.skip("the reference does not screen")
    counted = []
    counts = type(passes).counts

    def counting(self, left, *others):
        counted.append((self.narrow, len(left)))
        return counts(self, left, *others)

    monkeypatch.setattr(type(passes), "counts", counting)
    monkeypatch.setattr(exact, "PROBE", 100)
    alignment_ranks(left, right, 10, screen="bfloat16", backend=backend)
    assert counted == [(True, 100), (kept, 300)]


@pytest.mark.parametrize("csls_k", [0, 4])
def test_further_candidates_are_ranked_against_pairs_alone(backend: str, csls_k: int, monkeypatch) -> None:
    """Most blocks hold no pair of either side, and none of them is counted."""
    if backend != "cpu":
        pytest.skip("needs blocks of a known size")
    left, right = _sides("random", 40, 900, 700, 16)
    (a, more_a), (b, more_b) = _halves(left, 40), _halves(right, 40)
    native = ops._passes("test", left, None, backend)._native
    counted = []

    class Counting:
        def __getattr__(self, name):
            return getattr(native, name)

        def search_counts(self, *arguments):
            counted.append((arguments[4], arguments[8]))
            return native.search_counts(*arguments)

    monkeypatch.setattr("loginmea_fast.native.load", lambda device: Counting())
    ranks = alignment_ranks(a, b, csls_k, more_a, more_b, backend=backend)
    there, back = _brute_force_ranks(left, right, 40, csls_k)
    assert np.array_equal(ranks[0].numpy(), there)
    assert np.array_equal(ranks[1].numpy(), back)
    assert sum(rows * keys for rows, keys in counted) == 40 * 740 + 900 * 40


@pytest.mark.parametrize("room", [0, 3])
def test_a_full_buffer_of_undecided_scores(backend: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks too undecided to be written down are counted in float64."""
    if backend != "triton":
        pytest.skip("only the GPU's passes write undecided scores down")
    from loginmea_fast.ops import _search_device as device

    monkeypatch.setattr(device, "ROOM", 0)
    monkeypatch.setattr(device, "LEAST_ROOM", room)
    monkeypatch.setattr(device, "MOST_ROWS", 40)
    left, right = _sides("ties", 60, 17, 0, 24)
    (a, more), b = _halves(left, 60), right
    ranks = alignment_ranks(
        *(t.to(_device(backend)) for t in (a, b)), 5, more.to(_device(backend)), backend=backend
    )
    there, back = _brute_force_ranks(left, right, 60, 5)
    assert np.array_equal(ranks[0].cpu().numpy(), there)
    assert np.array_equal(ranks[1].cpu().numpy(), back)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("kind", ["random", "ties"])
def test_blocks_of_several_strips(
    backend: str, kind: str, screen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strip's first row is neither the block's first nor the side's; lists and counts go on from strip to strip."""
    if backend != "triton":
        pytest.skip("only the GPU's passes work in strips")
    from loginmea_fast.ops import _search_device as device

    monkeypatch.setattr(device, "MOST_ROWS", 32)
    monkeypatch.setattr(device, "SCORE_BYTES", 4 * 32 * 9)
    left, right = _sides(kind, 60, 17, 11, 24)
    on_device = [t.to(_device(backend)) for t in (left, right)]
    (a, more_a), (b, more_b) = (_halves(side, 60) for side in on_device)
    ranks = alignment_ranks(a, b, 5, more_a, more_b, backend=backend, screen=screen)
    for found, expected in zip(ranks, _brute_force_ranks(left, right, 60, 5), strict=True):
        assert np.array_equal(found.cpu().numpy(), expected)
    found, truth = (
        alignment_topk_both(*sides, 4, csls_k=3, screen=how, backend=which)
        for sides, how, which in ((on_device, screen, backend), ((left, right), None, "reference"))
    )
    for (_, index), (_, expected) in zip(found, truth, strict=True):
        assert torch.equal(index.cpu(), expected)


class _LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["random", "ties"])
def test_no_matrix_of_scores(backend: str, kind: str) -> None:
    n = 3000
    _spare_the_interpreter(backend, (n,))
    left, right = (side.to(_device(backend)) for side in _sides(kind, n, 0, 0, 16))
    for search in (
        lambda: alignment_ranks(left, right, 10, backend=backend),
        lambda: alignment_topk(left, right, 5, 3, backend=backend),
        lambda: mutual_nearest(left, right, 3, backend=backend),
    ):
        with _LargestTensor() as seen:
            search()
        assert seen.largest < n * n / 8


def test_memory_mapped_files(backend: str, tmp_path: Path) -> None:
    left, right = _sides("random", 120, 0, 0, 24)
    mapped = []
    for name, side in (("left", left), ("right", right)):
        np.save(tmp_path / f"{name}.npy", side.numpy())
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    if _device(backend) != "cpu":
        pytest.skip("files map into host memory")
    expected = alignment_ranks(left, right, 5, backend="reference")
    ranks = alignment_ranks(*mapped, 5, backend=backend)
    assert torch.equal(ranks[0], expected[0])
    assert torch.equal(
        mutual_nearest(*mapped, backend=backend), mutual_nearest(left, right, backend="reference")
    )


def test_zero_rows_tie_with_everything(backend: str) -> None:
    left, right = (side.to(_device(backend)) for side in _sides("random", 9, 0, 0, 8))
    left[4] = 0
    ranks = alignment_ranks(left, right, backend=backend)
    assert ranks.left_to_right[4] == 5  # the middle of 1 to 9
    assert ranks.ties[0][4] == 8
    zeros = torch.zeros_like(left)
    scores, index = alignment_topk(zeros, right, 3, backend=backend)
    assert (scores == 0).all()
    assert index.tolist() == [[0, 1, 2]] * 9
    assert mutual_nearest(zeros, right, backend=backend).tolist() == [[0, 0]]


def test_results_are_a_pair_with_ties() -> None:
    left, right = _sides("ties", 30, 0, 0, 4)
    ranks = alignment_ranks(left, right)
    ranks_lr, ranks_rl = ranks
    assert ranks_lr is ranks.left_to_right
    assert ranks_rl is ranks.right_to_left
    assert ranks.ties[0].sum() > 0
    assert torch.equal((2 * ranks_lr).remainder(2).bool(), ranks.ties[0].remainder(2).bool())


def test_gradients_are_no_business_of_a_search(backend: str) -> None:
    left, right = (side.to(_device(backend)).requires_grad_() for side in _sides("random", 20, 0, 0, 4))
    assert not alignment_ranks(left, right, backend=backend).left_to_right.requires_grad
    assert not alignment_topk(left, right, 2, backend=backend)[0].requires_grad


@pytest.mark.parametrize("csls_k", [0, 3])
def test_progress_reaches_its_end(backend: str, csls_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm

    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    left, right = (side.to(_device(backend)) for side in _sides("random", 70, 0, 0, 8))
    alignment_ranks(left, right, csls_k, backend=backend, progress=True)
    alignment_topk(left, right, 3, csls_k, backend=backend, progress=True)
    mutual_nearest(left, right, csls_k, backend=backend, progress=True)
    assert len(bars) == 3
    for bar in bars:
        assert bar.n == bar.total == 70 * 70 * (2 if csls_k else 1)


def test_scores_do_not_depend_on_which_queries_are_asked_for(backend: str) -> None:
    left, right = (side.to(_device(backend)) for side in _sides("random", 80, 20, 0, 16))
    scores, index = alignment_topk(left, right, 7, 5, backend=backend)
    for few in (1, 30, 99):
        some, place = alignment_topk(left[:few], right, 7, 5, backend=backend, query_extra=left[few:])
        assert torch.equal(place, index[:few])
        assert torch.equal(some, scores[:few])


def test_empty_sides() -> None:
    rows, none = torch.ones(3, 4), torch.empty(0, 4)
    assert mutual_nearest(none, rows, 10).shape == (0, 2)
    assert mutual_nearest(rows, none).shape == (0, 2)
    scores, index = alignment_topk(none, rows, 2, csls_k=1)
    assert scores.shape == index.shape == (0, 2)
    with pytest.raises(InputError, match="no pairs"):
        alignment_ranks(none, none)
    with pytest.raises(InputError, match="keys hold no rows"):
        alignment_topk(rows, none, 1)
    empty_extra = alignment_ranks(rows, rows, left_extra=none, right_extra=none)
    assert torch.equal(empty_extra.left_to_right, alignment_ranks(rows, rows).left_to_right)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"right": torch.ones(5, 3)}, r"right must have shape \[any, 4\].*got \[5, 3\]"),
        ({"right": torch.ones(6, 4)}, r"right must have shape \[5, 4\].*got \[6, 4\]"),
        ({"right": torch.ones(5)}, r"right must have shape"),
        ({"right_extra": torch.ones(2, 9)}, r"right_extra must have shape"),
        ({"right": torch.ones(5, 4).double()}, "one dtype"),
        ({"right": torch.ones(5, 4).int()}, "right must have dtype float32"),
        ({"right": [[1.0, 2.0]]}, "right must be a float tensor or numpy array"),
        ({"left": torch.ones(5, 0), "right": torch.ones(5, 0)}, "at least one column"),
        ({"csls_k": 6}, "csls_k must be an integer from 0 to 5, the candidates there are; got 6"),
        ({"csls_k": -1}, "csls_k must be an integer from 0"),
        ({"csls_k": 2.0}, "csls_k must be an integer"),
        ({"screen": "int8"}, "screen must be None or 'bfloat16'; got 'int8'"),
        ({"backend": "gpu"}, "backend must be one of"),
    ],
)
def test_bad_input(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        alignment_ranks(**({"left": torch.ones(5, 4), "right": torch.ones(5, 4)} | arguments))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(backend: str, value: float) -> None:
    good, bad = (torch.ones(9, 4, device=_device(backend)) for _ in range(2))
    bad[6, 2] = value
    for call, name in (
        (lambda: alignment_ranks(good, bad, backend=backend), "right"),
        (lambda: alignment_ranks(good, good, left_extra=bad, backend=backend), "left_extra"),
        (lambda: alignment_topk(bad, good, 1, backend=backend), "queries"),
        (lambda: mutual_nearest(good, bad, backend=backend), "right"),
    ):
        with pytest.raises(InputError, match=f"{name} holds a value that is not finite, in row 6"):
            call()


@pytest.mark.parametrize("k", [0, 6, True, None])
def test_bad_k(k: object) -> None:
    with pytest.raises(InputError, match="k must be an integer from 1 to 5"):
        alignment_topk(torch.ones(3, 4), torch.ones(5, 4), k)


class TestApproximate:
    """faiss proposes, float64 decides."""

    @pytest.fixture(autouse=True)
    def _needs_faiss(self) -> None:
        pytest.importorskip("faiss", reason="faiss is not installed")

    @pytest.mark.parametrize("csls_k", [0, 5])
    def test_says_so_and_gives_exact_scores(self, csls_k: int, caplog: pytest.LogCaptureFixture) -> None:
        g = torch.Generator().manual_seed(1)
        left = torch.randn(700, 12, generator=g)
        right = left + 0.4 * torch.randn(700, 12, generator=g)
        scores, index = alignment_topk(left, right, 3, csls_k, approximate="faiss")
        assert "alignment_topk is approximate" in caplog.text
        recall = float(caplog.records[0].args[2])
        expected_scores, expected_index = alignment_topk(left, right, 3, csls_k, backend="reference")
        same = index == expected_index
        assert same[:, 0].double().mean() > 0.8
        assert 0.5 < recall <= 1
        if csls_k == 0:  # with CSLS the means themselves are approximate
            assert torch.allclose(scores[same], expected_scores[same], atol=1e-6)
        found = {tuple(pair) for pair in mutual_nearest(left, right, csls_k, approximate="faiss").tolist()}
        true = {tuple(pair) for pair in mutual_nearest(left, right, csls_k, backend="reference").tolist()}
        assert len(found & true) > 0.8 * len(true)

    def test_few_rows_are_searched_in_full(self) -> None:
        left, right = _sides("random", 30, 0, 20, 8)
        for k in (1, 50):
            scores, index = alignment_topk(left, right, k, 3, approximate="faiss")
            expected = alignment_topk(left, right, k, 3, backend="reference")
            assert torch.equal(index, expected[1])
            assert torch.allclose(scores, expected[0], atol=1e-6)
        with pytest.raises(InputError, match="approximate must be None or 'faiss'; got 'annoy'"):
            mutual_nearest(left, right, approximate="annoy")


def test_approximate_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match="faiss is not installed; pip install faiss-cpu"):
        mutual_nearest(torch.ones(2, 2), torch.ones(2, 2), approximate="faiss")


def test_opcheck() -> None:
    left, right = torch.randn(12, 5), torch.randn(12, 5)
    extra, pairs = torch.randn(3, 5), torch.tensor([[0, 0], [0, 1], [5, 3]])
    torch.library.opcheck(
        ops._alignment_ranks, (left, right, None, extra, pairs, 2, None, "reference", False)
    )
    torch.library.opcheck(ops._alignment_topk, (left, right, extra, 3, 2, None, "reference", None, False))
    torch.library.opcheck(ops._alignment_topk_both, (left, right, 3, 2, None, "reference", False))
    torch.library.opcheck(ops._mutual_nearest, (left, right, 2, None, "reference", None, False))
