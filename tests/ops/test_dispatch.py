"""What stands around the body of every operator."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from loginmea_fast import AlignmentGraph, ops
from loginmea_fast.errors import InputError, OutOfMemoryError
from loginmea_fast.ops import _attention_cuda, _dispatch, _fusion_cuda, _wide_products
from loginmea_fast.ops.graph_mean import csr_product
from tests.helpers.compare import assert_close
from tests.helpers.graphs import triples_of

ROOT = Path(__file__).parents[2]


def _body(operator) -> object:
    """An operator's function as torch calls it, for arguments that torch could not send there on this machine."""
    return operator._init_fn


def test_operators_are_registered_in_one_place() -> None:
    for path in (ROOT / "loginmea_fast").rglob("*.py"):
        assert ("custom_op(" in path.read_text()) == (path.name == "_dispatch.py"), path.name


def test_the_card_of_the_tensors_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current = ["cuda:0"]

    @contextmanager
    def device(card: torch.device):
        current.append(str(card))
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    seen = []

    @_dispatch.operator("test_card")
    def op(numbers: list[Tensor], more: Tensor | None) -> Tensor:
        seen.append((current[-1], torch.is_autocast_enabled("cuda")))
        return numbers[0].clone()

    with FakeTensorMode():
        x = torch.empty(2, 3, device="cuda:1")
    torch.set_autocast_enabled("cuda", True)  # torch.autocast declines where there is no card
    try:
        _body(op)([torch.zeros(1), x], None)  # what is read from memory does not name the card
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert seen == [("cuda:1", False)]
    assert current == ["cuda:0"]


