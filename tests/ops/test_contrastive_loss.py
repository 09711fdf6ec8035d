from __future__ import annotations

import math
import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops.contrastive_loss import _contrastive_loss, contrastive_loss
from loginmea_fast.reference import contrastive_loss as reference
from tests.helpers.compare import assert_close

BACKENDS = ("reference", "cpu", "triton")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# rows, width, further keys; more rows than a block of any backend in the last two
SHAPES = ((1, 7, 0), (1, 1, 2), (5, 63, 0), (33, 301, 17), (70, 300, 1), (300, 40, 5), (1100, 24, 130))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every backend that can serve here, on the GPU with panels so small that a few hundred rows make several."""
    name: str = request.param
    _skip_unless_served(name, torch.float32)
    if name == "triton":
        monkeypatch.setattr("loginmea_fast.kernels.contrastive_loss.PANEL_BYTES", 1)
    return name


def _skip_unless_served(backend: str, dtype: torch.dtype) -> None:
    """Skip with the reason that users would read."""
    probe = torch.zeros(1, 1, dtype=dtype, device=_device(backend))
    try:
        contrastive_loss(probe, probe, 1.0, backend=backend)
    except BackendError as error:
        if "building" in str(error):
            raise  # a kernel that does not compile is no reason to skip its tests
        pytest.skip(str(error))


def _device(backend: str) -> str:
    return "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"


def _rows(batch: int, width: int, extra: int, dtype: torch.dtype, device: str = "cpu") -> list[Tensor | None]:
    """Left and right rows that resemble each other as in training, of very different lengths."""
    generator = torch.Generator().manual_seed(batch + width)
    left = torch.randn(batch, width, generator=generator)
    right = left + 2 * torch.randn(batch, width, generator=generator)
    keys = torch.randn(extra, width, generator=generator) if extra else None
    lengths = torch.logspace(-3, 3, batch)[:, None]
    return [None if t is None else t.to(device, dtype) for t in (left * lengths, right / lengths, keys)]


def _loss_and_gradients(function, rows: list[Tensor | None], *options, upstream: float = 1.0, **named):
    leaves = [None if t is None else t.detach().requires_grad_() for t in rows]
    loss = function(leaves[0], leaves[1], *options, right_keys=leaves[2], **named)
    loss.backward(torch.full_like(loss, upstream))
    return loss.detach(), [None if t is None else t.grad for t in leaves]


def _truth(rows: list[Tensor | None], *options, **named):
    """Loss and gradients by the plain formula in float64, from the same rounded rows."""
    double = [None if t is None else t.to("cpu", torch.float64) for t in rows]
    return _loss_and_gradients(reference.contrastive_loss, double, *options, **named)


def _assert_loss(actual: Tensor, expected: Tensor, temperature: float) -> None:
    """Compare losses on the scale of the logits, 1 / temperature: a small loss is made of their rounding."""
    assert_close(
        actual.double() + 1 / temperature, expected.double() + 1 / temperature, "loss", dtype=actual.dtype
    )


def _assert_gradients(
    rows: list[Tensor | None], actual: list[Tensor | None], expected: list[Tensor | None], dtype: torch.dtype
) -> None:
    """Compare gradients with respect to directions: times its row's length, one no longer depends on it."""
    for name, row, a, e in zip(("left", "right", "right_keys"), rows, actual, expected, strict=True):
        assert (a is None) == (e is None)
        if row is None or a is None or e is None:
            continue
        length = row.to("cpu", torch.float64).norm(dim=1, keepdim=True)
        a, e = a.to("cpu", torch.float64) * length, e * length
        if e.abs().max() < 1e-9:
            # Width 1 or a single key: the gradient is 0 but for what rounding leaves of it.
            assert a.abs().max() < (1e-2 if dtype == torch.bfloat16 else 1e-4), (
                f"gradient to {name}: expected zeros"
            )
        else:
            assert_close(a, e, f"gradient to {name}", dtype=dtype)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradients_are_those_of_the_formula(backend, shape, dtype, bidirectional) -> None:
    _skip_unless_served(backend, dtype)
    if shape[0] > 1000 and backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this many rows are for the panels of other backends, and take the interpreter a minute")
    rows = _rows(*shape, dtype, _device(backend))
    loss, gradients = _loss_and_gradients(
        contrastive_loss, rows, 0.1, bidirectional, upstream=3.0, backend=backend
    )
    expected, expected_gradients = _truth(rows, 0.1, bidirectional, upstream=3.0)
    assert loss.dtype == reference.accumulation_dtype(dtype)
    # The logits of bfloat16 rows are float32: the loss is as good as with float32 rows.
    _assert_loss(loss, expected, 0.1)
    _assert_gradients(rows, gradients, expected_gradients, dtype)


