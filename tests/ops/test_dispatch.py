"""What stands around the body of every operator."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from loginmea_fast.errors import OutOfMemoryError
from loginmea_fast.ops import _dispatch, _wide_products
from tests.helpers.compare import assert_close

ROOT = Path(__file__).parents[2]


def _body(operator) -> object:
    """An operator's function as torch calls it, for arguments that torch could not send there on this machine."""
    return operator._init_fn


def test_operators_are_registered_in_one_place() -> None:
    for path in (ROOT / "loginmea_fast" / "ops").glob("*.py"):
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
        _body(op)([x], None)
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


@pytest.mark.parametrize("served", [(), ("mm",), ("mm", "addmm")], ids=str)
def test_products_of_bfloat16_into_float32(served: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch has, and whatever of it runs: on a CPU it has addmm with a wide result and refuses to run it."""
    device = torch.device("cpu")
    tried = _wide_products._runs
    monkeypatch.setattr(_wide_products, "_runs", lambda name, device: name in served and tried(name, device))
    a, b = torch.randn(40, 30).bfloat16(), torch.randn(30, 20).bfloat16()
    start = torch.randn(40, 20)
    exact = a.double() @ b.double()
    out = start.clone()
    _wide_products.add_wide_product(a, b, out)
    assert_close(out, start + exact, "sum")
    _wide_products.wide_product(a, b, out)
    assert_close(out, exact, "product")
    assert_close(_wide_products.wide_product(a, b), exact, "product")
    assert isinstance(tried("addmm", device), bool)
