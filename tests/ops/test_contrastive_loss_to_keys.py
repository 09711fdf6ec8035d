"""What the contrastive loss can be told: any keys, masks, biases, weights, temperatures, reductions."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops import contrastive_loss, contrastive_loss_to_keys
from loginmea_fast.reference import contrastive_loss as reference
from tests.helpers.compare import assert_close
from tests.ops.test_contrastive_loss import DTYPES, _device, _skip_unless_served, backend

__all__ = ["backend"]  # the fixture

# queries, further keys, width; more of both than a block of any backend in the last
SHAPES = ((1, 3, 7), (2, 0, 1), (9, 30, 63), (70, 260, 300), (33, 11, 301), (600, 420, 20))
LEAVES = ("queries", "keys", "key_bias", "temperature", "row_weights")


def _problem(shape: tuple[int, int, int], dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
    """Queries, keys of any order and everything that is optional, as a hard-sample loss would give it."""
    batch, extra, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    queries = torch.randn(batch, width, generator=generator)
    keys = torch.cat(
        [
            queries + torch.randn(batch, width, generator=generator),
            torch.randn(extra + 2, width, generator=generator),
        ]
    )
    keys = keys / width**0.5
    order = torch.randperm(len(keys), generator=generator)
    positives = torch.argsort(order)[:batch]
    keys = keys[order]
    pairs = torch.stack(
        [
            torch.randint(batch, (3 * batch,), generator=generator),
            torch.randint(len(keys), (3 * batch,), generator=generator),
        ],
        1,
    )
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    rows = {"queries": queries.to(dtype), "keys": keys.to(dtype)}
    rows["key_bias"] = (-rows["keys"].double().square().sum(1) / 2).to(sums)
    rows["temperature"] = torch.logspace(-1, 0.5, batch, dtype=sums)
    rows["row_weights"] = torch.linspace(0, 2, batch + 1, dtype=sums)[1:]
    index = {"positives": positives, "excluded": torch.cat([pairs, pairs[:2]])}
    return {name: tensor.to(device) for name, tensor in (rows | index).items()}


def _run(function, problem: dict[str, Tensor], **options) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients, of losses that are not reduced with an upstream gradient of either sign."""
    leaves = {n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in problem.items()}
    loss = function(**leaves, **options)
    upstream = torch.linspace(-1, 2, loss.numel(), dtype=loss.dtype, device=loss.device).view(loss.shape)
    loss.backward(upstream if loss.dim() else torch.full_like(loss, 3.0))
    return loss.detach(), {n: t.grad for n, t in leaves.items() if t.grad is not None}


def _double(problem: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.cpu().double() if t.is_floating_point() else t.cpu() for n, t in problem.items()}


def _assert_as_the_formula(backend: str, problem: dict[str, Tensor], dtype: torch.dtype, **options) -> None:
    loss, gradients = _run(contrastive_loss_to_keys, problem, backend=backend, **options)
    expected, expected_gradients = _run(reference.contrastive_loss_to_keys, _double(problem), **options)
    # Losses are differences of logits, up to ten; logits of bfloat16 rows are float32.
    assert_close(loss.double() + 10, expected + 10, "loss", dtype=loss.dtype)
    assert gradients.keys() == expected_gradients.keys()
    for name, e in expected_gradients.items():
        a = gradients[name].cpu()
        if e.abs().max() < 1e-9:
            assert a.abs().max() < 1e-4, f"gradient to {name}: expected zeros"
            continue
        small = dtype if name in ("queries", "keys") else loss.dtype
        assert_close(
            a, e, f"gradient to {name}", dtype=small, bounds=None if small != torch.float32 else (1e-4, 3e-5)
        )