def test_the_two_derivations_agree() -> None:
    for bidirectional in (False, True):
        for extra in (0, 6):
            rows = _rows(9, 5, extra, torch.float64)
            loss, gradients = _truth(rows, 0.07, bidirectional)
            keys = rows[1] if rows[2] is None else torch.cat([rows[1], rows[2]])
            by_hand = reference.contrastive_loss_gradient(
                rows[0], keys, torch.arange(9), 0.07, both_ways=bidirectional
            )
            assert_close(by_hand.loss, loss, "loss")
            assert_close(by_hand.queries, gradients[0], "gradient")
            assert_close(by_hand.keys, torch.cat([g for g in gradients[1:] if g is not None]), "gradient")


def test_the_formula_is_cross_entropy() -> None:
    left, right, extra = _rows(12, 8, 3, torch.float64)
    scores = F.normalize(left) @ F.normalize(torch.cat([right, extra])).T / 0.1
    target = torch.arange(12)
    one_way = F.cross_entropy(scores, target)
    assert_close(reference.contrastive_loss(left, right, 0.1, right_keys=extra), one_way, "loss")
    both = (one_way + F.cross_entropy(scores[:, :12].T, target)) / 2
    assert_close(reference.contrastive_loss(left, right, 0.1, True, right_keys=extra), both, "loss both ways")


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_a_low_temperature_does_not_overflow(backend, bidirectional) -> None:
    rows = _rows(150, 48, 20, torch.float32, _device(backend))
    rows[1][3] = -rows[0][3]  # a logit of -100 on the diagonal
    rows[2][:] = -rows[0][:20]
    loss, gradients = _loss_and_gradients(contrastive_loss, rows, 0.01, bidirectional, backend=backend)
    expected, expected_gradients = _truth(rows, 0.01, bidirectional)
    # A similarity's rounding, 1e-7, is 1e-5 in a logit of 100, and so in its probability.
    _assert_loss(loss, expected, 0.01)
    for a, e in zip(gradients, expected_gradients, strict=True):
        assert_close(a, e, "gradient", bounds=(3e-4, 1e-4))


def test_all_similarities_negative_at_a_low_temperature(backend) -> None:
    """The best logit of a row is -100: after a shift by the greatest that could be, 100, all would vanish."""
    left = torch.eye(4, device=_device(backend))[:1].expand(6, 4).contiguous()
    loss = contrastive_loss(left, -left, 0.01, backend=backend)
    assert_close(loss, torch.tensor(math.log(6.0), dtype=torch.float64), "loss")


def test_strided_and_expanded_arguments(backend) -> None:
    device = _device(backend)
    wide = torch.randn(20, 2 * 31, device=device)
    rows = [wide[:, ::2], wide.T[:31].T, wide[:1, :31].expand(4, 31)]
    loss, gradients = _loss_and_gradients(contrastive_loss, rows, 0.1, backend=backend)
    expected, expected_gradients = _truth(rows, 0.1)
    _assert_loss(loss, expected, 0.1)
    _assert_gradients(rows, gradients, expected_gradients, torch.float32)


def test_a_gradient_from_an_expanded_scalar(backend) -> None:
    left, right, _ = _rows(6, 5, 0, torch.float32, _device(backend))
    a, b = left.clone().requires_grad_(), left.clone().requires_grad_()
    contrastive_loss(a, right, 0.1, backend=backend).expand(3, 2).sum().backward()
    (6 * contrastive_loss(b, right, 0.1, backend=backend)).backward()
    assert_close(a.grad, b.grad.double(), "gradient")


