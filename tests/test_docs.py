"""Documents that cannot drift from what they describe."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from loginmea_fast.cli import app
from loginmea_fast.cli.options import keys_given
from loginmea_fast.data import format_names
from loginmea_fast.training import Config

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in local if target and not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_are_understood(document: Path) -> None:
    for block in re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("loginmea-fast "):
                words = shlex.split(line, comments=True)
                _, bound = app.parse(words[1 : words.index("|") if "|" in words else None])
                config = Config.build(keys_given(bound.arguments.get("keys")))
                assert config.format in ("auto", *format_names())


def test_the_table_of_keys_is_that_of_the_class(scripts: None) -> None:
    from render_config import config_table

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert config_table() in text, "run scripts/render_config.py"


def test_every_dependency_has_its_reason_in_the_architecture() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## What it depends on")[2]
    )
    optional = {"names", "rdf", "hdf5", "tensorboard", "faiss"}
    named = [*project["dependencies"], *(d for e in optional for d in project["optional-dependencies"][e])]
    assert [name for d in named if (name := re.split(r"[<>=; \[]", d)[0]) not in text] == []


def test_every_environment_variable_stands_in_the_table() -> None:
    sources = [*(ROOT / "loginmea_fast").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    read = r"environ(?:\.get\(|\[)\s*\"([A-Z_]+)\""
    used = {name for path in sources for name in re.findall(read, path.read_text(encoding="utf-8"))}
    table = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert {"LOGINMEA_CACHE", "CXX"} <= used
    assert [name for name in sorted(used) if f"`{name}`" not in table and name != "XDG_CACHE_HOME"] == []


def test_figures_of_documents_are_the_recorded_ones(scripts: None) -> None:
    from render_accuracy import render_directions, render_study, render_tasks
    from render_results import (
        render,
        render_align,
        render_changes,
        render_decisions,
        render_growth,
        render_large_step,
        render_optimiser,
        render_processes,
        render_profile,
        render_reading,
        render_reliability,
        render_same_steps,
        render_scale,
        render_sizes,
        render_views,
    )

    from bench.accuracy.studies import STUDIES

    results = ROOT / "bench" / "results"
    for document, rendered in (
        ("README.md", render(results)),
        ("README.md", render_tasks(results)),
        ("docs/accuracy.md", render_directions(results)),
        ("docs/align.md", render_align(results)),
        ("docs/report.md", render_decisions(results)),
        ("docs/training.md", render_profile(results)),
        ("docs/sizes.md", render_sizes(results)),
        ("docs/sizes.md", render_changes(results)),
        ("docs/sizes.md", render_views(results)),
        ("docs/scale.md", render_same_steps(results)),
        ("docs/data.md", render_reading(results)),
        ("docs/scale.md", render_optimiser(results)),
        ("docs/scale.md", render_scale(results)),
        ("docs/scale.md", render_large_step(results)),
        ("docs/scale.md", render_growth(results)),
        ("docs/scale.md", render_processes(results)),
        *(("docs/reliability.md", render_reliability(results, what)) for what in ("killed", "hostile")),
        *(("docs/accuracy.md", render_study(results, study)) for study in STUDIES.values()),
    ):
        text = (ROOT / document).read_text(encoding="utf-8")
        assert rendered.strip() in text, "run scripts/render_results.py and scripts/render_accuracy.py"


def accuracy_row(task: str, seed: int, hits: float, **more: object) -> dict:
    ways = {
        "left_to_right": {"hits@1": hits, "hits@10": hits, "mrr": hits},
        "right_to_left": {"hits@1": hits},
    }
    told = {"task": task, "preset": "fast", "seed": seed, "modalities": ["relation"], "date": "2026-01-02"}
    cost = {"seconds": seed, "cpu_seconds": 2 * seed, "changes": [], "removed": 0.0, "candidates": "test"}
    return {**told, **cost, **dict.fromkeys(("cosine", "csls", "sinkhorn"), ways), **more}


def accuracy_record(folder: Path, rows: list[dict], device: str = "m") -> None:
    (folder / device).mkdir()
    record = {"rows": rows, "machine": {**MACHINE, "device": device}, "note": "so"}
    (folder / device / "accuracy.json").write_text(json.dumps(record))


def test_accuracy_is_the_mean_over_seeds(scripts: None, tmp_path: Path) -> None:
    from render_accuracy import render_directions, render_tasks

    rows = [accuracy_row("a", seed, hits) for seed, hits in ((1, 0.5), (2, 0.6), (6, 0.7))]
    apart = {"csls_without_joined": {"left_to_right": {"hits@1": 0.2}}}
    accuracy_record(tmp_path, [*rows, accuracy_row("b", 3, 0.3, candidates="all", **apart)])
    mean = "0.600 ± 0.100"
    assert render_tasks(tmp_path).splitlines()[-2:] == [
        f"| a: relation | `fast` | 3 | {mean} | {mean} | {mean} | {mean} | 2 | 4 |",
        "| b: relation | `fast` | 1 | 0.300 | 0.300 | 0.300 | - | 3 | 6 |",
    ]
    first, second = render_directions(tmp_path).splitlines()[-2:]
    assert first.endswith(f" | {mean} | {mean} | - |")
    assert second == "| b | `fast` | 0.300 | 0.300 | 0.300 | 0.300 | - | - | 0.200 |"


def test_rows_of_two_machines_are_one_table_and_told_apart(scripts: None, tmp_path: Path) -> None:
    from render_accuracy import render_tasks

    accuracy_record(tmp_path, [accuracy_row("a", 1, 0.5)], "first")
    accuracy_record(tmp_path, [accuracy_row("a", 2, 0.7), accuracy_row("b", 3, 0.3)], "second")
    lines = render_tasks(tmp_path).splitlines()
    assert "first, 2 cores" in lines[0]
    assert "(A); second, " in lines[0]
    assert [line.split(" | ")[-1] for line in lines[-2:]] == ["A, B |", "B |"]


def test_choices_are_shown_by_links_held_out_alone(scripts: None, tmp_path: Path) -> None:
    from render_accuracy import render_study

    from bench.accuracy.studies import STUDIES

    study = STUDIES["choices"]
    first, *_, last = [case for _, case in study.cases() if case.task == "zh_en"]
    rows = [
        accuracy_row(case.task, 1, 0.9, key=case.key, validation={"hits@1": hits, "mrr": hits + 0.1})
        for case, hits in ((first, 0.5), (last, 0.55))
    ]
    accuracy_record(tmp_path, rows)
    lines = render_study(tmp_path, study).splitlines()
    assert lines[-2] == "| as it is |  | 0.500 | 0.600 | +0.000 | 2 |"
    assert lines[-1].endswith("`aggregation=both`, `missing=mask` | 0.550 | 0.650 | +0.050 | 2 |")


@pytest.mark.parametrize(("sources", "gain"), [(("a", "a"), "+0.050"), (("a", "b"), "-")])
@pytest.mark.parametrize("name", ["choices", "ingredients"])
def test_no_gain_is_told_between_versions(
    scripts: None, tmp_path: Path, name: str, sources: tuple[str, str], gain: str
) -> None:
    from render_accuracy import render_study

    from bench.accuracy.studies import STUDIES

    first, second, *_ = [case for _, case in STUDIES[name].cases() if case.task == "zh_en"]
    rows = [
        accuracy_row(case.task, 1, hits, key=case.key, sources=of, validation={"hits@1": hits, "mrr": hits})
        for case, hits, of in zip((first, second), (0.5, 0.55), sources, strict=True)
    ]
    accuracy_record(tmp_path, rows)
    assert f" | {gain} | " in render_study(tmp_path, STUDIES[name]).splitlines()[-1]


def test_pictures_of_accuracy_are_drawn_from_records_the_same_again(scripts: None, tmp_path: Path) -> None:
    from plot_accuracy import draw

    from bench.accuracy.case import Case
    from bench.accuracy.studies import STUDIES

    cases = [case for study in STUDIES.values() for _, case in study.cases()]
    cases += [Case(task, preset) for task in ("zh_en", "FB15K_DB15K 20 %") for preset in ("default", "best")]
    scores = {"left_to_right": {"hits@1": 0.5}}
    rows = [
        {
            **vars(case),
            "key": case.key,
            "machine": "a",
            "date": "2026-01-02",
            "cpu_seconds": 60.0,
            "csls": scores,
            "sinkhorn": scores,
        }
        for case in cases
    ]
    for file in draw(tmp_path, rows[: len(rows) // 4]):
        assert file.read_text().startswith("<?xml"), "drawn while little is measured, too"
    again = [{file.name: file.read_bytes() for file in draw(tmp_path, rows)} for _ in range(2)]
    assert again[0] == again[1]
    assert b">default<" in again[0]["accuracy-seconds.svg"]


def test_pictures_of_results_are_drawn_from_records_the_same_again(scripts: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from plot_results import draw_all

    assert draw_all(tmp_path, tmp_path) == []
    bins = [{"confidence": 0.9, "precision": 0.8, "matches": 30}]
    write_record(tmp_path / "m", "align", [{"key": "x model", "reliability": bins, "calibration_error": 0.1}])
    again = [[file.read_bytes() for file in draw_all(tmp_path, tmp_path)] for _ in range(2)]
    assert again[0] == again[1]
    assert b">x model<" in again[0][0]


def test_an_alignment_is_a_line(scripts: None, tmp_path: Path) -> None:
    from render_results import NO_ALIGN, render_align

    assert render_align(tmp_path) == NO_ALIGN
    row = {"title": "two graphs", "method": "model", "matches": 1234, "precision": 0.95, "recall": 0.8}
    row |= {"calibration_error": 0.01, "seconds": 61.2, "date": "2026-01-02", "key": "b"}
    alone = row | {"title": "others", "dangling": 9, "dangling_precision": 0.5, "dangling_recall": 0.25}
    (tmp_path / "m").mkdir()
    record = {"rows": [row, alone], "machine": MACHINE, "note": "so"}
    (tmp_path / "m" / "align.json").write_text(json.dumps(record))
    assert render_align(tmp_path).splitlines()[-2:] == [
        "| others | `model` | 1,234 | 0.950 | 0.800 | 0.010 | 0.500, 0.250 | 61 |",
        "| two graphs | `model` | 1,234 | 0.950 | 0.800 | 0.010 |  | 61 |",
    ]


MACHINE = {"device": "CPU", "cores": 2, "capability": "AVX2", "torch": "2.9", "date": "2026-01-02"}


def write_record(folder: Path, name: str, rows: list[dict[str, object]], **more: object) -> None:
    folder.mkdir(exist_ok=True)
    content = {"name": name, "machine": MACHINE, "note": "zh_en; random images", **more, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_a_line_a_case_with_the_fastest_of_the_plain_forms(scripts: None, tmp_path: Path) -> None:
    from render_results import NOTHING, render

    assert render(tmp_path) == NOTHING
    step = {"provider": "authors, one backward", "seconds": 40.0, "bytes": 9e9}
    write_record(
        tmp_path / "cpu",
        "training_step",
        [
            step,
            {"provider": "authors, one a batch", "seconds": 60.0, "bytes": 9e9},
            {"provider": "clean", "seconds": 20.0, "bytes": 8e9},
            {"provider": "torch.compile", "seconds": 16.0, "bytes": 7e9},
            {"provider": "ours float32", "seconds": 4.0, "bytes": 1e9},
            {"provider": "ours float32 kept", "seconds": 3.0, "bytes": 2e9},
            {"provider": "ours bfloat16", "seconds": 2.0, "bytes": 5e8},
        ],
    )
    layers = {"graph": "FR_EN", "layers": 2, "width": 300}
    write_record(
        tmp_path / "cpu",
        "relation_reflection_attention",
        [
            {"provider": "authors", "skipped": "needs about 40 GB", **layers},
            {"provider": "ours", "forward": 1.0, "backward": 2.0, "bytes": 1e6, **layers},
        ],
    )
    write_record(tmp_path / "cpu", "contrastive_loss-sizes", [step])
    lines = render(tmp_path).splitlines()
    assert lines[0].startswith("CPU, 2 cores, AVX2, torch 2.9, 2026-01-02; ")
    assert lines[4:] == [
        "| a whole training step: zh_en | 40.00 s, 9,000 MB | torch.compile: 16.00 s, 7,000 MB | 4.00 s, 1,000 MB "
        "| 10.0x / 4.0x | 2.00 s, 500 MB |",
        "| `relation_reflection_layers`, FR_EN, 2 layers 300 wide | needs about 40 GB |  | 3.00 s, 1 MB | - / - |  |",
    ]


def test_decisions_are_a_line_before_and_one_after(scripts: None, tmp_path: Path) -> None:
    from render_results import NO_DECISIONS, render_decisions

    assert render_decisions(tmp_path) == NO_DECISIONS
    draw = {
        "decisions": 200,
        "accepted": 90,
        "before": {"precision": 0.9, "recall": 0.5, "f1": 0.6},
        "after": {"precision": 0.95, "recall": 0.75, "f1": 0.8},
    }
    draw |= {"after_as_many": draw["after"]}
    draw |= {f"{name}_apart": draw[name] for name in ("before", "after", "after_as_many")}
    other = draw | {"accepted": 92, "before": {"precision": 0.8, "recall": 0.5, "f1": 0.6}}
    rows = [
        {"title": title, "method": "model", "draws": draws}
        for title, draws in (("two", [draw]), ("more", [draw, other]))
    ]
    write_record(tmp_path / "cpu", "align-decisions", rows)
    lines = render_decisions(tmp_path).splitlines()
    assert lines[4:7] == [
        "| two, `model` | before | 0.900 | 0.500 | 0.600 |",
        "| two, `model` | after 200 decisions, of which 90 accept, at the default threshold | 0.950 | 0.750 | 0.800 |",
        "| two, `model` | after, as many matches as before | 0.950 | 0.750 | 0.800 |",
    ]
    assert lines[10] == "| more, `model`; mean of 2 draws of known pairs | before | 0.850 | 0.500 | 0.600 |"
    assert "of which 91 accept" in lines[11]


def test_what_was_survived_is_counted(scripts: None, tmp_path: Path) -> None:
    from render_results import render_reliability

    assert "make hostile-test" in render_reliability(tmp_path, "hostile")
    rows = [{"kind": "XML", "count": 8, "skipped": 0}, {"kind": "paths", "count": 2, "skipped": 1}]
    write_record(tmp_path / "cpu", "reliability-hostile", rows, seconds=130)
    lines = render_reliability(tmp_path, "hostile").splitlines()
    assert lines[0].startswith("10 cases, all of them survived, 1 skipped; 2 minutes")
    assert lines[-2:] == ["| XML | 8 |", "| paths | 2 |"]


def test_a_table_of_views(scripts: None, tmp_path: Path) -> None:
    from render_results import NO_VIEWS, render_views

    assert render_views(tmp_path) == NO_VIEWS
    row = {"case": "few", "rows": 30, "entities": 1200, "edges": [5000, 60], "faster_typically": 3.125}
    write_record(tmp_path / "cpu", "views", [{**row, "whole_seconds": 0.5, "view_seconds": 0.16}])
    assert "| few | 30 | 1,200 | 5,000 + 60 | 0.50 | 0.16 | 3.12x |" in render_views(tmp_path)


def test_a_step_that_did_not_fit_says_where_it_failed(scripts: None, tmp_path: Path) -> None:
    from render_results import NO_LARGE_STEP, render_large_step

    assert render_large_step(tmp_path) == NO_LARGE_STEP
    failed = {"provider": "clean", "skipped": "out of memory: it failed in `x = z[i]`"}
    ours = {"provider": "ours", "seconds": 2.0, "bytes": 1e9, "total": 2e9}
    write_record(tmp_path / "cpu", "training_step-large", [failed, ours])
    table = render_large_step(tmp_path)
    assert "| clean | out of memory: it failed in `x = z[i]` |  |  |" in table
    assert "| ours | 2.00 | 1.0 GB | 2.0 GB |" in table


def test_a_table_of_reading(scripts: None, tmp_path: Path) -> None:
    from render_results import NO_READING, render_reading

    from bench.reading import measure

    assert render_reading(tmp_path) == NO_READING
    row = measure(tmp_path, "nt", 1000)
    assert (row["ours"]["triples"], row["ours"]["entities"]) == (800, 100)
    write_record(tmp_path / "cpu", "reading", [{**row, "file_bytes": 2e9}], note="made")
    table = render_reading(tmp_path)
    assert table.startswith("1,000 triples, made; ")
    assert "| nt | 2.0 GB | " in table


def test_a_table_of_the_same_steps(scripts: None, tmp_path: Path) -> None:
    from render_results import NO_SAME_STEPS, render_same_steps

    assert render_same_steps(tmp_path) == NO_SAME_STEPS
    errors = {"together": 8.4e-6, "worst": 1.1e-5, "exact": 1e-14, "rounding": 1e-4}
    write_record(tmp_path / "cpu", "same_steps", [{"dataset": "zh_en", "updates": 5, **errors}])
    assert "| zh_en | 8.4e-06 | 1.1e-05 | 1.0e-14 | 1.0e-04 |" in render_same_steps(tmp_path)


def test_a_table_a_configuration_of_sizes(scripts: None, tmp_path: Path) -> None:
    from render_results import NO_SIZES, render_sizes

    assert render_sizes(tmp_path) == NO_SIZES
    row = {
        "triples": 42500,
        "parameters": 2.5e6,
        "seconds": 1.234,
        "cpu_seconds": 2.0,
        "date": "2026-01-03",
        "note": "",
    }
    write_record(
        tmp_path / "cpu",
        "sizes",
        [
            {"configuration": "small", "keys": ["depth=1"], "entities": 10_000, "width": 64,
             "step_bytes": 12.8e6, "process_bytes": 6e8, **row},
            {"configuration": "large", "keys": [], "entities": 10_000, "width": 300,
             "step_bytes": 6e7, "process_bytes": 1.04e9, **row, "note": "shared"},
        ],
    )  # fmt: skip
    lines = render_sizes(tmp_path).splitlines()
    assert lines[0] == "**small (`depth=1`)**; CPU, 2 cores, AVX2, 2026-01-03:"
    assert lines[4] == "| 10,000 | 42,500 | 64 | 2.5 M | 13 MB | 5 | 600 MB | 2.00 | 1.23 |"
    assert lines[6] == "**large**; CPU, 2 cores, AVX2, 2026-01-03; shared:"
    assert lines[10] == "| 10,000 | 42,500 | 300 | 2.5 M | 60 MB | 5 | 1.0 GB | 2.00 | 1.23 |"


def test_changes_are_told_as_multiples(scripts: None, tmp_path: Path) -> None:
    from render_results import render_changes

    base = {"entities": 20_000, "width": 128}
    write_record(
        tmp_path / "cpu",
        "sizes-changes",
        [
            {"change": "", "step_bytes": 2e8, "cpu_seconds": 0.5, **base},
            {"change": "depth=3", "step_bytes": 3e8, "cpu_seconds": 0.4, **base},
        ],
        configuration="small",
    )
    lines = render_changes(tmp_path).splitlines()
    assert lines[0] == (
        "**small**, 20,000 entities, width 128: 200 MB and 0.50 CPU seconds a step; CPU, 2 cores, 2026-01-02:"
    )
    assert lines[4:] == ["| `depth=3` | 1.50 times | 0.80 times |"]


def test_rendering_leaves_the_rest_of_a_document_alone(scripts: None, tmp_path: Path) -> None:
    from markers import render_into

    document = tmp_path / "page.md"
    document.write_text("before\n<!-- results: by a script -->\nold\n\nolder\n<!-- /results -->\nafter\n")
    assert render_into(document, "results", "\nnew \\1\n")
    assert (
        document.read_text() == "before\n<!-- results: by a script -->\nnew \\1\n<!-- /results -->\nafter\n"
    )
    assert not render_into(document, "results", "new \\1")
    with pytest.raises(ValueError, match="no markers <!-- config -->"):
        render_into(document, "config", "x")


@pytest.mark.slow
def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code
    assert code[1].count('preset="fast"') == 1
    exec(compile(code[1].replace('preset="fast"', 'preset="fast", epochs=1'), "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "Hits@1 0." in out
    assert out.count(" -> ") == 5