def test_a_card_without_room_is_one_error_that_names_it() -> None:
    @_dispatch.operator("test_room")
    def op(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB.\nmuch more")

    said = "test_room: cpu is out of memory .* with 4 MiB of arguments .*allocate 7.00 GiB.*fewer rows a call"
    with pytest.raises(OutOfMemoryError, match=said) as caught:
        _body(op)(torch.zeros(1 << 20))
    assert "\n" not in str(caught.value)


def _elsewhere(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _graph() -> AlignmentGraph:
    return AlignmentGraph.from_triples(*triples_of("random"))


@pytest.mark.parametrize(
    "call",
    [
        lambda g: ops.relation_reflection_attention(
            _elsewhere(g.num_entities, 8), _elsewhere(g.num_relation_sets, 8), _elsewhere(g.num_relation_sets), g
        ),
        lambda g: ops.relation_reflectors(_elsewhere(2 * g.num_relations, 8), g),
        lambda g: ops.neighbor_mean(_elsewhere(g.num_entities, 8), g),
        lambda g: csr_product(torch.eye(4).to_sparse_csr(), _elsewhere(4, 8)),
        lambda g: ops.low_rank_fusion(
            [torch.zeros(3, 4), _elsewhere(3, 4)], [torch.zeros(2, 5, 6)] * 2, torch.zeros(1, 2), torch.zeros(1, 6)
        ),
        lambda g: ops.contrastive_loss(torch.zeros(3, 4), _elsewhere(3, 4), 0.1),
        lambda g: ops.contrastive_loss_to_keys(torch.zeros(3, 4), _elsewhere(3, 4), torch.arange(3), 0.1),
        lambda g: ops.alignment_ranks(torch.zeros(3, 4), _elsewhere(3, 4)),
        lambda g: ops.alignment_topk(torch.zeros(3, 4), _elsewhere(3, 4), 1),
        lambda g: ops.mutual_nearest(torch.zeros(3, 4), _elsewhere(3, 4)),
    ],
)  # fmt: skip
def test_tensors_on_another_device_are_named(call: Callable[[AlignmentGraph], object]) -> None:
    with pytest.raises(InputError, match=r"on (cpu|meta),.* on (cpu|meta).*ove .* with (graph)?\.to\(\)"):
        call(_graph())


@pytest.mark.parametrize(
    ("why", "words"),
    [
        (_attention_cuda.unsupported(torch.float32, 1028), "float32 rows of up to 1024 columns"),
        (_attention_cuda.unsupported(torch.float64, 388), "float64 rows of up to 384 columns"),
        (_attention_cuda.unsupported(torch.bfloat16, 513), "512 where not a multiple of 4; these have 513"),
        (_fusion_cuda.unsupported(torch.float64, 3, "ieee"), "float32 or bfloat16, not float64"),
        (_fusion_cuda.unsupported(torch.float32, 7, "tf32"), "up to 6 modalities, not 7"),
        (_attention_cuda.unsupported(torch.float32, 1024), ""),
        (_fusion_cuda.unsupported(torch.bfloat16, 6, "bfloat16"), ""),
    ],
)
def test_what_the_cuda_kernels_do_not_take_is_named(why: str | None, words: str) -> None:
    assert words in (why or "")
    assert bool(words) == (why is not None)


def test_a_launch_that_no_card_takes_names_the_operator() -> None:
    grid = pytest.importorskip("loginmea_fast.kernels._grid").grid

    @_dispatch.operator("test_grid")
    def op(x: Tensor) -> Tensor:
        grid(1, len(x))
        return x.clone()

    with pytest.raises(
        InputError, match=r"test_grid: expected a grid of .* 65535 blocks, got 1 x 65536; use fewer rows"
    ):
        _body(op)(torch.zeros(65_536))


def test_a_card_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: "Tesla T4")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with FakeTensorMode():
        x = torch.empty(2, 3, device="cuda:1")
    said = r"compute capability 8.0 or later, cuda:1 \(Tesla T4\) has 7.5"
    reasons = [_dispatch.native_reason(x, "cuda")]
    if _dispatch.missing_backend("triton") is None:
        reasons.append(_dispatch.triton_reason(x))
    for reason in reasons:
        assert re.search(said, reason or ""), reason


def test_a_torch_of_before_wide_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest that the metadata admits has no `out_dtype`, and its operator baddbmm no overload that takes one."""

    def of_before(multiply: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda a, b, *, out=None: multiply(a, b, out=out)

    for name in ("mm", "bmm"):
        monkeypatch.setattr(torch, name, of_before(getattr(torch, name)))
    monkeypatch.setattr(_wide_products.torch.ops.aten, "baddbmm", SimpleNamespace(), raising=False)
    _wide_products._runs.cache_clear()
    try:
        a, b = torch.randn(40, 30).bfloat16(), torch.randn(30, 20).bfloat16()
        assert not any(_wide_products._runs(name, a.device) for name in ("mm", "bmm", "baddbmm"))
        out = torch.ones(1, 40, 20)
        _wide_products.wide_products(a[None], b[None], out, add=True)
        assert_close(out[0], 1 + a.double() @ b.double(), "sum")
        assert_close(_wide_products.wide_product(a, b), a.double() @ b.double(), "product")
    finally:
        _wide_products._runs.cache_clear()


@pytest.mark.parametrize("error", _wide_products._NO_ANSWER)
def test_what_ails_the_device_is_no_answer_of_a_torch(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised, and asked again the next time."""
    torch_mm = torch.mm

    def mm(*arguments: Tensor, **options: Any) -> Tensor:
        raise error("for the moment")

    _wide_products._runs.cache_clear()
    monkeypatch.setattr(torch, "mm", mm)
    a, b = torch.ones(3, 4).bfloat16(), torch.ones(4, 2).bfloat16()
    with pytest.raises(error, match="for the moment"):
        _wide_products.wide_product(a, b)
    monkeypatch.setattr(torch, "mm", torch_mm)
    assert torch.equal(_wide_products.wide_product(a, b), torch.full((3, 2), 4.0))
    assert _wide_products._runs.cache_info().currsize == 1


@pytest.mark.parametrize("served", [(), ("mm", "bmm"), ("mm", "bmm", "baddbmm")], ids=str)
def test_products_of_bfloat16_into_float32(served: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch has: what a CPU refuses is stood in for, and told."""
    told = []

    def stand_in(name: str, product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def multiply(
            a: Tensor, b: Tensor, *, out_dtype: torch.dtype | None = None, out: Any = None
        ) -> Tensor:
            if out_dtype is None:
                return product(a, b, out=out)
            told.append(name)
            return product(a.float(), b.float())

        return multiply

    def wide_baddbmm(start: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype, *, out: Tensor) -> Tensor:
        told.append("baddbmm")
        assert dtype == torch.float32
        return torch.baddbmm(start, a.float(), b.float(), out=out)

    for name in ("mm", "bmm"):
        monkeypatch.setattr(torch, name, stand_in(name, getattr(torch, name)))
    monkeypatch.setattr(torch.ops.aten, "baddbmm", SimpleNamespace(dtype_out=wide_baddbmm), raising=False)
    monkeypatch.setattr(_wide_products, "_runs", lambda name, device: name in served)
    a, b = torch.randn(40, 30).bfloat16(), torch.randn(30, 20).bfloat16()
    exact = a.double() @ b.double()
    assert_close(_wide_products.wide_product(a, b), exact, "product")
    several, others = torch.randn(3, 40, 30).bfloat16(), torch.randn(3, 20, 30).bfloat16().mT
    start = torch.randn(40, 3, 20).transpose(0, 1)
    exact = several.double() @ others.double()
    out = start.clone(memory_format=torch.preserve_format)
    assert out.stride() == start.stride(), "matrices side by side"
    _wide_products.wide_products(several, others, out, add=True)
    assert_close(out, start + exact, "sum")
    _wide_products.wide_products(several, others, out, add=False)
    assert_close(out, exact, "product")
    expected = {0: [], 2: ["mm", "bmm", "bmm"], 3: ["mm", "baddbmm", "bmm"]}
    assert told == expected[len(served)]