def test_only_the_gradients_asked_for(backend) -> None:
    left, right, extra = _rows(9, 6, 4, torch.float32, _device(backend))
    left.requires_grad_()
    contrastive_loss(left, right, 0.1, right_keys=extra, backend=backend).backward()
    assert left.grad is not None
    assert right.grad is None
    assert extra.grad is None


def test_zero_rows_have_no_direction(backend) -> None:
    rows = _rows(8, 5, 3, torch.float32, _device(backend))
    rows[0][2], rows[1][2], rows[1][5], rows[2][0] = 0.0, 0.0, 0.0, 1e-20
    for bidirectional in (False, True):
        loss, gradients = _loss_and_gradients(contrastive_loss, rows, 0.1, bidirectional, backend=backend)
        expected, expected_gradients = _truth(rows, 0.1, bidirectional)
        _assert_loss(loss, expected, 0.1)
        _assert_gradients(rows, gradients, expected_gradients, torch.float32)
        assert not gradients[0][2].any()
        assert not gradients[1][5].any()
        assert not gradients[2][0].any()


def test_nan_is_not_hidden(backend) -> None:
    left, right, _ = _rows(40, 20, 0, torch.float32, _device(backend))
    left[7, 3] = math.nan
    assert contrastive_loss(left, right, 0.1, backend=backend).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitwise_the_same_with_one_thread_and_two(dtype) -> None:
    rows = _rows(700, 90, 33, dtype)
    answers = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            for bidirectional in (False, True):
                answers.append(_loss_and_gradients(contrastive_loss, rows, 0.1, bidirectional))
    finally:
        torch.set_num_threads(threads)
    for i, (loss, gradients) in enumerate(answers[2:]):
        assert torch.equal(loss, answers[i % 2][0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, answers[i % 2][1], strict=True))


def test_gradcheck(backend) -> None:
    _skip_unless_served(backend, torch.float64)
    left, right, extra = (t.requires_grad_() for t in _rows(6, 4, 3, torch.float64, _device(backend)))
    for bidirectional in (False, True):
        assert torch.autograd.gradcheck(
            lambda *t, both=bidirectional: contrastive_loss(t[0], t[1], 0.3, both, backend, right_keys=t[2]),
            (left, right, extra),
        )


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("both_ways", [False, True])
def test_opcheck(backend, both_ways, with_gradient) -> None:
    device = _device(backend)
    left, right, extra = _rows(6, 4, 3, torch.float32, device)
    small = [
        torch.full((6,), 0.1, device=device),
        torch.zeros(9, device=device),
        torch.ones(6, device=device),
    ]
    if with_gradient:
        for tensor in (left, right, extra, *small):
            tensor.requires_grad_()
    tau, bias, weights = small
    if both_ways:
        arguments = (left, right, extra, None, 0.1, None, None, None, None, True, True, True)
    else:
        positives = torch.arange(6, device=device).flip(0)
        pairs = torch.tensor([[0, 8], [3, 1]], device=device)
        arguments = (left, right, extra, positives, 1.0, tau, bias, pairs, weights, False, False, False)
    torch.library.opcheck(_contrastive_loss, (*arguments, "ieee", with_gradient, backend))


def test_torch_compile_sees_one_operator() -> None:
    left, right, _ = _rows(10, 6, 0, torch.float32)
    left.requires_grad_()

    def step(a: Tensor, b: Tensor) -> Tensor:
        return 2 * contrastive_loss(torch.tanh(a), b, 0.1)

    expected = torch.autograd.grad(step(left, right), left)[0]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_close(torch.autograd.grad(compiled(left, right), left)[0], expected.double(), "gradient")


