"""What the launches of Triton and of CUDA C++ have in common, whichever serves."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from loginmea_fast.kernels._grid import grid
from loginmea_fast.kernels._operands import in_tf32

from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import _attention_cuda, _attention_gpu, _fusion_cuda
from loginmea_fast.ops._attention_chain import Chain, graphs_in
from loginmea_fast.ops.relation_reflection_attention import _index_of
from tests.helpers.graphs import triples_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("op", "of_cuda", "launches"),
    [
        (
            "relation_reflection_attention",
            _attention_cuda,
            ["backward_set", "backward_source", "forward", "rows", "through_activation"],
        ),
        (
            "low_rank_fusion",
            _fusion_cuda,
            ["forward", "input_gradients", "multiply", "pack_rows", "projection_gradient"],
        ),
    ],
)
def test_launches_of_triton_and_of_cuda_take_the_same_arguments(op, of_cuda, launches) -> None:
    of_triton = pytest.importorskip(f"loginmea_fast.kernels.{op}", exc_type=ImportError)
    for name in launches:
        of_both = [inspect.signature(getattr(module, name)) for module in (of_triton, of_cuda)]
        assert of_both[0] == of_both[1], name


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_nothing_between_arguments_and_results_is_rounded(dtype: torch.dtype, triple: bool) -> None:
    """h, the gradient from layer to layer and partial sums have the dtype of sums under either backend."""
    graph = AlignmentGraph.from_triples(*triples_of("hub"))
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    sets, rows, width = graph.num_relation_sets, graph.num_entities, 8
    z = [torch.randn(rows, width).to(dtype) for _ in range(3)]
    chain = Chain(
        z,
        [torch.zeros(rows, dtype=sums) for _ in range(2)],
        torch.zeros(2, sets, dtype=sums),
        F.normalize(torch.randn(sets, width)).to(dtype),
        None,
        torch.randn(2, width, dtype=sums) if triple else None,
        graphs_in(_index_of(graph)),
        "tanh",
    )
    written: list[torch.Tensor] = []
    upstreams: list[torch.Tensor] = []

    def through_activation(upstream, z, tanh, h, along) -> None:
        upstreams.append(upstream)
        written.extend((h, along))

    kernels = SimpleNamespace(
        rows=lambda x: x,
        through_activation=through_activation,
        backward_source=lambda of: written.extend((of.dx, of.part_sum, of.terms)),
        backward_set=lambda of: written.extend((of.du, of.dc, of.part_sum, of.part_scalars)),
    )
    grads = [None, None, torch.randn(rows, width).to(dtype)]
    dx, du, dc, dw = _attention_gpu.relation_reflection_backward(chain, grads, kernels)
    assert dx.dtype == dtype
    assert {du.dtype, dc.dtype} == {sums}
    assert (None if dw is None else dw.dtype) == (sums if triple else None)
    assert {t.dtype for t in written} == {sums}
    assert [t.dtype for t in upstreams] == [dtype, sums], "the gradient to an inner layer was rounded"


def _kernels() -> Iterator[tuple[Path, ast.FunctionDef]]:
    for path in sorted((ROOT / "kernels").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and "jit" in ast.unparse(function.decorator_list):
                yield path, function


def test_places_of_programs_are_not_products_of_32_bits() -> None:
    """Rows times their width are more than 2^31 long before a card is full."""
    seen = 0
    for path, function in _kernels():
        for product in ast.walk(function):
            if isinstance(product, ast.BinOp) and isinstance(product.op, ast.Mult):
                seen += "program_id" in ast.unparse(product.left)
                left = ast.unparse(product.left)
                assert not re.fullmatch(r"tl\.program_id\(\d\)", left), (
                    f"{path.name}, {function.name}: {left}"
                )
    assert seen


def test_every_launch_of_triton_checks_its_grid() -> None:
    launches = 0
    for path in sorted((ROOT / "kernels").glob("*.py")):
        names = {function.name for _, function in _kernels()}
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Subscript) and ast.unparse(call.value) in names:
                launches += 1
                assert re.match(r"grid\(|blocks$", ast.unparse(call.slice)), (
                    f"{path.name}: {ast.unparse(call)}"
                )
    assert launches > 15


def test_a_grid_that_no_card_takes_is_said() -> None:
    assert grid(70_000, 65_535) == (70_000, 65_535)
    with pytest.raises(ValueError, match="got 1 x 65536; use fewer rows"):
        grid(1, 65_536)


def test_the_digits_of_tf32_are_rounded_to_nearest() -> None:
    x = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-12, 1 + 2**-10, torch.inf, torch.nan, 0.0])
    nan = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # as a card makes it
    found = in_tf32(torch.cat([x, nan]))
    expected = torch.tensor([1, 1 + 2**-9, -1, 1 + 2**-10, torch.inf, torch.nan, 0, torch.nan])
    assert torch.equal(found.nan_to_num(7, 8), expected.nan_to_num(7, 8))
    many = torch.randn(10_000)
    assert torch.equal(in_tf32(in_tf32(many)), in_tf32(many))
    assert ((in_tf32(many) - many).abs() <= many.abs() * 2**-11).all()


def test_numbers_that_triton_may_take_for_constants_are_not_converted() -> None:
    """Triton makes a constant, which has no `.to`, of an argument that is 1, unless it is told not to."""
    for path, function in _kernels():
        names = {argument.arg for argument in function.args.args}
        converted = {
            call.func.value.id
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "to"
            and isinstance(call.func.value, ast.Name)
        }
        told = "".join(map(ast.unparse, function.decorator_list))
        for name in names & converted:
            assert f"'{name}'" in told, f"{path.name}, {function.name}: {name}"