@pytest.mark.parametrize("normalize", [True, False], ids=["unit", "as they are"])
@pytest.mark.parametrize("positive_in_denominator", [True, False], ids=["in", "out"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_every_gradient(backend, shape, dtype, positive_in_denominator, normalize) -> None:
    _skip_unless_served(backend, dtype)
    _assert_as_the_formula(
        backend,
        _problem(shape, dtype, _device(backend)),
        dtype,
        positive_in_denominator=positive_in_denominator,
        normalize=normalize,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "absent", [(), ("row_weights",), ("key_bias", "excluded"), ("row_weights", "key_bias", "excluded")]
)
def test_reductions_with_and_without_what_is_optional(backend, reduction, absent) -> None:
    problem = _problem((20, 31, 15), torch.float32, _device(backend))
    for name in absent:
        del problem[name]
    _assert_as_the_formula(backend, problem, torch.float32, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_row_weights_have_a_gradient_where_nothing_else_has(backend, reduction, bidirectional) -> None:
    _skip_unless_served(backend, torch.float32)
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.randn(7, 12, generator=generator).to(_device(backend)) for _ in range(2))
    gradients = []
    for function, options in ((contrastive_loss, {"backend": backend}), (reference.contrastive_loss, {})):
        weights = torch.linspace(0.1, 2, 7, device=_device(backend)).requires_grad_()
        loss = function(left, right, 0.1, bidirectional, row_weights=weights, reduction=reduction, **options)
        loss.sum().backward()
        gradients.append(weights.grad)
    assert_close(*gradients, "gradient to row_weights")


def test_the_two_derivations_agree() -> None:
    problem = _problem((9, 6, 5), torch.float64)
    for normalize, counted in itertools.product((True, False), (True, False)):
        options = {"normalize": normalize, "positive_in_denominator": counted}
        loss, gradients = _run(reference.contrastive_loss_to_keys, problem, reduction="sum", **options)
        weights = problem["row_weights"]
        found = reference.contrastive_loss_gradient(
            *(problem[n] for n in ("queries", "keys", "positives", "temperature", "key_bias", "excluded")),
            weights,
            **options,
        )
        assert_close(found.loss, loss, "loss")
        assert_close(found.rows, gradients["row_weights"] / 3, "row losses")
        for name in ("queries", "keys", "key_bias", "temperature"):
            assert_close(3 * getattr(found, name), gradients[name], name)


def test_gradcheck(backend) -> None:
    _skip_unless_served(backend, torch.float64)
    problem = _problem((5, 3, 4), torch.float64, _device(backend))
    index = {name: problem.pop(name) for name in ("positives", "excluded")}
    leaves = [problem[name].requires_grad_() for name in LEAVES]
    for reduction in ("mean", "none"):
        assert torch.autograd.gradcheck(
            lambda *t, reduction=reduction: contrastive_loss_to_keys(
                **dict(zip(LEAVES, t, strict=True)),
                **index,
                backend=backend,
                reduction=reduction,
                normalize=False,
                positive_in_denominator=False,
            ),
            leaves,
        )


def test_squared_distances_over_a_temperature_a_row(backend) -> None:
    """The loss of Dual-AMN, written out: log sum of exp(lambda (s_c - s_p) / sigma), own row and positive left out."""
    device = _device(backend)
    left, right, others = (torch.randn(n, 12, device=device) for n in (8, 8, 25))
    keys = torch.cat([left, right, others])
    own = torch.arange(16, device=device)
    positives = own.roll(8)
    s = -torch.cdist(keys[:16].double(), keys.double()).square()
    sigma = s.std(1)
    logits = 5.0 * (s - s.gather(1, positives[:, None])) / sigma[:, None]
    logits[own, own] = logits[own, positives] = -torch.inf
    loss = contrastive_loss_to_keys(
        keys[:16],
        keys,
        positives,
        (sigma / 10.0).float(),
        key_bias=-keys.square().sum(1) / 2,
        excluded=torch.stack([own, own], 1),
        normalize=False,
        positive_in_denominator=False,
        backend=backend,
    )
    assert_close(loss, logits.logsumexp(1).mean(), "loss", bounds=(1e-5, 1e-5))


def test_keys_of_both_sides_and_known_links_left_out(backend) -> None:
    """Both ways with further keys on each side is the mean of two losses of one side."""
    device = _device(backend)
    leaves = {
        n: torch.randn(rows, 10, device=device)
        for n, rows in (("left", 7), ("right", 7), ("left_keys", 4), ("right_keys", 5))
    }
    tau = torch.tensor(0.2, device=device)
    # of the batch, of a left key, of a right key, of two further keys, which no query meets
    known = torch.tensor([[0, 3], [8, 2], [5, 9], [9, 10]], device=device)
    weights = torch.linspace(1, 2, 7, device=device)
    options = {"excluded": known, "row_weights": weights}
    loss, gradients = _run(
        lambda **t: contrastive_loss(bidirectional=True, temperature=tau, backend=backend, **options, **t),
        leaves,
    )
    expected, expected_gradients = _run(
        lambda **t: reference.contrastive_loss(
            bidirectional=True, temperature=0.2, excluded=known.cpu(), row_weights=weights.cpu(), **t
        ),
        _double(leaves),
    )
    assert_close(loss, expected, "loss")
    for name, e in expected_gradients.items():
        assert_close(gradients[name], e, name)
    # By hand, with the dense matrix.
    unit = {n: torch.nn.functional.normalize(t) for n, t in _double(leaves).items()}
    ways = []
    for q, k, more, pairs in (
        ("left", "right", "right_keys", [(0, 3), (5, 9)]),
        ("right", "left", "left_keys", [(3, 0), (2, 8)]),
    ):
        scores = unit[q] @ torch.cat([unit[k], unit[more]]).T / 0.2
        for pair in pairs:
            scores[pair] = -torch.inf
        ways.append(torch.nn.functional.cross_entropy(scores, torch.arange(7), reduction="none"))
    by_hand = ((ways[0] + ways[1]) / 2 * weights.cpu()).sum() / weights.cpu().sum()
    assert_close(expected, by_hand, "by hand", bounds=(1e-7, 1e-7))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_a_temperature_that_is_learned(backend, bidirectional) -> None:
    device = _device(backend)
    leaves = {"left": torch.randn(40, 12, device=device), "right": torch.randn(40, 12, device=device)}
    leaves |= {
        "temperature": torch.tensor(0.3, device=device),
        "row_weights": torch.rand(40, device=device) + 0.1,
    }
    loss, gradients = _run(
        lambda **t: contrastive_loss(bidirectional=bidirectional, backend=backend, **t), leaves
    )
    expected, expected_gradients = _run(
        lambda **t: reference.contrastive_loss(bidirectional=bidirectional, **t), _double(leaves)
    )
    assert_close(loss, expected, "loss")
    for name, e in expected_gradients.items():
        assert_close(gradients[name], e, name)


def test_a_query_without_negatives_says_nothing(backend) -> None:
    device = _device(backend)
    problem = _problem((3, 1, 5), torch.float32, device)
    count = len(problem["keys"])
    everything = torch.stack([torch.ones(count, dtype=torch.int64), torch.arange(count)], 1).to(device)
    problem["excluded"] = everything
    loss, gradients = _run(
        contrastive_loss_to_keys, problem, backend=backend, reduction="none", positive_in_denominator=False
    )
    assert loss[1] == 0
    assert loss[0] != 0
    assert not gradients["queries"][1].any()
    assert gradients["temperature"][1] == 0
    assert all(g.isfinite().all() for g in gradients.values())


def test_nan_in_a_key_is_not_hidden(backend) -> None:
    problem = _problem((30, 220, 6), torch.float32, _device(backend))
    problem["keys"][-1, 2] = torch.nan
    del problem["excluded"], problem["key_bias"]
    assert contrastive_loss_to_keys(**problem, backend=backend).isnan()


def test_strided_arguments(backend) -> None:
    problem = _problem((12, 15, 9), torch.float32, _device(backend))
    expected = contrastive_loss_to_keys(**problem, backend=backend)
    for name in ("queries", "keys", "excluded"):
        problem[name] = problem[name].T.contiguous().T
    for name in ("positives", "temperature", "key_bias", "row_weights"):
        problem[name] = torch.stack([problem[name], -problem[name]], 1)[:, 0]
    assert torch.equal(contrastive_loss_to_keys(**problem, backend=backend), expected)


def test_one_number_expanded_to_all(backend) -> None:
    """It lies in memory once: what read on from there would read what is not its own."""
    problem = _problem((12, 15, 9), torch.float32, _device(backend))
    for name in ("temperature", "key_bias", "row_weights"):
        problem[name] = problem[name][:1].clone().expand_as(problem[name])
    dense = {name: tensor.contiguous() for name, tensor in problem.items()}
    losses = [
        contrastive_loss_to_keys(**given, backend=backend, reduction="none") for given in (problem, dense)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitwise_the_same_with_any_number_of_threads(dtype) -> None:
    problem = _problem((700, 333, 90), dtype)
    answers = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            answers.append(
                _run(contrastive_loss_to_keys, problem, normalize=False, positive_in_denominator=False)
            )
    finally:
        torch.set_num_threads(threads)
    for loss, gradients in answers[1:]:
        assert torch.equal(loss, answers[0][0])
        assert all(torch.equal(g, answers[0][1][name]) for name, g in gradients.items())


def test_torch_compile_sees_one_operator() -> None:
    problem = _problem((10, 6, 8), torch.float32)
    del problem["excluded"], problem["row_weights"]

    def step(queries: Tensor, keys: Tensor) -> Tensor:
        others = {n: t for n, t in problem.items() if n not in ("queries", "keys")}
        return contrastive_loss_to_keys(torch.tanh(queries), keys, **others)

    queries = problem["queries"].requires_grad_()
    expected = torch.autograd.grad(step(queries, problem["keys"]), queries)[0]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_close(
        torch.autograd.grad(compiled(queries, problem["keys"]), queries)[0], expected.double(), "gradient"
    )


def test_cuda_kernels_are_said_not_to_be_there() -> None:
    with pytest.raises(BackendError, match=r"backend 'cuda' cannot serve.*but reference, cpu, triton"):
        contrastive_loss(torch.ones(2, 3), torch.ones(2, 3), 0.1, backend="cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": torch.ones(4, 5)}, r"keys must have shape \[any, 3\]"),
        ({"keys": torch.ones(0, 3)}, "need at least one row"),
        ({"positives": torch.tensor([0, 4])}, "positives must be from 0 to 3; got 4"),
        ({"positives": torch.tensor([0, -1])}, "positives must be from 0 to 3; got -1"),
        ({"positives": torch.tensor([0.0, 1.0])}, "positives must be a tensor of int64; got float32"),
        ({"positives": torch.tensor([0])}, "positives must have shape"),
        ({"key_bias": torch.ones(2)}, "key_bias must have shape"),
        ({"excluded": torch.tensor([[0, 4]])}, r"excluded\[:, 1\] must be from 0 to 3; got 4"),
        ({"excluded": torch.tensor([[2, 0]])}, r"excluded\[:, 0\] must be from 0 to 1; got 2"),
        ({"excluded": torch.tensor([0, 1])}, "excluded must have shape"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"row_weights": torch.zeros(2)}, "not all zero"),
    ],
)
def test_bad_input_is_named(arguments, message) -> None:
    good = {"queries": torch.ones(2, 3), "keys": torch.ones(4, 3), "positives": torch.tensor([0, 1])}
    with pytest.raises(InputError, match=message):
        contrastive_loss_to_keys(**{**good, "temperature": 1.0, **arguments})