def test_autocast_runs_the_products_in_bfloat16(backend) -> None:
    _skip_unless_served(backend, torch.bfloat16)
    device = _device(backend)
    left, right, _ = _rows(10, 6, 0, torch.float32, device)
    with torch.autocast(device, torch.bfloat16):
        loss = contrastive_loss(left, right, 0.1, backend=backend)
        mixed = contrastive_loss(left.bfloat16(), right, 0.1, backend=backend)
    assert torch.equal(loss, contrastive_loss(left.bfloat16(), right.bfloat16(), 0.1, backend=backend))
    assert torch.equal(mixed, loss)


def test_a_second_derivative_is_refused() -> None:
    left, right, _ = _rows(4, 3, 0, torch.float64)
    left.requires_grad_()
    with pytest.raises(BackendError, match=r"reference\.contrastive_loss"):
        torch.autograd.grad(contrastive_loss(left, right, 0.1), left, create_graph=True)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bfloat16"])
def test_products_of_lower_precision_keep_float32_logits(backend, precision) -> None:
    if precision == "bfloat16" and backend == "triton":
        _skip_unless_served(backend, torch.bfloat16)
    rows = _rows(90, 300, 7, torch.float32, _device(backend))
    loss, gradients = _loss_and_gradients(contrastive_loss, rows, 0.1, backend=backend, precision=precision)
    expected, expected_gradients = _truth(rows, 0.1)
    # Roundings of 2^-9 an element average out over the width: the loss moves far less than any element.
    worst = {"ieee": 1e-6, "tf32": 1e-4, "bfloat16": 1e-3}[precision]
    assert abs(loss.item() - expected.item()) < worst * expected.item()
    _assert_gradients(
        rows, gradients, expected_gradients, torch.float32 if precision == "ieee" else torch.bfloat16
    )


GOOD = torch.ones(3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"left": torch.ones(0, 4), "right": torch.ones(0, 4)}, "at least one row"),
        ({"left": torch.ones(3, 0), "right": torch.ones(3, 0)}, "at least one row and one column"),
        ({"right": torch.ones(3, 5)}, r"right must have shape \[any, 4\].*as wide as left"),
        ({"right": torch.ones(2, 4)}, r"right must have shape \[3, 4\]"),
        ({"left": torch.ones(3)}, "left must have shape"),
        ({"right_keys": torch.ones(2, 5)}, "right_keys must have shape"),
        ({"left_keys": torch.ones(2, 5), "bidirectional": True}, "left_keys must have shape"),
        ({"left_keys": torch.ones(2, 4)}, "left_keys are negatives of right rows"),
        ({"excluded": torch.ones(2, 2)}, "excluded must be a tensor of int64; got float32"),
        ({"excluded": torch.tensor([[0, 3]])}, r"excluded\[:, 1\] must be from 0 to 2; got 3"),
        ({"excluded": torch.tensor([[-1, 0]])}, r"excluded\[:, 0\] must be from 0 to 2; got -1"),
        ({"row_weights": torch.zeros(3)}, "row_weights must be finite, not negative and not all zero"),
        (
            {"row_weights": torch.tensor([1.0, -1.0, 1.0])},
            "row_weights must be finite, not negative.*got -1 to 1",
        ),
        ({"row_weights": torch.ones(2)}, "row_weights must have shape"),
        ({"reduction": "all"}, "reduction must be one of mean, sum, none"),
        ({"right": torch.ones(3, 4, dtype=torch.float64)}, "one dtype"),
        ({"left": torch.ones(3, 4, dtype=torch.int64)}, "dtype"),
        ({"left": [[1.0]]}, "must be a tensor"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"temperature": torch.tensor(-0.1)}, "temperature must be positive and finite; got -0.1"),
        ({"temperature": torch.tensor([0.1, 0.0, 0.1])}, "temperature must be positive and finite; got 0"),
        ({"temperature": torch.ones(2)}, "temperature must have shape"),
        ({"temperature": "0.1"}, "temperature must be a number or a tensor; got str"),
        ({"backend": "gpu"}, "backend must be one of"),
        ({"precision": "half"}, "precision must be None or one of"),
    ],
)
def test_bad_input_is_named(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        contrastive_loss(**{"left": GOOD, "right": GOOD, "temperature": 0.1, **arguments})
