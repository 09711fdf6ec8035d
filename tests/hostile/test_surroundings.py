"""A full disk, a directory that is read only, little memory, a clock that goes backwards: one sentence, all intact."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import loginmea_fast as lf
from loginmea_fast.training.checkpoint import load_tensors
from tests.align.graphs import write_graphs
from tests.training.synthetic import synthetic_pair

TINY = ("--preset", "loginmea", "--hidden-dim", "8", "--rank", "2", "--backend", "reference", "--quiet")
Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*argv: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loginmea_fast", *map(str, argv)],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def check_refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Status 2, nothing on standard output, and one error, the last line, with all parts in it."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    assert [line.startswith("loginmea-fast: error: ") for line in lines].count(True) == 1, lines
    assert lines[-1].startswith("loginmea-fast: error: ")
    assert all(part in lines[-1] for part in parts), lines[-1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`disk("size=1m")` mounts a file system in memory with these options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(words, capture_output=True, text=True) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(
                "no file system can be mounted: that takes root" if done is None else done.stderr.strip()
            )
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    lf.data.save(synthetic_pair(80), folder / "data")
    return write_graphs(folder)


def fill(place: Path, left: int) -> None:
    """Leave so many bytes."""
    free = shutil.disk_usage(place).free
    (place / "ballast").write_bytes(bytes(max(free - left, 0)))


TWO = ("align", "{g}/left.nt", "{g}/right.nt", "--seeds", "{g}/seeds.tsv")
FULL = {
    "train": ("train", "{g}/data", "--epochs", "3", "--out", "{d}/out", *TINY),
    "align": ("align", "{g}/data", "--epochs", "2", "--seed-ratio", "0.5", "--out", "{d}/out", *TINY),
    "align, trainings kept": (*TWO, "--epochs", "2", "--out", "{d}/out", *TINY),
    "align, matches": (
        *TWO,
        "--method",
        "propagate",
        "--propagation-width",
        "64",
        "--out",
        "{d}/out",
        "--quiet",
    ),
    "convert": ("convert", "{g}/left.nt", "{g}/right.nt", "--to", "csv", "--out", "{d}/out"),
    "generate": ("generate", "{d}/out", "--entities", "2000"),
}


@pytest.mark.hostile("full disk")
@pytest.mark.parametrize("case", FULL)
@pytest.mark.parametrize("room", [0, 24 << 10])
def test_a_full_disk(disk: Callable[[str], Path], graphs: Path, case: str, room: int) -> None:
    place = disk("size=4m")
    fill(place, room)
    done = command(*(word.format(g=graphs, d=place) for word in FULL[case]))
    check_refused(done, str(place))
    for file in place.rglob("*.safetensors"):
        load_tensors(file)
    assert not [file for file in place.rglob("*") if file.name.startswith(".") and file.name != ".lock"]


@pytest.mark.hostile("full disk")
def test_a_disk_that_fills_while_training_keeps_the_last_checkpoint(
    disk: Callable[[str], Path], graphs: Path
) -> None:
    place = disk("size=4m")
    argv = ("train", graphs / "data", "--epochs", "2", "--out", place / "run", *TINY)
    assert command(*argv).returncode == 0
    last = (place / "run" / "last.safetensors").read_bytes()
    fill(place, 0)
    done = command("train", "--resume", place / "run", "--epochs", "6", "--quiet")
    check_refused(done, "cannot write", "go on with --resume")
    assert (place / "run" / "last.safetensors").read_bytes() == last
    (place / "ballast").unlink()
    assert command("train", "--resume", place / "run", "--epochs", "6", "--quiet").returncode == 0


@pytest.mark.hostile("full disk")
def test_a_page_and_a_library_for_which_there_is_no_room(
    disk: Callable[[str], Path], graphs: Path, tmp_path: Path
) -> None:
    place = disk("size=4m")
    argv = (
        "align",
        graphs / "data",
        "--method",
        "propagate",
        "--propagation-width",
        "64",
        "--seed-ratio",
        "0.5",
    )
    assert command(*argv, "--out", tmp_path / "found", "--quiet").returncode == 0
    check_refused(
        command("report", tmp_path / "found", "--out", place / "page.html"), "page.html cannot be written"
    )
    assert not [*place.glob(".*"), *place.glob("page.html")]
    fill(place, 0)
    code = (
        "from loginmea_fast.native import loader\n"
        "try: loader.load('cpu')\nexcept Exception as error: print(type(error).__name__, error)"
    )
    environment = {**os.environ, "LOGINMEA_CACHE": str(place / "cache"), "TMPDIR": str(place)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("BuildError"), done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "LOGINMEA_CACHE" in done.stdout


READ_ONLY = {name: words for name, words in FULL.items() if name != "align, trainings kept"} | {
    "report": ("report", "{d}/found"),
    "resume": ("train", "--resume", "{d}/run", "--epochs", "9", "--quiet"),
    "evaluate": ("evaluate", "{d}/run"),
}


@pytest.mark.hostile("read-only directory")
@pytest.mark.parametrize("case", READ_ONLY)
def test_a_directory_that_is_read_only(disk: Callable[[str], Path], graphs: Path, case: str) -> None:
    place = disk("size=40m")
    if case == "report":
        argv = ("align", graphs / "data", "--method", "propagate", "--propagation-width", "64")
        assert command(*argv, "--seed-ratio", "0.5", "--out", place / "found", "--quiet").returncode == 0
    if case in ("resume", "evaluate"):
        argv = ("train", graphs / "data", "--epochs", "2", "--out", place / "run", *TINY)
        assert command(*argv).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    before = sorted(place.rglob("*"))
    done = command(*(word.format(g=graphs, d=place) for word in READ_ONLY[case]))
    if case == "evaluate":
        assert done.returncode == 0, done.stderr
    else:
        check_refused(done, str(place))
    assert sorted(place.rglob("*")) == before


LIMITED = """
import resource, sys
import torch, loginmea_fast, loginmea_fast.cli.{module}, loginmea_fast.runs, loginmea_fast.runs.aligning
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + {room}, size + {room}))
sys.exit(loginmea_fast.cli.main(sys.argv[1:]))
"""


@pytest.mark.hostile("little memory")
@pytest.mark.parametrize("room", [32 << 20, 128 << 20])
@pytest.mark.parametrize(
    "argv",
    [
        ("train", "embedded", "--hidden-dim", "4000", "--epochs", "1", "--out", "{o}", "--quiet"),
        ("align", "embedded", "--hidden-dim", "4000", "--epochs", "1", "--out", "{o}", "--quiet"),
        (
            "align",
            "embedded",
            "--method",
            "propagate",
            "--propagation-width",
            "60000",
            "--out",
            "{o}",
            "--quiet",
        ),
        ("generate", "{o}", "--entities", "3000000"),
    ],
)
def test_little_memory(tmp_path: Path, argv: Sequence[str], room: int) -> None:
    code = LIMITED.format(module=argv[0], room=room)
    words = [word.format(o=tmp_path / "out") for word in argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True
    )
    check_refused(done, "out of memory")
    for file in (tmp_path / "out").rglob("*.safetensors"):
        load_tensors(file)


@pytest.mark.hostile("clock")
def test_a_clock_that_goes_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that stood in the future while files were written."""
    keys = {
        "preset": "loginmea",
        "epochs": 4,
        "hidden_dim": 8,
        "rank": 2,
        "backend": "reference",
        "threads": 1,
    }
    plain = lf.fit(synthetic_pair(), out=tmp_path / "plain", progress=False, **keys)
    now = [time.time() + 1e8]

    def backwards() -> float:
        now[0] -= 1000
        return now[0]

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", backwards)
        lf.fit(synthetic_pair(), out=tmp_path / "run", progress=True, **keys)
        for file in (tmp_path / "run").iterdir():
            os.utime(file, (4e9, 4e9))
        found = lf.fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=True)
    assert found.metrics == plain.metrics
    names = ("last.safetensors", "best.safetensors")
    assert all((tmp_path / "run" / n).read_bytes() == (tmp_path / "plain" / n).read_bytes() for n in names)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(record.get("seconds", 0) >= 0 for record in records)
    assert "-" not in "".join(part for part in capsys.readouterr().err.split() if part.endswith("s/it]"))


@pytest.mark.hostile("full disk")
def test_a_limit_on_the_size_of_files(tmp_path: Path, graphs: Path) -> None:
    argv = ("convert", graphs / "left.nt", graphs / "right.nt", "--to", "csv", "--out", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-m", "loginmea_fast", *map(str, argv)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        capture_output=True,
        text=True,
    )
    check_refused(done, str(tmp_path))
    assert not (tmp_path / "out").exists()
