from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops._dispatch import watch_choices
from loginmea_fast.ops.low_rank_fusion import adaptive_low_rank_fusion, low_rank_fusion
from loginmea_fast.ops.modality_scale import modality_scale
from loginmea_fast.reference import low_rank_fusion as reference
from tests.emulation import library
from tests.helpers.compare import TOLERANCE, assert_close

ops = importlib.import_module("loginmea_fast.ops.low_rank_fusion")
scale_ops = importlib.import_module("loginmea_fast.ops.modality_scale")

BACKENDS = ("reference", "cpu", "triton", "cuda")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# rows, rank, widths of the modalities, out width, 1 to 6 modalities; the last two have more rows than a block of any
# kernel
SHAPES = (
    (0, 2, (3, 5), 4),
    (1, 1, (1,), 1),
    (7, 3, (5,), 63),
    (6, 2, (128, 300, 301), 16),
    (13, 1, (3, 17), 301),
    (70, 3, (9, 2, 7, 4), 66),
    (50, 3, (1, 2, 3, 4, 5), 1),
    (9, 2, (4, 1, 2, 3, 2, 6), 33),
    (33, 8, (63, 63, 63), 63),
    (1030, 2, (20, 33), 65),
    (400, 2, (65, 64, 63), 130),
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every backend that can serve here, on the GPU with blocks so small that a few hundred rows make several."""
    name: str = request.param
    _skip_unless_served(name, torch.float32)
    _with_least_blocks(monkeypatch)
    return name


def _with_least_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("T_BYTES", "DP_BYTES"):
        monkeypatch.setattr(f"loginmea_fast.kernels._operands.{room}", 1)


def _device(backend: str) -> str:
    return "cuda" if backend in ("cuda", "triton") and torch.cuda.is_available() else "cpu"


def _skip_unless_served(backend: str, dtype: torch.dtype) -> None:
    """Skip with the reason that users would read."""
    one = torch.zeros(1, 1, dtype=dtype, device=_device(backend))
    try:
        low_rank_fusion([one], [one.expand(1, 2, 1)], one, one, backend=backend)
    except BackendError as error:
        if "building" in str(error):
            raise  # a kernel that does not compile is no reason to skip its tests
        pytest.skip(str(error))


def _case(
    rows: int, rank: int, widths: tuple[int, ...], out: int, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, list[Tensor]]:
    """Arguments of a scale at which every term counts, and no bias that would hide small errors."""
    generator = torch.Generator().manual_seed(rows + rank + out)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    small = torch.float32 if dtype == torch.bfloat16 else dtype
    case = {
        "inputs": [normal(rows, width) for width in widths],
        "factors": [normal(rank, width + 1, out, scale=(width + 1) ** -0.5) for width in widths],
        "rank_weights": [normal(1, rank)],
        "bias": [torch.zeros(1, out, dtype=torch.float64)],
        "row_scale": [normal(rows, len(widths)).abs() + 0.1],
        "upstream": [normal(rows, out)],
    }
    wide = {"rank_weights", "bias", "row_scale"}
    return {
        name: [t.to(device, small if name in wide else dtype) for t in tensors]
        for name, tensors in case.items()
    }


def _run(function, case: dict[str, list[Tensor]], scaled: bool = True, **options):
    """Output and all gradients, by name."""
    names = ["inputs", "factors", "rank_weights", "bias", *(["row_scale"] if scaled else [])]
    leaves = {name: [t.detach().requires_grad_() for t in case[name]] for name in names}
    y = function(
        leaves["inputs"],
        leaves["factors"],
        leaves["rank_weights"][0],
        leaves["bias"][0],
        leaves["row_scale"][0] if scaled else None,
        **options,
    )
    flat = [(f"{name}[{i}]", t) for name in names for i, t in enumerate(leaves[name])]
    gradients = torch.autograd.grad(y, [t for _, t in flat], case["upstream"][0])
    return y.detach(), {name: g for (name, _), g in zip(flat, gradients, strict=True)}


def _truth(case: dict[str, list[Tensor]], scaled: bool = True):
    """The same by the plain formula in float64, from the same rounded arguments."""
    double = {name: [t.to("cpu", torch.float64) for t in tensors] for name, tensors in case.items()}
    return _run(reference.low_rank_fusion, double, scaled)


def _assert_same(actual, expected, dtype: torch.dtype) -> None:
    bounds = rank_bounds = None
    if dtype == torch.bfloat16:
        # Every factor of a product brings its own rounding. The gradient of the rank weights is an inner product of
        # many terms of both signs: their roundings do not shrink with its value.
        factors = sum(name.startswith("factors") for name in expected[1])
        bounds = tuple(bound * max(1.0, factors / 3) for bound in TOLERANCE[dtype])
        rank_bounds = (6e-2, 6e-2)
    assert_close(actual[0], expected[0], "output", dtype=dtype, bounds=bounds)
    for name, gradient in expected[1].items():
        assert_close(
            actual[1][name],
            gradient,
            f"gradient to {name}",
            dtype=dtype,
            bounds=rank_bounds if name.startswith("rank_weights") else bounds,
        )


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "plain"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_the_formula(backend, shape, dtype, scaled) -> None:
    _skip_unless_served(backend, dtype)
    case = _case(*shape, dtype, _device(backend))
    actual = _run(low_rank_fusion, case, scaled, backend=backend)
    assert actual[0].dtype == dtype
    _assert_same(actual, _truth(case, scaled), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kept_products_give_the_same_gradients(backend, shape, dtype) -> None:
    _skip_unless_served(backend, dtype)
    case = _case(*shape, dtype, _device(backend))
    actual = _run(low_rank_fusion, case, backend=backend, keep_products=True)
    _assert_same(actual, _truth(case), dtype)


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_blocks_of_as_many_rows_as_are_asked_for(name, monkeypatch) -> None:
    _skip_unless_served(name, torch.float32)
    case = _case(400, 2, (65, 65, 65), 130, torch.float32, _device(name))
    for rows in ("1", "256", "1000"):  # each a whole number of tiles, and no more than there are
        monkeypatch.setenv("LOGINMEA_FUSION_ROWS", rows)
        _assert_same(_run(low_rank_fusion, case, backend=name), _truth(case), torch.float32)
    monkeypatch.setenv("LOGINMEA_FUSION_ROWS", "many")
    with (
        torch.no_grad(),
        pytest.raises(InputError, match="LOGINMEA_FUSION_ROWS must be a whole number above 0; got 'many'"),
    ):  # before any work is lost
        _run(low_rank_fusion, case, backend=name)


def test_blocks_on_zh_en(monkeypatch) -> None:
    """In tensors without memory: one wave of tiles on an H100 forward, and dP of about its L2 backward."""
    from loginmea_fast.kernels._operands import Operands

    inputs = [torch.empty(38_960, 300, device="meta") for _ in range(3)]
    factors = [torch.empty(8, 301, 300, device="meta") for _ in range(3)]
    call = inputs, factors, torch.empty(1, 8, device="meta"), None, "tf32"
    assert [Operands(*call, backward=backward).block for backward in (False, True)] == [3328, 1664]
    monkeypatch.setenv("LOGINMEA_FUSION_ROWS", "8192")
    assert [Operands(*call, backward=backward).block for backward in (False, True)] == [3328, 8192]


def test_products_of_modalities_of_one_width_are_one_launch() -> None:
    from loginmea_fast.kernels._operands import Operands

    for widths, groups in (((60, 64, 1), [3]), ((65, 64, 64), [1, 1, 1]), ((0, 0), [2]), ((0, 7), [1, 1])):
        case = _case(5, 2, widths, 4, torch.float32)
        f = Operands(case["inputs"], case["factors"], case["rank_weights"][0], None, "ieee", backward=True)
        assert [group.stop - group.start for group in f.groups()] == groups
        found = [view for group in f.groups() for view in f.side_by_side(f.w, group)]
        assert all(torch.equal(view, f.w[:, f.part(m)]) for m, view in enumerate(found))


@pytest.mark.parametrize("keep", [False, True], ids=["again", "kept"])
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0]], ids=str)
def test_cuda_tiles_of_warpgroups_are_those_of_warps(shape, precision, keep, monkeypatch) -> None:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    _skip_unless_served("cuda", dtype)
    from loginmea_fast.ops import _dispatch, _fusion_cuda

    case = _case(*shape, dtype, device=_device("cuda"))
    if _dispatch.capability(case["inputs"][0]) != (9, 0):
        pytest.skip("warpgroups are of compute capability 9.0")
    _with_least_blocks(monkeypatch)
    launched = []

    def watched(name: str, *arguments: object) -> None:
        launched.append(name)
        launch(name, *arguments)

    launch = _fusion_cuda.launch
    monkeypatch.setattr(_fusion_cuda, "launch", watched)
    options = {"backend": "cuda", "precision": precision, "keep_products": keep}
    by_warps = _run(low_rank_fusion, case, **options)
    assert not any("group" in name for name in launched)
    monkeypatch.setenv("LOGINMEA_HOPPER", "1")
    by_groups = _run(low_rank_fusion, case, **options)
    assert "fusion_group_forward" in launched
    assert ("fusion_group_projection_gradient" in launched) == (not keep and len(shape[2]) > 1)
    _assert_same(by_groups, by_warps, dtype)  # operands are rounded in both alike


def test_the_two_derivations_agree() -> None:
    for scaled in (True, False):
        case = _case(1030, 3, (5, 6, 7), 4, torch.float64)  # more rows than a block
        expected = _truth(case, scaled)
        small = [case[name][0] for name in ("rank_weights", "bias")]
        scale = case["row_scale"][0] if scaled else None
        for keep in (False, True):
            products = torch.empty(3, 3, 1030, 4, dtype=torch.float64) if keep else None
            y = reference.low_rank_fusion_forward(case["inputs"], case["factors"], *small, scale, products)
            dx, dw, *rest = reference.low_rank_fusion_backward(
                case["upstream"][0], case["inputs"], case["factors"], small[0], scale, products
            )
            gradients = [*dx, *dw, *rest[:2], *([rest[2]] if scaled else [])]
            _assert_same((y, dict(zip(expected[1], gradients, strict=True))), expected, torch.float64)


def test_the_formula_is_the_sum_over_ranks_of_products() -> None:
    case = _case(3, 2, (2, 4), 5, torch.float64)
    t = [x * case["row_scale"][0][:, m, None] for m, x in enumerate(case["inputs"])]
    one = torch.ones(3, 1, dtype=torch.float64)
    expected = case["bias"][0].expand(3, 5).clone()
    for k in range(2):
        p = [torch.cat([one, v], dim=1) @ w[k] for v, w in zip(t, case["factors"], strict=True)]
        expected += case["rank_weights"][0][0, k] * p[0] * p[1]
    assert_close(
        reference.low_rank_fusion(
            case["inputs"],
            case["factors"],
            case["rank_weights"][0],
            case["bias"][0],
            case["row_scale"][0],
        ),
        expected,
        "output",
    )


def test_a_projection_or_a_rank_weight_of_zero(backend) -> None:
    """Gradients are products of the other factors, never quotients."""
    case = _case(9, 3, (4, 5, 6), 7, torch.float32, _device(backend))
    case["factors"][1].zero_()
    case["rank_weights"][0][0, 1] = 0.0
    for keep in (False, True):
        actual = _run(low_rank_fusion, case, backend=backend, keep_products=keep)
        _assert_same(actual, _truth(case), torch.float32)
    case["factors"][1][0, 0] = 1.0
    _assert_same(_run(low_rank_fusion, case, backend=backend), _truth(case), torch.float32)


def test_strided_arguments_and_an_expanded_gradient(backend) -> None:
    device = _device(backend)
    case = _case(20, 2, (31, 31), 9, torch.float32, device)
    wide = torch.randn(20, 100, device=device)
    case["inputs"] = [wide[:, 3:34], wide[:, 38:100:2]]
    case["factors"] = [torch.randn(9, 32, 2, device=device).permute(2, 1, 0) / 5 for _ in range(2)]
    case["row_scale"] = [torch.rand(2, 20, device=device).T]
    case["upstream"] = [torch.randn(1, 1, device=device).expand(20, 9)]
    _assert_same(_run(low_rank_fusion, case, backend=backend), _truth(case), torch.float32)
    case["inputs"][0] = torch.randn(1, 31, device=device).expand(20, 31)
    _assert_same(_run(low_rank_fusion, case, backend=backend), _truth(case), torch.float32)


def test_only_the_gradients_asked_for(backend) -> None:
    case = _case(9, 2, (4, 5), 7, torch.float32, _device(backend))
    expected = _truth(case)[1]
    for wanted in ("inputs[1]", "factors[0]", "rank_weights[0]", "bias[0]", "row_scale[0]"):
        tensors = {
            f"{name}[{i}]": t.detach().clone() for name, group in case.items() for i, t in enumerate(group)
        }
        tensors[wanted].requires_grad_()
        y = low_rank_fusion(
            [tensors["inputs[0]"], tensors["inputs[1]"]],
            [tensors["factors[0]"], tensors["factors[1]"]],
            tensors["rank_weights[0]"],
            tensors["bias[0]"],
            tensors["row_scale[0]"],
            backend=backend,
        )
        y.backward(case["upstream"][0])
        assert_close(tensors[wanted].grad, expected[wanted], wanted)
        assert all(t.grad is None for name, t in tensors.items() if name != wanted)


def test_nan_is_not_hidden(backend) -> None:
    case = _case(40, 2, (20, 20), 33, torch.float32, _device(backend))
    case["inputs"][1][7, 3] = math.nan
    y, gradients = _run(low_rank_fusion, case, backend=backend)
    assert y[7].isnan().all()
    assert not y[:7].isnan().any()
    assert not y[8:].isnan().any()
    assert gradients["factors[0]"].isnan().any()


def _adaptive_gradients(options: dict[str, object]) -> tuple[Tensor, ...]:
    case = _case(900, 2, (70, 70), 33, torch.float32)
    leaves = [t.requires_grad_() for name in ("inputs", "factors") for t in case[name]]
    query = torch.linspace(-1, 1, 70)[None].requires_grad_()
    small = [case[name][0] for name in ("rank_weights", "bias")]
    y = adaptive_low_rank_fusion(leaves[:2], query, leaves[2:], *small, **options)
    return torch.autograd.grad(y, [query, *leaves], case["upstream"][0])


@pytest.mark.parametrize("options", [{}, {"keep_products": True}, {"precision": "bfloat16"}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitwise_the_same_with_one_thread_and_two(dtype, options) -> None:
    case = _case(900, 3, (70, 40, 64), 90, dtype)
    answers = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            y, gradients = _run(low_rank_fusion, case, **options)
            scale = modality_scale(case["inputs"])
            answers.append([y, *gradients.values(), scale, *_adaptive_gradients(options)])
    finally:
        torch.set_num_threads(threads)
    for answer in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answer, answers[0], strict=True))


def test_gradcheck(backend) -> None:
    _skip_unless_served(backend, torch.float64)
    case = _case(5, 2, (3, 4, 2), 3, torch.float64, _device(backend))
    names = ("inputs", "factors", "rank_weights", "bias", "row_scale")
    leaves = [t.requires_grad_() for name in names for t in case[name]]
    for keep in (False, True):
        assert torch.autograd.gradcheck(
            lambda *t, keep=keep: low_rank_fusion(t[:3], t[3:6], *t[6:], backend, keep_products=keep), leaves
        )


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("keep", [False, True])
def test_opcheck(backend, keep, scaled) -> None:
    case = _case(6, 2, (3, 4), 5, torch.float32, _device(backend))
    for group in case.values():
        for t in group:
            t.requires_grad_()
    scale = case["row_scale"][0] if scaled else None
    arguments = (case["inputs"], case["factors"], case["rank_weights"][0], case["bias"][0], scale)
    torch.library.opcheck(ops._low_rank_fusion, (*arguments, None, None, False, keep, "ieee", backend))
    plain = [[t.detach() for t in a] if isinstance(a, list) else a for a in arguments]
    plain[2:] = [None if t is None else t.detach() for t in plain[2:]]
    products = torch.empty(0, device=_device(backend))
    for inputs_needed, factors_needed in ((True, True), (True, False), (False, True), (False, False)):
        torch.library.opcheck(
            ops._low_rank_fusion_backward,
            (
                case["upstream"][0].detach(),
                *plain,
                None,
                None,
                False,
                products,
                inputs_needed,
                factors_needed,
                "ieee",
                backend,
            ),
        )


def test_torch_compile_sees_one_operator() -> None:
    case = _case(6, 2, (3, 3), 5, torch.float32)

    def step(*inputs: Tensor) -> Tensor:
        scale = modality_scale(inputs)
        return 2 * low_rank_fusion(inputs, case["factors"], case["rank_weights"][0], case["bias"][0], scale)

    x = [t.requires_grad_() for t in case["inputs"]]
    expected = torch.autograd.grad(step(*x).square().sum(), x)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for a, e in zip(torch.autograd.grad(compiled(*x).square().sum(), x), expected, strict=True):
        assert_close(a, e.double(), "gradient")


def test_autocast_casts_inputs_and_factors(backend) -> None:
    _skip_unless_served(backend, torch.bfloat16)
    device = _device(backend)
    case = _case(10, 2, (6, 7), 5, torch.float32, device)
    small = [case[name][0] for name in ("rank_weights", "bias", "row_scale")]
    with torch.autocast(device, torch.bfloat16):
        y = low_rank_fusion(
            [case["inputs"][0].bfloat16(), case["inputs"][1]], case["factors"], *small, backend
        )
    cast = [[t.bfloat16() for t in case[name]] for name in ("inputs", "factors")]
    assert torch.equal(y, low_rank_fusion(*cast, *small, backend))


def test_a_second_derivative_is_refused() -> None:
    case = _case(4, 1, (3,), 2, torch.float64)
    x = case["inputs"][0].requires_grad_()
    y = low_rank_fusion([x], case["factors"], case["rank_weights"][0], case["bias"][0])
    with pytest.raises(BackendError, match=r"reference\.low_rank_fusion\.low_rank_fusion"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(BackendError, match=r"reference\.low_rank_fusion\.modality_scale"):
        torch.autograd.grad(modality_scale([x]).sum(), x, create_graph=True)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bfloat16"])
def test_products_of_lower_precision_keep_float32_sums(backend, precision) -> None:
    if precision == "bfloat16" and backend == "triton":
        _skip_unless_served(backend, torch.bfloat16)
    case = _case(90, 3, (300, 300, 300), 63, torch.float32, _device(backend))
    actual = _run(low_rank_fusion, case, backend=backend, precision=precision)
    assert actual[0].dtype == torch.float32
    exact = precision == "ieee" or (precision == "tf32" and backend in ("reference", "cpu"))
    # Each operand is rounded once, to 2^-9; three factors multiply their errors' share, sums average them.
    _assert_same(actual, _truth(case), torch.float32 if exact else torch.bfloat16)


SCALES = ("reference", "cpu", "triton")  # what serves the scale


@pytest.mark.parametrize("backend", SCALES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "widths"), [(0, (3, 3)), (1, (1,)), (7, (63, 63, 63)), (37, (130, 130)), (300, (301, 301))]
)
def test_modality_scale_is_the_formula(backend, rows, widths, dtype) -> None:
    _skip_unless_served(backend, dtype)
    device = _device(backend)
    x = [torch.randn(rows, width).to(device, dtype) * 2 for width in widths]
    small = torch.float32 if dtype == torch.bfloat16 else dtype
    query, upstream = (
        torch.randn(*shape).to(device, small) for shape in ((1, widths[0]), (rows, len(widths)))
    )
    for q in (query, None):
        leaves = [t.detach().requires_grad_() for t in (*x, *([] if q is None else [q]))]
        truth = [t.detach().to("cpu", torch.float64).requires_grad_() for t in leaves]
        m = len(x)
        r = modality_scale(leaves[:m], None if q is None else leaves[m], backend)
        expected = reference.modality_scale(truth[:m], None if q is None else truth[m])
        assert r.dtype == small
        assert_close(r, expected, "scale")
        # The softmax of one modality is 1 whatever its query: that gradient is 0 but for its rounding.
        for a, e in zip(
            torch.autograd.grad(r, leaves, upstream),
            torch.autograd.grad(expected, truth, upstream.to("cpu", torch.float64)),
            strict=True,
        ):
            if e.numel() and e.abs().max() < 1e-12:
                assert a.abs().max() < 1e-5
            else:
                assert_close(a, e, "gradient", dtype=dtype)


def test_modality_scale_gradcheck_and_opcheck() -> None:
    x = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    query = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    for backend in ("reference", "cpu"):  # Triton's tanh is float32's
        _skip_unless_served(backend, torch.float64)
        assert torch.autograd.gradcheck(lambda q, *v, b=backend: modality_scale(v, q, b), (query, *x))
        assert torch.autograd.gradcheck(lambda *v, b=backend: modality_scale(v, None, b), x)
        torch.library.opcheck(scale_ops._modality_scale, (x, query, None, backend))
        torch.library.opcheck(scale_ops._modality_scale, (x, None, torch.rand(5, 3) > 0.4, backend))


def test_the_two_derivations_of_the_scale_agree() -> None:
    x = [torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    query = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(6, 3, dtype=torch.float64)
    for q in (query, None):
        expected = torch.autograd.grad(
            reference.modality_scale(x, q), [*x, *([] if q is None else [q])], upstream
        )
        dx, dq = reference.modality_scale_backward(upstream, [v.detach() for v in x], q)
        for a, e in zip([*dx, *([] if dq is None else [dq])], expected, strict=True):
            assert_close(a, e, "gradient")


@pytest.mark.parametrize("backend", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_row_of_zeros_is_fused_without_nan(backend, dtype) -> None:
    _skip_unless_served(backend, dtype)
    case = _case(6, 2, (5, 5), 4, dtype, _device(backend))
    case["inputs"][1][2] = 0.0
    case["inputs"][0][3], case["inputs"][1][3] = 0.0, 0.0
    x = [t.requires_grad_() for t in case["inputs"]]
    query = torch.ones(1, 5, dtype=dtype, device=_device(backend), requires_grad=True)
    scale = modality_scale(x, query, backend)
    y = low_rank_fusion(x, case["factors"], case["rank_weights"][0], case["bias"][0], scale, backend)
    gradients = torch.autograd.grad(y.square().sum(), [*x, query])
    assert y.isfinite().all()
    # A zero row is scaled by 1 / 1e-12, so its own gradient is large; it must be finite.
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("backend", SCALES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1e-36, 1e-30, 1e-13, 1e-12, 1e18, 1e30])
def test_rows_of_any_length_have_their_direction(backend, dtype, length) -> None:
    """Squares of float32 elements of 1e-30 vanish and those of 1e30 overflow: the length must not."""
    _skip_unless_served(backend, dtype)
    x = [torch.randn(4, 5).double(), torch.randn(4, 5).double()]
    x[0][1] *= length / x[0][1].norm()
    x[1][2] *= length / x[1][2].norm()
    x = [v.to(_device(backend), dtype).requires_grad_() for v in x]
    truth = [v.detach().to("cpu", torch.float64).requires_grad_() for v in x]
    query = torch.randn(1, 5)
    for q in (query.to(_device(backend), dtype), None):
        r = modality_scale(x, q, backend)
        expected = reference.modality_scale(truth, None if q is None else q.to("cpu", torch.float64))
        unit = torch.stack([r[:, m, None] * v.to(r.dtype) for m, v in enumerate(x)])
        wanted = torch.stack([expected[:, m, None] * v for m, v in enumerate(truth)])
        if q is None:
            assert_close(unit.norm(dim=2), torch.ones(2, 4).double(), "length", dtype=r.dtype)
        assert_close(unit.flatten(1), wanted.flatten(1), "unit rows", dtype=r.dtype)
        # Each row's gradient is as long as its reciprocal length: rows are compared at their own scale.
        gradients = torch.autograd.grad(r, x, r.detach().reciprocal().clamp(1e-37, 1e37))
        upstream = expected.detach().reciprocal().clamp(1e-37, 1e37)
        for a, e in zip(gradients, torch.autograd.grad(expected, truth, upstream), strict=True):
            for row, wanted_row in zip(a, e, strict=True):
                assert_close(row, wanted_row, "gradient", dtype=dtype)


def _presence(rows: int, modalities: int) -> Tensor:
    """Random, with a row that has none and one that has all."""
    present = torch.rand(rows, modalities) > 0.4
    present[0], present[1] = False, True
    return present


def _scale_of_the_present(x: list[Tensor], query: Tensor | None, present: Tensor) -> Tensor:
    """Row by row, the modalities that a row has and no others."""
    rows = []
    for row, has in enumerate(present.tolist()):
        own = [m for m, p in enumerate(has) if p]
        scale = x[0].new_zeros(len(x))
        if own:
            given = reference.modality_scale([x[m][row : row + 1] for m in own], query)[0]
            scale = scale.index_put((torch.tensor(own),), given)
        rows.append(scale)
    return torch.stack(rows)


@pytest.mark.parametrize("backend", SCALES)
@pytest.mark.parametrize("with_query", [True, False], ids=["query", "lengths"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_absent_modality_has_no_weight_and_no_gradient(backend, with_query, dtype) -> None:
    _skip_unless_served(backend, dtype)
    device, present = _device(backend), _presence(40, 3)
    x = [torch.randn(40, 9).to(device, dtype) for _ in range(3)]
    small = torch.float32 if dtype == torch.bfloat16 else dtype
    query = torch.randn(1, 9).to(device, small) if with_query else None
    upstream = torch.randn(40, 3).to(device, small)
    truth = [
        t.to("cpu", torch.float64).clone().requires_grad_() for t in (*x, *([query] if with_query else []))
    ]
    expected = _scale_of_the_present(truth[:3], truth[3] if with_query else None, present)
    for m in range(3):
        x[m][~present[:, m].to(device)] = math.nan  # what it holds is nobody's business
    leaves = [t.requires_grad_() for t in (*x, *([query] if with_query else []))]
    r = modality_scale(leaves[:3], query, backend, present=present.to(device))
    assert_close(r, expected, "scale")
    assert r[0].eq(0).all()
    gradients = torch.autograd.grad(r, leaves, upstream)
    wanted = torch.autograd.grad(expected, truth, upstream.to("cpu", torch.float64))
    for a, e in zip(gradients, wanted, strict=True):
        assert_close(a, e, "gradient", dtype=dtype)


@pytest.mark.parametrize("backend", SCALES)
def test_an_absent_modality_is_zero_beside_a_nan(backend) -> None:
    """A row with a NaN, and upstream NaN where a modality is absent: neither crosses over."""
    _skip_unless_served(backend, torch.float32)
    x = [torch.randn(2, 5, device=_device(backend)) for _ in range(3)]
    x[0][0, 1] = math.nan
    present = torch.tensor([[True, False, True], [True, True, False]], device=_device(backend))
    query = torch.randn(1, 5, device=_device(backend))
    x = [t.requires_grad_() for t in x]
    r = modality_scale(x, query, backend, present=present)
    assert r[0, 1] == r[1, 2] == 0
    assert r[0, 0].isnan()
    upstream = torch.where(present, 1.0, math.nan)
    gradients = torch.autograd.grad(r, x, upstream)
    assert gradients[0][1].isfinite().all()
    assert gradients[1][0].eq(0).all()
    assert gradients[2][1].eq(0).all()


def test_nobody_absent_is_no_mask() -> None:
    x, query = [torch.randn(9, 5) for _ in range(2)], torch.randn(1, 5)
    for q in (query, None):
        assert torch.equal(
            modality_scale(x, q, present=torch.ones(9, 2, dtype=torch.bool)), modality_scale(x, q)
        )


def test_fusion_of_what_is_present(backend) -> None:
    """Each row as if its absent modalities took part with their constant alone; none present: constants throughout."""
    device = _device(backend)
    case = _case(230, 2, (31, 31, 31), 17, torch.float32, device)
    present = _presence(230, 3)
    query = torch.linspace(-1, 1, 31, device=device)[None]
    small = [case[name][0] for name in ("rank_weights", "bias")]

    def run(function, cast):
        x = [cast(t).detach().requires_grad_() for t in case["inputs"]]
        w = [cast(t).detach().requires_grad_() for t in case["factors"]]
        s = [cast(t).detach().requires_grad_() for t in (*small, query)]
        y = function(x, s[2], w, *s[:2])
        return [y, *torch.autograd.grad(y, [*x, *w, *s], cast(case["upstream"][0]))]

    def formula(x, q, w, *s):
        return reference.low_rank_fusion(x, w, *s, _scale_of_the_present(x, q, present))

    def fused(*arguments):
        return adaptive_low_rank_fusion(*arguments, backend, present=present.to(device))

    actual, expected = run(fused, lambda t: t), run(formula, lambda t: t.to("cpu", torch.float64))
    labels = ["output", *["input"] * 3, *["factor"] * 3, "rank weights", "bias", "query"]
    for name, a, e in zip(labels, actual, expected, strict=True):
        assert_close(a, e, name)


def test_presence_gradcheck_and_opcheck() -> None:
    case, present = _case(5, 2, (4, 4), 3, torch.float64), _presence(5, 2)
    query = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    leaves = [
        t.requires_grad_() for name in ("inputs", "factors", "rank_weights", "bias") for t in case[name]
    ]

    def fuse(q: Tensor | None, *t: Tensor) -> Tensor:
        return adaptive_low_rank_fusion(t[:2], q, t[2:4], *t[4:], present=present)

    assert torch.autograd.gradcheck(fuse, (query, *leaves))
    assert torch.autograd.gradcheck(lambda *t: fuse(None, *t), leaves)
    arguments = (leaves[:2], leaves[2:4], *leaves[4:], None, query, present, True, False, "ieee", "auto")
    torch.library.opcheck(ops._low_rank_fusion, arguments)


@pytest.mark.parametrize("backend", SCALES)
@pytest.mark.parametrize("with_query", [True, False], ids=["query", "lengths"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adaptive_fusion_is_scale_and_fusion(backend, with_query, dtype) -> None:
    """One node of autograd gives what its two parts give, and what the formulas give in float64."""
    _skip_unless_served(backend, dtype)
    case = _case(230, 2, (31, 31, 31), 17, dtype, _device(backend))
    query = torch.randn(1, 31).to(case["bias"][0])
    parts = [case[name][0] for name in ("rank_weights", "bias")]

    def run(function, cast):
        x = [cast(t).detach().requires_grad_() for t in case["inputs"]]
        w = [cast(t).detach().requires_grad_() for t in case["factors"]]
        small = [cast(t).detach().requires_grad_() for t in (*parts, *([query] if with_query else []))]
        y = function(x, small[2] if with_query else None, w, *small[:2])
        return [y, *torch.autograd.grad(y, [*x, *w, *small], cast(case["upstream"][0]))]

    def formula(x, q, w, *small):
        return reference.low_rank_fusion(x, w, *small, reference.modality_scale(x, q))

    def two_nodes(x, q, w, *small):
        return low_rank_fusion(x, w, *small, modality_scale(x, q, backend), backend)

    actual = run(lambda *a: adaptive_low_rank_fusion(*a, backend), lambda t: t)
    expected = run(formula, lambda t: t.to("cpu", torch.float64))
    labels = ["output", *["input"] * 3, *["factor"] * 3, "rank weights", "bias", "query"][: len(actual)]
    bounds = (
        (6e-2, 6e-2) if dtype == torch.bfloat16 else None
    )  # as in _assert_same, the worst of all gradients
    for name, a, e in zip(labels, actual, expected, strict=True):
        assert_close(a, e, name, dtype=dtype, bounds=bounds)
    for name, a, e in zip(labels, actual, run(two_nodes, lambda t: t), strict=True):
        if name != "input":  # whose two parts are added before they are rounded
            assert torch.equal(a, e), name


@pytest.mark.gpu
def test_the_scale_is_plain_pytorch_under_cuda(monkeypatch) -> None:
    """It has no kernel in CUDA C++: named, or by the environment, that means plain PyTorch on the device."""
    x = [torch.randn(4, 3, requires_grad=True, device="cuda") for _ in range(2)]
    expected = modality_scale(x, backend="reference")
    named = modality_scale(x, backend="cuda")
    monkeypatch.setenv("LOGINMEA_BACKEND", "cuda")
    for scale in (named, modality_scale(x)):
        assert torch.equal(scale, expected)
        wanted = torch.autograd.grad(expected.sum(), x, retain_graph=True)
        assert all(map(torch.equal, torch.autograd.grad(scale.sum(), x), wanted))


def test_triton_serves_the_scale_where_the_environment_says_so(monkeypatch) -> None:
    _skip_unless_served("triton", torch.float32)
    monkeypatch.setenv("LOGINMEA_BACKEND", "triton")
    x = torch.randn(70, 9, device=_device("triton")).T  # elements of a row lie apart
    with watch_choices() as choices:
        found = modality_scale([x, x])
    assert [choice.backend for choice in choices] == ["triton"]
    assert_close(found, reference.modality_scale([x.double(), x.double()]).cpu(), "scale")
    with pytest.raises(BackendError, match="its tanh is exact to float32, not to float64"):
        modality_scale([x.double()], backend="triton")


@pytest.mark.skipif(library.SEED in os.environ, reason="the emulator serves")
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_a_gpu_backend_of_the_scale_refuses_other_tensors(backend, monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="needs tensors on cuda, these are on cpu"):
        modality_scale([torch.zeros(2, 3)], backend=backend)


def test_adaptive_gradcheck_opcheck_and_compile() -> None:
    case = _case(5, 2, (4, 4), 3, torch.float64)
    query = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    leaves = [
        t.requires_grad_() for name in ("inputs", "factors", "rank_weights", "bias") for t in case[name]
    ]

    def fuse(q: Tensor | None, *t: Tensor) -> Tensor:
        return adaptive_low_rank_fusion(t[:2], q, t[2:4], *t[4:])

    assert torch.autograd.gradcheck(fuse, (query, *leaves))
    assert torch.autograd.gradcheck(lambda *t: fuse(None, *t), leaves)
    for q in (query, None):
        for keep in (False, True):
            arguments = (leaves[:2], leaves[2:4], *leaves[4:], None, q, None, True, keep, "ieee", "auto")
            torch.library.opcheck(ops._low_rank_fusion, arguments)
    compiled = torch.compile(fuse, fullgraph=True, backend="aot_eager")(query, *leaves)
    expected = fuse(query, *leaves)
    for a, e in zip(
        torch.autograd.grad(compiled.square().sum(), [query, *leaves]),
        torch.autograd.grad(expected.square().sum(), [query, *leaves]),
        strict=True,
    ):
        assert torch.equal(a, e)


PEAK = """
import sys
from pathlib import Path
import torch
from loginmea_fast.ops.low_rank_fusion import adaptive_low_rank_fusion
def status(field):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024
def run(rows, d, precision):
    x = [torch.ones(rows, d, requires_grad=True) for _ in range(3)]
    w = [torch.full((8, d + 1, d), 0.1, requires_grad=True) for _ in range(3)]
    small = [torch.ones(1, n, requires_grad=True) for n in (d, 8, d)]
    upstream = torch.ones(rows, d)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    y = adaptive_low_rank_fusion(x, small[0], w, *small[1:], backend="cpu", precision=precision)
    gradients = torch.autograd.grad(y, [*x, *w, *small], upstream)
    return status("VmHWM") - before - sum(t.numel() * 4 for t in (y, *gradients))
rows, d, precision = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
run(500, d, precision)
print(run(rows, d, precision))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="reads peaks from /proc")
@pytest.mark.parametrize(
    ("rows", "width", "precision"),
    [(100_000, 100, "ieee"), (100_000, 100, "bfloat16"), (38_960, 300, "ieee")],
)
def test_temporaries_do_not_grow_with_the_rows(rows: int, width: int, precision: str) -> None:
    """Forward and backward, scale included: at most 40 MB beside output and gradients."""
    _skip_unless_served("cpu", torch.float32)
    # Memory that is freed goes back at once, so that the peak is of what is alive.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK, str(rows), str(width), precision]
    extra = int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    one_more_gradient = 4 * rows * width  # of one modality, had it been formed twice
    assert extra < 40e6 <= one_more_gradient


