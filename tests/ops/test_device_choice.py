"""The order of Triton and CUDA comes from a table, and the table from a record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu.table import choice
from loginmea_fast.ops import _device_choice
from loginmea_fast.ops._device_choice import in_order
from tests.test_architecture import OPERATORS, WITHOUT

ROOT = Path(__file__).parents[2]


def row(provider: str, width: int, ms: list[float], **changes: object) -> dict[str, object]:
    usual = {"task": "choice/widths", "op": "low_rank_fusion", "dtype": "tf32", "status": "ok"}
    return usual | {"provider": provider, "width": width, "ms": ms} | changes


ROWS = [
    row("triton", 64, [1.0, 1.0]),
    row("cuda", 64, [2.0, 2.0]),
    row("triton", 128, [1.0, 1.0]),
    row("cuda", 128, [1.5, 1.5]),
    row("triton", 300, [3.0, 5.0]),
    row("cuda", 300, [4.0, 2.0]),
    row("triton", 300, [1.0], dtype="bfloat16"),  # nothing to compare it with
    row("cuda", 300, [0.1], dtype="bfloat16", status="wrong"),
]


def test_a_width_belongs_to_the_faster_backend() -> None:
    assert choice(ROWS) == {"low_rank_fusion": {"float32": [(128, "triton"), (300, "cuda")]}}


def test_the_table_decides_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device_choice, "TABLE", choice(ROWS))
    candidates = {name: lambda: None for name in ("cpu", "triton", "cuda")}

    def order(width: int, dtype: torch.dtype = torch.float32) -> list[str]:
        return list(in_order("low_rank_fusion", dtype, width, candidates))

    assert order(100) == ["cpu", "triton", "cuda"]
    assert order(129) == ["cpu", "cuda", "triton"]
    assert order(2000) == ["cpu", "cuda", "triton"], "beyond the widest, what won there"
    assert order(2000, torch.bfloat16) == ["cpu", "triton", "cuda"], "not measured: the default"


def test_every_operator_has_a_default() -> None:
    assert set(_device_choice.DEFAULT) == set(OPERATORS) - set(WITHOUT)


def test_without_a_record_nothing_is_said_to_be_measured() -> None:
    records = list((ROOT / "bench" / "results").glob("*/gpu.json"))
    assert bool(_device_choice.TABLE) == (_device_choice.MEASURED_ON is not None)
    assert records or not _device_choice.TABLE


def test_a_record_is_rendered_and_a_rehearsal_is_not(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    record = {"machine": {"device": "a card", "date": "2030-01-01"}, "rehearsal": False, "rows": ROWS}
    command = [sys.executable, str(ROOT / "scripts" / "render_device_choice.py"), str(path), "--print"]
    path.write_text(json.dumps(record))
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names: dict[str, object] = {}
    exec(printed, names)
    assert names["MEASURED_ON"] == "a card, 2030-01-01"
    assert names["TABLE"] == choice(ROWS)
    path.write_text(json.dumps(record | {"rehearsal": True}))
    assert subprocess.run(command, capture_output=True).returncode == 2
