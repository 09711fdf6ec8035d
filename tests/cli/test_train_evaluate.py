from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from loginmea_fast.cli import train
from loginmea_fast.evaluation.decoders import decoder_names
from tests.cli.conftest import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")


def test_train_then_evaluate_agree(call, data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = call("train", data_dir, "--epochs", 3, "--out", run, "--json", *TINY)
    assert trained.status == 0
    answer = trained.json
    assert answer["run"] == str(run)
    assert answer["epochs"] == 3
    assert answer["peak_memory"] > answer["step_memory"] >= 0
    assert "epoch 3/3" in trained.err
    measured = call("evaluate", run, "--json")
    assert measured.status == 0
    assert measured.err == ""
    found = measured.json
    assert (found["epoch"], found["best_epoch"]) == (answer["epoch"], answer["best_epoch"])
    assert {key: found[key] for key in answer["metrics"]} == answer["metrics"]
    assert 0 <= found["csls"]["left_to_right"]["hits@1"] <= 1


def test_a_plan_is_printed_and_nothing_trained(
    call, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = call("train", data_dir, "--plan", "--quiet", *TINY)
    assert told.status == 0
    assert re.search(r"^peak +[\d,]+ MiB$", told.out, re.MULTILINE)
    found = call("train", data_dir, "--plan", "--quiet", "--json", *TINY).json
    assert found["peak"] > found["parameters"] > 0
    assert not found["advice"]
    assert not list(tmp_path.iterdir())


def test_text_for_people(call, trained_run: Path) -> None:
    done = call("evaluate", trained_run)
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{trained_run}: epoch ")
    assert "28 test pairs, ranked among the test targets (28)" in lines[1]
    assert any(line.split() == ["Hits@1", "Hits@5", "Hits@10", "Hits@50", "MRR", "MR"] for line in lines)
    assert sum(line.startswith("CSLS-10, ") for line in lines) == 2
    assert any(line.startswith("by who has image (pairs), CSLS-10, both ways") for line in lines)


def test_candidates_and_csls_can_be_chosen_afterwards(call, trained_run: Path) -> None:
    found = call("evaluate", trained_run, "--candidates", "all", "--csls-k", 0, "--json").json
    assert found["protocol"] == "all"
    assert found["candidates"] == {"left_to_right": 40, "right_to_left": 40}
    assert "csls" not in found


def test_a_decoder_is_reported_beside_cosine_and_csls(call, trained_run: Path) -> None:
    plain = call("evaluate", trained_run, "--json").json
    found = call("evaluate", trained_run, "--decoder", "all", "--json").json
    assert set(found.pop("decoders")) == set(decoder_names()) - {"cosine", "csls"}
    assert found == plain
    told = call("evaluate", trained_run, "--decoder", "sinkhorn")
    assert "sinkhorn, right to left" in told.out
    call("evaluate", trained_run, "--decoder", "sinkhoorn").check_error("decoder must be one of", "sinkhorn")


def test_links_of_one_entity_from_the_command_line(call, data_dir: Path, tmp_path: Path) -> None:
    several = tmp_path / "several"
    shutil.copytree(data_dir, several)
    links = (several / "ill_ent_ids").read_text()
    (several / "ill_ent_ids").write_text(links + "0\t79\n0\t78\n1\t79\n")
    run = tmp_path / "run"
    trained = call("train", several, "--epochs", 2, "--out", run, "--json", *TINY)
    assert trained.status == 0, trained.err
    assert "3 of 43 links are such, all are kept" in trained.err
    measured = call("evaluate", run, "--candidates", "all", "--json").json
    assert measured["candidates"] == {"left_to_right": 40, "right_to_left": 40}


def test_every_link_a_seed_leaves_nothing_to_measure(call, data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = call("train", data_dir, "--epochs", 2, "--seed-ratio", 1, "--out", run, *TINY)
    assert trained.status == 0, trained.err
    assert "no test links, so nothing was measured" in trained.out
    assert re.search(r"^validation links, both ways, among \d+ candidates: Hits@1 [01]\.", trained.out, re.M)
    assert "no test links, so nothing was measured" in call("evaluate", run).out
    assert call("evaluate", run, "--json").json == {
        "run": str(run),
        "epoch": 2,
        "best_epoch": 2,
        "modalities": ["image", "relation"],
    }


def test_data_that_has_moved_is_named(call, trained_run: Path, data_dir: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(data_dir, moved)
    assert (
        call("evaluate", trained_run, "--data", moved, "--json").json
        == call("evaluate", trained_run, "--json").json
    )
    call("evaluate", trained_run, "--data", tmp_path / "gone").check_error(
        "gone does not exist", "--data DIR"
    )


def test_quiet_leaves_stderr_empty(call, data_dir: Path, tmp_path: Path) -> None:
    done = call("train", data_dir, "--epochs", 1, "--out", tmp_path / "run", "--quiet", *TINY)
    assert (done.status, done.err) == (0, "")
    assert "peak memory" in done.out
    assert f"loginmea-fast evaluate {tmp_path / 'run'}" in done.out


def test_without_out_the_run_directory_is_new_each_time(
    call, data_dir: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [call("train", data_dir, "--epochs", 1, "--json", *TINY).json["run"] for _ in range(2)]
    assert runs[0] != runs[1]
    for run in runs:
        assert Path(run).parent == Path("runs")
        assert (tmp_path / run / "best.safetensors").is_file()


def test_a_directory_in_use_is_left_alone(call, trained_run: Path, data_dir: Path) -> None:
    before = {path.name: path.read_bytes() for path in trained_run.iterdir()}
    call("train", data_dir, "--out", trained_run, "--quiet", *TINY).check_error(
        "exists already", f"--resume {trained_run}"
    )
    assert {path.name: path.read_bytes() for path in trained_run.iterdir()} == before


def never(*args, **options):
    raise AssertionError("data was read before the mistake was told")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["DIR", "--out", "RUN"], ["RUN exists already"]),
        (["DIR", "--out", "RUN/config.toml/deep"], ["cannot make the run directory", "is no directory"]),
        (["DIR", "--device", "cuda:99"], ["cuda:99", "is not there"]),
        (
            ["DIR", "--device", "cpu", "--backend", "cuda"],
            ["backend 'cuda' serves the device 'cuda'", "(--backend)"],
        ),
        (["DIR", "--seed-ratio", "1.5"], ["'seed_ratio'", "(--seed-ratio)"]),
        (["--resume", "NONE"], ["not a run directory"]),
        (["--resume", "RUN", "--rank", "9"], ["rank would change"]),
        (["--resume", "CUT"], ["CUT/last.safetensors is cut short", "evaluate CUT --checkpoint best"]),
        (["--resume", "NEWER"], ["NEWER/last.safetensors has checkpoint version 3", "upgrade"]),
        (
            ["--resume", "OTHER"],
            ["OTHER/last.safetensors is of another model", "hidden_dim is 8 there and 9"],
        ),
    ],
)
def test_what_can_be_told_at_once_is_told_before_data_is_read(
    call, trained_run: Path, tmp_path: Path, monkeypatch, argv: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RUN", "CUT", "NEWER", "OTHER"):
        shutil.copytree(trained_run, name)
    last = Path("CUT/last.safetensors")
    last.write_bytes(last.read_bytes()[:-1])
    last = Path("NEWER/last.safetensors")
    last.write_bytes(last.read_bytes().replace(b'"version": "2"', b'"version": "3"', 1))
    config = Path("OTHER/config.toml")
    config.write_text(config.read_text().replace("hidden_dim = 8", "hidden_dim = 9"))
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    monkeypatch.setattr("loginmea_fast.runs.load_pair", never)
    call("train", *argv).check_error(*parts)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("which", ["best", "last"])
def test_evaluate_measures_the_checkpoint_that_is_asked_for(
    call, trained_run: Path, tmp_path: Path, which
) -> None:
    other = {"best": "last", "last": "best"}[which]
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    damaged = run / f"{other}.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    call("evaluate", run, "--checkpoint", other).check_error(damaged.name, "damaged", f"--checkpoint {which}")
    assert call("evaluate", run, "--checkpoint", which, "--json").json["pairs"] == 28
    call("evaluate", run, "--checkpoint", "first").check_error("--checkpoint", "first", "best", "last")


def test_compiling_is_not_counted_as_training(call, data_dir: Path, tmp_path: Path, monkeypatch) -> None:
    clock = [0.0]

    def compile_for_long(config) -> None:
        clock[0] += 1000

    monkeypatch.setattr("loginmea_fast.runs.prepare_kernels", compile_for_long)
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    answer = call("train", data_dir, "--epochs", 1, "--out", tmp_path / "run", "--json", *TINY).json
    assert clock == [1000]
    assert answer["seconds"] == 0


def test_train_without_data_says_what_to_name(call) -> None:
    call("train").check_error("data set", "embedded")


def test_a_missing_data_set_is_named(call, tmp_path: Path) -> None:
    call("train", tmp_path / "nothing", "--out", tmp_path / "run").check_error(
        "nothing", "does not exist", "dbp15k: ent_ids_1", "openea: rel_triples_1"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argv", [["--out", "RUN"], ["--config", "run.toml"]])
def test_resume_takes_everything_from_the_run(call, trained_run: Path, argv: list[str]) -> None:
    call("train", *argv, "--resume", trained_run).check_error("--resume takes the configuration of the run")


def test_resume_refuses_another_configuration(call, trained_run: Path) -> None:
    call("train", "--resume", trained_run, "--lr", 9, "--quiet").check_error("lr would change")
    call("train", "--resume", trained_run, "--epochs", 1, "--quiet").check_error(
        "cannot end after 1; give more"
    )


def test_a_run_goes_on_with_more_epochs(call, trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    before = call("evaluate", run, "--checkpoint", "last", "--json").json["epoch"]
    longer = call("train", "--resume", run, "--epochs", before + 2, "--quiet", "--json")
    assert longer.status == 0, longer.err
    assert longer.json["epochs"] == before + 2
    assert call("evaluate", run, "--checkpoint", "last", "--json").json["epoch"] == before + 2


def test_resume_of_what_is_no_run(call, tmp_path: Path) -> None:
    call("train", "--resume", tmp_path).check_error("not a run directory")


# A training that waits after its fourth epoch until the signal is there: however slow the machine, it comes in time.
WAITING = """
import sys, time
from loginmea_fast.cli import main
from loginmea_fast.training.loop import Trainer
epoch, stops = Trainer._epoch, []
train = Trainer.train
def waiting(self, *rest):
    epoch(self, *rest)
    while self.standing.epoch == 4 and stops[0].received is None:
        time.sleep(0.01)
Trainer._epoch = waiting
Trainer.train = lambda self, stop, progress: (stops.append(stop), train(self, stop, progress))
sys.exit(main())
"""


def test_a_stopped_run_resumes_to_the_same_metrics(call, data_dir: Path, tmp_path: Path) -> None:
    options = ["--epochs", "10", "--set", "eval_every=5", *TINY]
    whole = call("train", data_dir, "--out", tmp_path / "whole", "--quiet", "--json", *options).json
    run = tmp_path / "stopped"
    command = [sys.executable, "-c", WAITING, "train", data_dir, "--out", run, "--quiet", "--json"]
    process = subprocess.Popen(
        [*map(str, command), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while (
        not (run / "metrics.jsonl").exists() or '"event": "epoch"' not in (run / "metrics.jsonl").read_text()
    ):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (130, "")
    last = err.splitlines()[-1]  # lines before it may tell that a library is being compiled
    assert last.startswith("loginmea-fast: stopped after epoch ")
    assert "--resume" in last
    assert "Traceback" not in err
    resumed = call("train", "--resume", run, "--quiet", "--json").json
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["best_epoch"] == whole["best_epoch"]


def test_a_run_whose_data_and_vectors_moved_is_measured_and_goes_on(
    call, data_dir: Path, tmp_path: Path
) -> None:
    """Blanks, commas and quotes in every path, and in the commands that are printed."""
    data, run = tmp_path / "my, data", tmp_path / "it's a run"
    shutil.copytree(data_dir, data)
    vectors = tmp_path / "a, b=c.npy"
    np.save(vectors, np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32))
    trained = call(
        "train", data, "--vectors", f"voice={vectors}", "--epochs", 4, "--out", run, "--quiet", *TINY
    )
    assert f"loginmea-fast evaluate {shlex.quote(str(run))}" in trained.out
    before = call("evaluate", run, "--json").json
    moved, moved_vectors = tmp_path / 'moved "data"', tmp_path / "moved, vectors.npy"
    data.rename(moved)
    vectors.rename(moved_vectors)
    for command in (("evaluate", run), ("train", "--resume", run)):
        call(*command).check_error("--data DIR")
        call(*command, "--data", moved).check_error("a, b=c.npy is missing", "--vectors voice=FILE")
    there = ("--data", moved, "--vectors", f"voice={moved_vectors}")
    assert call("evaluate", run, *there, "--json").json == before
    resumed = call("train", "--resume", run, *there, "--quiet", "--json")
    assert resumed.status == 0, resumed.err
    assert resumed.json["metrics"]["cosine"] == before["cosine"]
    assert call("evaluate", run, "--json").json == before, "the run has kept where they are"


def test_a_fold_of_data_without_folds_is_refused(call, data_dir: Path, tmp_path: Path) -> None:
    call("train", data_dir, "--fold", 2, "--out", tmp_path / "run", "--quiet", *TINY).check_error(
        "fold=2 is for OpenEA's prepared splits", "layout dbp15k"
    )


def test_a_key_that_changes_nothing_is_one_warning(call, data_dir: Path, tmp_path: Path) -> None:
    done = call("train", data_dir, "--epochs", 3, "--bootstrap", "--out", tmp_path / "run", "--quiet", *TINY)
    told = [line for line in done.err.splitlines() if "changes nothing" in line]
    assert len(told) == 1
    assert told[0].startswith(
        "loginmea-fast: warning: bootstrap changes nothing: its first links join after epoch 40"
    )


def test_files_of_one_modality_are_each_looked_for(call, data_dir: Path, tmp_path: Path) -> None:
    two = ("--vectors", "voice=a.npy", "--vectors", "voice=b.npy")
    call("train", data_dir, *two, "--out", tmp_path / "run", "--quiet", *TINY).check_error("a.npy is missing")