GOOD = {
    "inputs": [torch.ones(3, 4), torch.ones(3, 5)],
    "factors": [torch.ones(2, 5, 6), torch.ones(2, 6, 6)],
    "rank_weights": torch.ones(1, 2),
    "bias": torch.ones(1, 6),
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": [], "factors": []}, "at least one modality"),
        ({"factors": GOOD["factors"][:1]}, r"2 inputs and 1 factors: there is no factors\[1\]"),
        ({"inputs": GOOD["inputs"][:1]}, r"there is no inputs\[1\]"),
        ({"inputs": [torch.ones(3, 4), torch.ones(3, 5, device="meta")]}, r"inputs\[1\] on meta"),
        (
            {"factors": [torch.ones(2, 5, 6), torch.ones(2, 6, 6, device="meta")]},
            r"factors\[1\] on meta",
        ),
        ({"inputs": [torch.ones(3, 4), torch.ones(3, 4)]}, r"factors\[1\] must have shape \[2, 5, 6\]"),
        ({"inputs": [torch.ones(3, 4), torch.ones(2, 5)]}, r"inputs\[1\] has 2, inputs\[0\] has 3"),
        ({"inputs": [torch.ones(3, 4), torch.ones(3)]}, r"inputs\[1\] must have shape"),
        ({"inputs": [torch.ones(3, 4), [[1.0]]]}, r"inputs\[1\] must be a tensor"),
        ({"inputs": [torch.ones(3, 4), torch.ones(3, 5).double()]}, r"inputs\[1\] float64"),
        ({"inputs": [torch.ones(3, 4), torch.ones(3, 5).long()]}, r"inputs\[1\] must have dtype"),
        (
            {"factors": [torch.ones(2, 5, 6), torch.ones(3, 6, 6)]},
            r"factors\[1\] must have shape \[2, 6, 6\]",
        ),
        (
            {"factors": [torch.ones(2, 5, 6), torch.ones(2, 6, 7)]},
            r"factors\[1\] must have shape \[2, 6, 6\]",
        ),
        ({"factors": [torch.ones(5, 6), torch.ones(2, 6, 6)]}, r"factors\[0\] must have shape"),
        ({"factors": [torch.ones(2, 5, 6), torch.ones(2, 6, 6).double()]}, r"factors\[1\] float64"),
        ({"factors": [torch.ones(0, 5, 6), torch.ones(0, 6, 6)]}, "must be positive"),
        ({"rank_weights": torch.ones(2)}, r"rank_weights must have shape \[1, 2\]"),
        ({"rank_weights": torch.ones(1, 2).double()}, "rank_weights must have dtype float32"),
        ({"bias": torch.ones(6)}, r"bias must have shape \[1, 6\]"),
        ({"row_scale": torch.ones(3, 3)}, r"row_scale must have shape \[3, 2\]"),
        ({"row_scale": torch.ones(3)}, r"row_scale must have shape \[3, 2\]"),
        ({"row_scale": torch.ones(3, 2, device="meta")}, "one device"),
        ({"backend": "gpu"}, "backend must be one of"),
        ({"precision": "half"}, "precision must be None or one of"),
    ],
)
def test_bad_input_is_named(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        low_rank_fusion(**{**GOOD, **arguments})


def test_bad_input_of_the_scale_is_named() -> None:
    for inputs, query, message in (
        ([], None, "at least one modality"),
        (GOOD["inputs"], torch.ones(1, 4), r"inputs\[1\] has 5, inputs\[0\] has 4"),
        (GOOD["inputs"][:1], torch.ones(4), r"query must have shape \[1, 4\]"),
        (GOOD["inputs"][:1], torch.ones(1, 4).double(), "query must have dtype float32"),
    ):
        with pytest.raises(InputError, match=message):
            modality_scale(inputs, query)
    for present, message in (
        (torch.ones(3, 2), "present must be a bool tensor.*got torch.float32"),
        ([True], "present must be a bool tensor.*got list"),
        (torch.ones(2, 3, dtype=torch.bool), r"present must have shape \[3, 2\]"),
    ):
        with pytest.raises(InputError, match=message):
            modality_scale(GOOD["inputs"], present=present)
