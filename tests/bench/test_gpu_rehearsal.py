"""bench/gpu where there is no GPU: it runs through, claims nothing, and loses no more than the task that fails."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench._graphs import generated
from bench.gpu import faults, graphs, session, tasks
from bench.gpu import table as gpu_table
from bench.gpu import work as floor
from bench.gpu.command import parse
from bench.gpu.kept_products import KeptProducts
from bench.gpu.run import Run
from bench.gpu.sanitizer import judged, kernels_in
from bench.gpu.tasks import WAYS
from loginmea_fast.native import loader
from loginmea_fast.reference.low_rank_fusion import low_rank_fusion
from tests.emulation.faults import FAULTS
from tests.helpers.plain_checkout import checkout, python_with

ROOT = Path(__file__).parents[2]


def packages() -> list[str]:
    """What docs/gpu.md says that a run needs, nvcc aside."""
    text = (ROOT / "docs" / "gpu.md").read_text()
    names = re.search(r"It needs (torch\b[^.]*?), no network", text.replace("2.11", ""), re.DOTALL)
    assert names, "docs/gpu.md no longer says what a run needs"
    found = re.findall(r"[a-z][a-z0-9_]+", re.sub(r"\(.*?\)", "", names[1]))
    return [name for name in found if name not in {"nvcc", "and"}]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """The record and what was printed, by a plain checkout and a Python with the packages that docs/gpu.md names."""
    out = tmp_path_factory.mktemp("rehearsal")
    python = python_with(tmp_path_factory.mktemp("python"), *packages())
    tree = checkout(tmp_path_factory.mktemp("checkout"))
    command = [str(python), str(tree / "bench" / "gpu"), "--rehearse", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((out / "gpu.json").read_text()), done.stdout


@pytest.mark.slow
def test_every_task_is_rehearsed_or_says_that_it_needs_a_gpu(rehearsal: tuple[dict, str]) -> None:
    record, _ = rehearsal
    found = {task["task"]: task for task in record["tasks"]}
    assert set(found) == {task.name for task in tasks.TASKS.values() if not task.hidden}
    for task in tasks.TASKS.values():
        if not task.hidden:
            expected = "not run" if task.needs_cuda else "ok"
            assert found[task.name]["status"] == expected, found[task.name]


@pytest.mark.slow
def test_what_was_rehearsed_is_right(rehearsal: tuple[dict, str]) -> None:
    record, _ = rehearsal
    bad = [row for row in record["rows"] if row.get("status", "ok") not in ("ok", "not run", "refused")]
    assert not bad
    losses = {row["first_loss"] for row in record["rows"] if "first_loss" in row and row["dtype"] == "tf32"}
    assert max(losses) - min(losses) < 1e-3, "models that start from the same parameters differ"
    alone = [row for row in record["rows"] if row.get("alone") and row["status"] == "ok"]
    assert alone
    assert all(row["kernel_us"] for row in alone), "no kernel was seen"


@pytest.mark.slow
def test_a_rehearsal_claims_nothing_about_a_gpu(rehearsal: tuple[dict, str]) -> None:
    record, printed = rehearsal
    assert record["rehearsal"]
    assert not any(row.get("ms") or row.get("rate") for row in record["rows"]), "something was timed"
    assert not any(us for row in record["rows"] for us in row.get("kernel_us", {}).values())
    assert all(goal["measured"] is None for goal in record["goals"])
    on_cuda = [
        row
        for row in record["rows"]
        if "cuda" in (str(row.get(key)).partition(",")[0] for key in ("provider", "backend"))
    ]
    assert any(row.get("variables") for row in on_cuda)
    assert all(row["status"] == "not run" for row in on_cuda)
    assert "nothing here was run on a GPU" in printed


class Scripted(session.Session):
    """A session whose tasks are scripts in place of the real ones."""

    scripts: dict[str, str]

    def command(self, names: list[str], rows: Path) -> list[str]:
        head = f"import json, os, time; out = open({str(rows)!r}, 'a', buffering=1); name = {names[0]!r}\n"
        head += "write = lambda **row: out.write(json.dumps({'task': name, **row}) + '\\n')\n"
        return [sys.executable, "-c", head + self.scripts[names[0]]]


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scripted]:
    """Make a session of scripts, a task each, all of one stage."""

    def make(budget: float = 100, **scripts: str) -> Scripted:
        scripted = {f"floors/{name}": tasks.Task(f"floors/{name}", "", limit=3) for name in scripts}
        card = tasks.Task("environment/card", "")
        monkeypatch.setattr(session, "TASKS", {card.name: card, **scripted})
        monkeypatch.setattr(session, "SHORTEST", 1)
        made = Scripted("full", budget, tmp_path)
        made.scripts = {f"floors/{name}": script for name, script in scripts.items()}
        made.scripts[card.name] = "write(capability='90'); write(finished=True)"
        return made

    return make


def test_a_task_that_hangs_or_dies_costs_itself_alone(
    scripted: Callable[..., Scripted], tmp_path: Path
) -> None:
    run = scripted(
        hangs="write(found=1)\nos.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '60')\ntime.sleep(60)",
        dies="write(found=2)\nos.abort()",
        cut="write(found=3)\nout.write('{\"task\": ')\nos.abort()",
        works="write(found=4); write(finished=True)",
    )
    start = time.monotonic()
    run.run()
    assert time.monotonic() - start < 30
    record = json.loads((tmp_path / "gpu.json").read_text())
    states = {task["task"]: task["status"] for task in record["tasks"]}
    assert states == {
        "environment/card": "ok",
        "floors/hangs": "timed out",
        "floors/dies": "failed",
        "floors/cut": "failed",
        "floors/works": "ok",
    }
    assert [row["found"] for row in record["rows"] if "found" in row] == [1, 2, 3, 4]
    assert run.environment["LOGINMEA_CUDA_ARCHS"] == os.environ.get("LOGINMEA_CUDA_ARCHS", "90")


def test_what_no_longer_fits_the_budget_is_said(scripted: Callable[..., Scripted]) -> None:
    run = scripted(budget=4, first="time.sleep(60)", second="write(finished=True)")
    run.run()
    states = {task["task"]: (task["status"], task.get("reason", "")) for task in run.tasks}
    assert states["floors/first"][0] == "timed out"
    assert states["floors/second"] == ("not run", "the budget is spent")


def test_a_run_that_is_cut_off_keeps_what_it_had(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu"), "--rehearse", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "environment/card: ok" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "goals" in printed
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert any(row["task"] == "environment/card" for row in record["rows"])


def test_without_a_card_nothing_is_tried(scripted: Callable[..., Scripted]) -> None:
    run = scripted(anything="write(finished=True)")
    run.scripts["environment/card"] = "write(python='3'); write(finished=True)"
    run.run()
    assert not run.sound()
    assert run.tasks[-1] == {"task": "floors/anything", "status": "not run", "reason": "no CUDA device"}


def test_a_sanitizer_that_found_something_is_believed() -> None:
    case = {"small": "low_rank_fusion", "status": "ok"}
    clean = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors"
    assert judged(clean, 0, case) == {"findings": 0}
    found = "========= Invalid __global__ read of size 4 bytes\n========= ERROR SUMMARY: 3 errors"
    assert judged(found, 1, case)["status"] == "wrong"
    races = (
        "========= Race reported between Write access at x\n========= RACECHECK SUMMARY: 1 hazard displayed"
    )
    assert judged(races, 1, case)["findings"] == 1
    assert judged(clean, 0, None)["status"] == "failed", "the case never finished"
    assert judged("========= Error: Device not supported", 1, case)["status"] == "failed"
    assert judged(clean, 0, {"status": "refused", "reason": "no such backend"})["status"] == "refused"


def test_a_planted_fault_is_looked_for_in_a_checkout_of_its_own(tmp_path: Path) -> None:
    tree = faults.plant(FAULTS[0], tmp_path / "tree")
    changed = [
        path.relative_to(tree).as_posix()
        for path in tree.rglob("*")
        if path.is_file() and path.read_bytes() != (ROOT / path.relative_to(tree)).read_bytes()
    ]
    assert changed == [f"csrc/cuda/{FAULTS[0].source}"]
    done = subprocess.run(
        [sys.executable, str(tree / "bench" / "gpu"), "--list"], capture_output=True, text=True, cwd=tmp_path
    )
    assert f"faults/{len(FAULTS) - 1}" in done.stdout, done.stderr
    assert len(FAULTS) == tasks.FAULTS, "the record of the emulated faults is older than they are"


def test_a_run_of_one_stage_asks_for_the_card_first(tmp_path: Path) -> None:
    run = session.Session("full", 60, tmp_path, ["faults"])
    chosen = {stage.name: len(run.chosen(stage)) for stage in tasks.STAGES}
    assert {name: count for name, count in chosen.items() if count} == {
        "environment": 1,
        "faults": tasks.FAULTS,
    }


def test_how_a_planted_fault_was_seen() -> None:
    clean = "1 passed\n========= ERROR SUMMARY: 0 errors"
    assert faults.seen_by("memcheck", clean) == "no"
    assert faults.seen_by("memcheck", "1 failed\n========= ERROR SUMMARY: 2 errors") == "memcheck"
    compared = "E   AssertionError: out (hub): relative L2 error 1.0e-01, bound 2e-05\n1 failed"
    assert (
        faults.seen_by("racecheck", f"{compared}\n========= RACECHECK SUMMARY: 0 hazards") == "wrong number"
    )
    for told, words in (
        ("E   loginmea_fast.errors.BuildError: building loginmea_cuda failed\n1 failed", "BuildError"),
        ("E   RuntimeError: fusion_forward: invalid argument\n1 failed in 2.1s", "invalid argument"),
        ("========= Error: Device not supported", "Device not supported"),
    ):
        seen = faults.seen_by("memcheck", f"{told}\n========= ERROR SUMMARY: 0 errors")
        assert seen.startswith("failed otherwise: ")
        assert words in seen
    assert faults.seen_by("memcheck", "SKIPPED [1] of compute capability 9.0\n1 skipped").startswith(
        "not run"
    )


@pytest.mark.parametrize(
    ("sound", "faulty", "expected"),
    [
        ("1 passed", "E   AssertionError: dx differs\n1 failed", {"status": "ok", "seen": "wrong number"}),
        ("1 passed", "1 passed", {"status": "ok", "seen": "no"}),
        ("1 passed", "E   RuntimeError: invalid argument\n1 failed", {"status": "failed"}),
        ("E   AssertionError: dx differs\n1 failed", "never asked", {"status": "failed"}),
        ("========= ERROR SUMMARY: 2 errors\n1 passed", "never asked", {"status": "failed"}),
        ("1 skipped", "never asked", {"status": "not run"}),
    ],
)
def test_a_fault_counts_only_where_its_case_passes_without_it(
    sound: str, faulty: str, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def told(run: Run, tool: list[str], tree: Path, number: str, environment: dict[str, str]) -> str:
        asked.append(tree)
        return sound if tree == ROOT else faulty

    monkeypatch.setattr(faults, "_told", told)
    monkeypatch.setattr(faults, "program", lambda: "compute-sanitizer")
    monkeypatch.setenv("LOGINMEA_BENCH_SCRATCH", str(tmp_path))
    rows = io.StringIO()
    for number in ("0", "1"):  # of one case
        faults.check(Run(f"faults/{number}", "rehearse", rows), number)
    for line in rows.getvalue().splitlines():
        row = json.loads(line)
        assert row.get("seen") == expected.get("seen")
        assert row["status"] == expected["status"], row
    tools = 3 if expected.get("seen") == "no" else 1
    assert asked.count(ROOT) == tools, "the case without a fault runs once under each tool"
    assert len(asked) == tools * (1 if faulty == "never asked" else 3)


def test_every_kernel_of_a_source_is_found() -> None:
    for path in (ROOT / "csrc" / "cuda").glob("*.cu*"):
        text = path.read_text()
        wanted = text.count("__global__ ") + text.count("__device__ void end(")
        assert len(kernels_in(text)) == wanted, path.name
    text = (ROOT / "csrc" / "cuda" / "relation_reflection_attention.cuh").read_text()
    assert kernels_in(text) == ["through_activation", "Forward", "BackwardSource", "BackwardSet"]


def test_hoppers_own_ways_are_tried_where_card_and_library_have_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run("task", "full", io.StringIO())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for library, there in ((SimpleNamespace(fusion_group_forward=None), True), (SimpleNamespace(), False)):
        monkeypatch.setitem(loader._loaded, "cuda", library)
        assert run.hopper is there
    monkeypatch.delitem(loader._loaded, "cuda")
    monkeypatch.setitem(loader._failed, "cuda", "no compiler")
    assert not run.hopper
    assert not Run("task", "rehearse", io.StringIO()).hopper
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert not run.hopper


def test_variables_of_a_row_are_there_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINMEA_HOPPER", "0")
    monkeypatch.delenv("LOGINMEA_FUSION_ROWS", raising=False)
    rows = io.StringIO()
    for ends in (True, False):
        _, variables = WAYS["low_rank_fusion"]["cuda, Hopper's own ways, blocks of 8,192 rows"]
        with Run("task", "rehearse", rows).attempt(variables=variables):
            assert (os.environ["LOGINMEA_HOPPER"], os.environ["LOGINMEA_FUSION_ROWS"]) == ("1", "8192")
            assert ends
        assert os.environ["LOGINMEA_HOPPER"] == "0"
        assert "LOGINMEA_FUSION_ROWS" not in os.environ
    assert [json.loads(line)["status"] for line in rows.getvalue().splitlines()] == ["ok", "wrong"]


def test_kept_products_are_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 3), (7, 5), (2, 4, 6), (2, 6, 6), (1, 2), (1, 6), (7, 2)]
    t = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    found = KeptProducts(Run("task", "rehearse", io.StringIO()))(*t)
    expected = low_rank_fusion(t[:2], t[2:4], *t[4:])
    upstream = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(found, t, upstream), torch.autograd.grad(expected, t, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(found, expected)


def test_an_unknown_stage_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--stages", "floor"])
    assert "no stage or task is called floor" in capsys.readouterr().err


def test_floating_point_operations_of_the_real_graph() -> None:
    forward = floor.fusion_forward(38_960, [300] * 3, 8, 300, 4)
    assert forward.flop == 2 * 38_960 * 8 * 3 * 301 * 300
    assert floor.fusion_backward(38_960, [300] * 3, 8, 300, 4).flop == 2 * forward.flop
    batches = floor.loss(3500, 0, 2400, 4) + floor.loss(1000, 0, 2400, 4)
    assert batches.flop == 6 * 2400 * (3500**2 + 1000**2)


def test_the_page_has_the_figures_of_the_formulas() -> None:
    graph = floor.ZH_EN
    fusion = graph.entities, [300] * 3, 8, 300

    def rows(itemsize: int) -> dict[str, floor.Work]:
        return {
            "attention, forward": floor.attention_forward(graph, 300, 2, itemsize),
            "attention, backward": floor.attention_backward(graph, 300, 2, itemsize),
            "fusion, forward": floor.fusion_forward(*fusion, itemsize),
            "fusion, backward": floor.fusion_backward(*fusion, itemsize),
            "loss, both batches": floor.loss(3500, 0, 2400, itemsize) + floor.loss(1000, 0, 2400, itemsize),
            "whole step": floor.step(graph, [2048], [3500, 1000], itemsize=itemsize, nonzeros=634_490),
        }

    page = (ROOT / "docs" / "gpu.md").read_text()
    narrow = rows(2)
    for name, w in rows(4).items():
        figures = w.flop, w.bytes, w.gathered, narrow[name].bytes
        assert f"| {name} | {' | '.join(f'{figure / 1e9:.2f}' for figure in figures)} |" in page
    for pairs in (10_500, 70_000):
        w = floor.ranks(pairs, pairs, 2400, csls=True)
        figures = " | ".join(f"{figure / 1e9:,.2f}" for figure in w)
        assert f"| ranks at {pairs:,} pairs | {figures} | |" in page


def test_the_page_names_every_stage() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    column = {
        name.strip()
        for row in re.findall(r"^\| ([a-z, ]+) \|", page, re.MULTILINE)
        for name in row.split(",")
    }
    assert {stage.name for stage in tasks.STAGES} <= column


def test_attention_moves_at_least_its_inputs_and_at_most_a_row_an_edge() -> None:
    graph = floor.GraphSize(entities=1000, edges=50_000, sets=10)
    for formula in (floor.attention_forward, floor.attention_backward):
        work = formula(graph, 300, 2, 4)
        rows = 2 * graph.entities * 300 * 4
        assert 2 * rows < work.bytes < work.gathered
        per_edge = 2 * (graph.edges - graph.entities) * 300 * 4
        assert work.gathered - work.bytes == pytest.approx(per_edge, rel=1e-6)


def test_fractions_and_goals_of_known_rows() -> None:
    floors = [
        {"task": "floors", "floor": name, "rate": rate, "unit": ""}
        for name, rate in (("copy", 2000), ("tf32", 400))
    ]
    alone = {
        "task": "operators/low_rank_fusion", "op": "low_rank_fusion", "provider": "cuda", "dtype": "tf32", "case": "",
        "alone": True, "status": "ok", "ms": [1.0, 4.0], "flop": [3.2e11, 6.4e11], "bytes": [1e9, 2e9],
        "gathered": [1e9, 2e9],
    }  # fmt: skip
    rows = gpu_table.with_fractions([*floors, alone])
    assert rows[-1]["of_products"] == [0.8, 0.4]
    assert rows[-1]["of_bytes"] == [0.5, 0.25]
    reached = {goal["goal"]: goal["reached"] for goal in gpu_table.goals(rows, rehearsal=False)}
    assert reached["fusion forward, share of the tf32 rate"] is True
    assert reached["fusion backward, share of the tf32 rate"] is False
    assert reached["training step on zh_en in tf32, ms"] is None


def test_a_generated_graph_has_a_hub_and_all_of_its_triples() -> None:
    triples = generated(500, 20, 4000, hub=0.1)
    assert triples.shape == (4000, 3)
    assert triples[:, [0, 2]].max() < 500
    assert triples[:, 1].max() < 20
    assert np.bincount(triples[:, 0]).max() >= 400


def test_a_pack_is_the_data_set(
    dataset: Callable[[str], Path], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loginmea_fast import data

    directory = dataset(graphs.PACKED["zh_en"])
    monkeypatch.setenv("LOGINMEA_DATA", str(data_root))
    monkeypatch.setattr(graphs, "PACKED", {"zh_en": graphs.PACKED["zh_en"]})
    (path,) = graphs.pack_all(tmp_path)
    assert path.stat().st_size < 4e6
    found = graphs.problem("zh_en", cache=tmp_path)
    pair = data.load(directory, modalities=["attribute"], bag_size=graphs.BAG)
    graph = pair.graph()
    assert (found.graph.num_entities, found.graph.num_edges, found.graph.num_relation_sets) == floor.ZH_EN
    assert all((a == b).all() for a, b in zip(found.graph.index, graph.index, strict=True))
    assert (found.links == pair.links).all()
    bag = pair.features["attribute"].values
    assert (found.attributes.to_dense()[:, : bag.shape[1]] == bag.to_dense()).all()
