from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loginmea_fast as lf
from loginmea_fast.errors import CheckpointError, ConfigError, DataError, LoginMEAError
from loginmea_fast.runs import RunDirectory, assemble, build_model, device, fit
from loginmea_fast.training import Config, TrainingInterrupted, loop, measuring
from loginmea_fast.training.interrupt import StopOnSignal
from loginmea_fast.training.loop import Trainer
from loginmea_fast.training.sampling import batches
from loginmea_fast.training.updates import Updates
from tests.training.synthetic import synthetic_pair

SMALL = {
    "preset": "loginmea",
    "hidden_dim": 16,
    "rank": 2,
    "epochs": 12,
    "lr": 0.02,
    "seed_ratio": 0.4,
    "valid_ratio": 0.2,
    "warmup_epochs": 2,
}
BOOTSTRAP = {**SMALL, "bootstrap": True, "bootstrap_start": 2, "bootstrap_every": 1, "bootstrap_window": 3}
AUTHORS = {
    "preset": "authors",
    "hidden_dim": 16,
    "rank": 2,
    "epochs": 12,
    "seed_ratio": 0.4,
    "compat": "authors",
    "bootstrap_start": 3,
    "bootstrap_every": 1,
    "bootstrap_window": 3,
    "eval_every": 5,
    "lr": 0.01,
    "batch_size": 5,
}


def quiet_fit(config=SMALL, out=None, pair=None, callbacks=(), **more):
    return fit(
        pair or synthetic_pair(), Config.build(config, **more), out, progress=False, callbacks=callbacks
    )


def new_trainer(config, pair=None):
    problem = assemble(pair or synthetic_pair(), config)
    return Trainer(problem, build_model(problem, config), config)


def losses(history):
    return [(r["epoch"], r["loss"], r["links"]) for r in history if r["event"] == "epoch"]


def assert_same_parameters(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_it_learns():
    result = quiet_fit(epochs=30)
    random = result.metrics["random"]["left_to_right"]["hits@1"]
    for scores in ("cosine", "csls"):
        for direction in ("left_to_right", "right_to_left"):
            assert result.metrics[scores][direction]["hits@1"] > 10 * random
    assert 0 < result.best_epoch <= 30
    assert result.run is None


def test_two_runs_are_equal_bit_for_bit_and_leave_the_generators_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = quiet_fit(BOOTSTRAP)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second = quiet_fit(BOOTSTRAP)
    assert_same_parameters(first.model.state_dict(), second.model.state_dict())
    assert first.metrics == second.metrics
    assert losses(first.history) == losses(second.history)


def test_another_seed_gives_another_run():
    assert losses(quiet_fit().history) != losses(quiet_fit(seed=1).history)


@pytest.mark.parametrize(
    ("links", "size", "equal", "expected"),
    [
        (7, 10, True, [(0, 7)]),
        (7, 3, True, [(0, 2), (2, 4), (4, 7)]),
        (7, 3, False, [(0, 3), (3, 6), (6, 7)]),
        (6, 3, False, [(0, 3), (3, 6)]),
    ],
)
def test_batches(links, size, equal, expected):
    assert batches(links, size, equal) == expected


def test_one_backward_pass_has_the_gradient_of_one_a_batch():
    """The authors' loop sums over three equal batches what the default averages, so the norm is three times as long."""
    pair = synthetic_pair()
    everyone = {name: replace(f, present=torch.ones_like(f.present)) for name, f in pair.features.items()}
    pair = pair.with_features(everyone)  # their code knows no absent modality
    norms = {}
    for compat in (None, "authors"):
        config = Config.build(
            AUTHORS | {"compat": compat, "preset": "authors" if compat else "loginmea"},
            bidirectional=False,
            seed_ratio=0.375,
            valid_ratio=0.0,
        )
        trainer = new_trainer(config, pair)
        assert len(trainer.bootstrapping.links) == 15
        norms[compat] = trainer.updates.step(0).norm
    torch.testing.assert_close(norms["authors"], 3 * norms[None])


def test_authors_optimiser_is_made_anew_each_epoch_once_bootstrapping_begins():
    config = Config.build(AUTHORS)
    trainer = new_trainer(config)
    kept, rates, steps = [], [], []
    for epoch in range(6):
        before = trainer.updates.optimizer
        rate = trainer.updates.step(epoch).rate
        kept.append(trainer.updates.optimizer is before)
        rates.append(rate)
        steps.append(next(iter(trainer.updates.optimizer.state.values()))["step"].item())
    assert kept == [True] * 3 + [False] * 3
    assert rates == [0.01] * 3 + [0.002] * 3
    assert steps == [1, 2, 3, 1, 1, 1]


def test_authors_choose_the_epoch_by_test_score(monkeypatch):
    scores = iter([0.5, 0.7, 0.7, 0.2])

    def fake(*args, **kwargs):
        hits = next(scores)
        return {"csls": {"left_to_right": {"hits@1": hits, "mrr": hits}}}

    monkeypatch.setattr(measuring, "evaluate_links", fake)
    config = Config.build(AUTHORS, eval_every=3)
    trainer = new_trainer(config)
    trainer.start(False)
    trainer.train(StopOnSignal(enabled=False), progress=False)
    assert trainer.standing.best_epoch == 6, "the first of equal scores, as their strict comparison has it"


def test_validation_links_are_neither_trained_nor_tested_on():
    result = quiet_fit()
    split = result.problem.split
    everything = torch.cat([split.train, split.valid, split.test])
    assert len(split.valid) == 3
    assert (
        len({tuple(link) for link in everything.tolist()})
        == len(result.problem.pair.links)
        == len(everything)
    )


def test_without_validation_the_last_epoch_is_kept_and_none_is_called_the_best(tmp_path):
    result = quiet_fit(out=tmp_path / "run", valid_ratio=0.0, epochs=7)
    assert (result.epoch, result.best_epoch, result.history[-1]["best_epoch"]) == (7, None, None)
    measured = lf.runs.evaluate(tmp_path / "run", synthetic_pair())
    assert (measured["epoch"], measured["best_epoch"]) == (7, None)


def test_patience_stops_training_and_keeps_the_best(monkeypatch):
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.1])
    monkeypatch.setattr(
        Trainer, "_validation_metrics", lambda self: ({"hits@1": 0.0, "mrr": next(scores)}, [])
    )
    result = quiet_fit(eval_every=1, patience=2)
    assert [r["epoch"] for r in result.history if r["event"] == "validation"] == [1, 2, 3, 4]
    assert result.best_epoch == 2


def test_a_tie_is_the_later_epoch_but_no_progress(monkeypatch):
    scores = iter([0.1, 0.5, 0.5, 0.5, 0.9])
    monkeypatch.setattr(
        Trainer, "_validation_metrics", lambda self: ({"hits@1": 0.0, "mrr": next(scores)}, [])
    )
    result = quiet_fit(eval_every=1, patience=2)
    assert [r["epoch"] for r in result.history if r["event"] == "validation"] == [1, 2, 3, 4]
    assert result.best_epoch == 4


def test_threads_are_put_back():
    before = torch.get_num_threads()
    result = quiet_fit(epochs=1, threads=before + 1)
    assert result.history[0]["threads"] == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(DataError):
        quiet_fit(seed_ratio=0.01, threads=before + 1)
    assert torch.get_num_threads() == before


def test_bootstrapped_links_join_training():
    result = quiet_fit(BOOTSTRAP, epochs=20)
    joined = sum(r["joined"] for r in result.history if r["event"] == "bootstrap")
    counts = [links for _, _, links in losses(result.history)]
    assert joined > 0
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] <= counts[0] + joined


def test_modalities_are_those_asked_for():
    result = quiet_fit(modalities=["image"], epochs=1)
    assert result.model.modalities == ("image",)
    with pytest.raises(ConfigError, match="no modality 'imgae'; did you mean 'image'"):
        quiet_fit(modalities=["imgae"])


def test_structure_alone_can_be_aligned():
    pair = synthetic_pair()
    assert quiet_fit(pair=replace(pair, features={}), epochs=2).model.modalities == ()


@pytest.mark.parametrize(
    "switch",
    [
        "use_local_fusion",
        "use_adaptive_weights",
        "use_low_rank",
        "use_global_aggregation",
        "use_graph_encoder",
    ],
)
def test_ablations_train(switch):
    result = quiet_fit(epochs=3, **{switch: False})
    assert result.metrics["cosine"]["left_to_right"]["hits@1"] > 0


def test_bfloat16_trains_float32_parameters():
    result = quiet_fit(dtype="bfloat16", epochs=20)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    assert result.metrics["csls"]["left_to_right"]["hits@1"] > 0.4


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_trains_alike():
    plain, compiled = quiet_fit(epochs=3), quiet_fit(epochs=3, compile=True)
    expected = [loss for _, loss, _ in losses(plain.history)]
    assert [loss for _, loss, _ in losses(compiled.history)] == pytest.approx(expected, rel=1e-4)


def test_a_loss_that_is_not_finite_ends_training(tmp_path):
    with pytest.raises(LoginMEAError, match=r"in epoch \d+; .*lower lr"):
        quiet_fit(lr=1e38, grad_clip=0.0, out=tmp_path / "run")


@pytest.mark.parametrize(("ratio", "message"), [(0.999, None), (0.01, "no link to train on")])
def test_a_split_needs_links_on_every_side(ratio, message):
    pair = synthetic_pair()
    if message is None:
        assert len(assemble(pair, Config(seed_ratio=ratio)).split.test) == 1
    else:
        with pytest.raises(DataError, match=message):
            quiet_fit(seed_ratio=ratio)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "must be 'auto', 'cpu' or 'cuda'"),
        ("mps", "not supported: .*; use 'cpu'"),
        ("cuda:97", "not there"),
    ],
)
def test_devices_that_are_not_there(device, message):
    with pytest.raises(ConfigError, match=message):
        quiet_fit(device=device)


# Run directories.


def test_a_run_directory_holds_everything(tmp_path):
    out = tmp_path / "deep" / "run"
    result = quiet_fit(out=out)
    assert {p.name for p in out.iterdir()} == {
        ".lock",
        "config.toml",
        "split.safetensors",
        "metrics.jsonl",
        "last.safetensors",
        "best.safetensors",
    }
    assert Config.load(out / "config.toml") == Config.build(SMALL)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert records == json.loads(json.dumps(result.history))
    assert records[0]["event"] == "start"
    assert records[-1]["metrics"] == result.metrics
    epochs = [r for r in records if r["event"] == "epoch"]
    assert [r["epoch"] for r in epochs] == list(range(1, 13))
    assert all(r["peak_memory"] > 0 and r["seconds"] > 0 for r in epochs)


def test_evaluation_of_the_directory_equals_the_result(tmp_path):
    pair = synthetic_pair()
    result = quiet_fit(out=tmp_path / "run", pair=pair)
    metrics = lf.runs.evaluate(tmp_path / "run", pair)
    assert metrics["epoch"] == result.best_epoch
    assert metrics["modalities"] == ["relation", "image"]
    assert {k: v for k, v in metrics.items() if k in result.metrics} == result.metrics


def test_a_directory_that_exists_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="exists already; choose another directory"):
        quiet_fit(out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="exists already"):
        quiet_fit(out=tmp_path / "thesis.tex")
    with pytest.raises(ConfigError, match="cannot make the run directory"):
        quiet_fit(out=tmp_path / "thesis.tex" / "run")


def test_an_empty_directory_is_taken(tmp_path):
    assert quiet_fit(out=tmp_path, epochs=1).run.path == tmp_path


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(ConfigError, match="resume needs the run directory"):
        fit(synthetic_pair(), resume=True)
    with pytest.raises(ConfigError, match=r"is not a run directory: it has no config\.toml"):
        fit(synthetic_pair(), out=tmp_path, resume=True)


def test_a_resumed_run_keeps_its_rejected_pairs_and_is_read_without_them(tmp_path):
    pair = synthetic_pair()
    rejected = replace(pair, rejected=torch.stack([pair.links[:3, 0], pair.links[:3, 1].roll(1)], 1))
    result = quiet_fit(out=tmp_path / "run", pair=rejected, epochs=2)
    assert lf.runs.evaluate(tmp_path / "run", pair)["csls"] == result.metrics["csls"]
    with pytest.raises(CheckpointError, match="was trained with other rejected pairs"):
        fit(pair, out=tmp_path / "run", resume=True, epochs=3, progress=False)
    assert fit(rejected, out=tmp_path / "run", resume=True, epochs=3, progress=False).history


def test_a_resumed_run_keeps_its_configuration(tmp_path):
    quiet_fit(out=tmp_path / "run", epochs=2)
    with pytest.raises(ConfigError, match="keeps its configuration, but rank, lr would change"):
        fit(synthetic_pair(), out=tmp_path / "run", resume=True, rank=5, lr=1)
    with pytest.raises(ConfigError, match="rank would change"):
        fit(synthetic_pair(), Config.build(SMALL, epochs=2, rank=3), tmp_path / "run", resume=True)


def test_a_finished_run_resumes_to_the_same_result(tmp_path):
    first = quiet_fit(out=tmp_path / "run")
    again = fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False)
    assert again.metrics == first.metrics
    assert [r["event"] for r in again.history].count("final") == 1


def test_other_data_is_refused(tmp_path):
    quiet_fit(out=tmp_path / "run", epochs=2)
    run = tmp_path / "run"
    for pair, what in (
        (synthetic_pair(seed=1), "graph is"),
        (synthetic_pair(count=41), "projections|entity_embedding|graph"),
    ):
        with pytest.raises(CheckpointError, match=f"of another model: .*({what})"):
            lf.runs.evaluate(run, pair)
        with pytest.raises(CheckpointError, match=f"of another model: .*({what})"):
            fit(pair, out=run, resume=True)
    with pytest.raises(CheckpointError, match=r"split\.safetensors links entity \d+, the data ends at 19"):
        lf.runs.evaluate(run, synthetic_pair(count=10))
    pair = synthetic_pair()
    image = pair.features["image"]
    changed = pair.with_features(pair.features | {"image": replace(image, values=image.values + 1)})
    with pytest.raises(CheckpointError, match="of another model: feature image is"):
        lf.runs.evaluate(run, changed)


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    run = quiet_fit(out=tmp_path / "run", epochs=2).run
    with run.hold(), pytest.raises(ConfigError, match="another process is training in"):
        fit(synthetic_pair(), out=tmp_path / "run", resume=True)
    fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False)


def test_a_disk_that_fills_up_costs_nothing_but_the_epochs_since(tmp_path, monkeypatch):
    whole = quiet_fit(out=tmp_path / "whole")
    save, limits = Trainer._save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(self):
        if self.standing.epoch > 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        save(self)

    monkeypatch.setattr(Trainer, "_save", save_on_a_full_disk)
    try:
        with pytest.raises(
            CheckpointError, match=r"last\.safetensors: .*; the earlier file is intact; free 1 MiB"
        ):
            quiet_fit(out=tmp_path / "full")
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: .*; the last checkpoint is intact"):
            RunDirectory.open(tmp_path / "full").append_metrics({"event": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    resumed = fit(synthetic_pair(), out=tmp_path / "full", resume=True, progress=False)
    assert losses(resumed.run.metrics()) == losses(whole.history)
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize("part", ["last", "best"])
def test_a_damaged_checkpoint_leads_to_the_other(tmp_path, part):
    run = quiet_fit(out=tmp_path / "run", epochs=2).run
    file, other = run.path / f"{part}.safetensors", {"last": "best", "best": "last"}[part]
    file.write_bytes(file.read_bytes()[:-9])
    remedy = rf"{file.name} is cut short or damaged .*evaluate {run.path} --checkpoint {other} measures it.*--config"
    with pytest.raises(CheckpointError, match=remedy):
        fit(synthetic_pair(), out=run.path, resume=True, progress=False)
    with pytest.raises(CheckpointError, match=remedy):
        lf.runs.evaluate(run.path, synthetic_pair(), checkpoint=part)
    assert lf.runs.evaluate(run.path, synthetic_pair(), checkpoint=other)["epoch"] == 2
    (run.path / f"{other}.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"cut short or damaged \([^)]*\); train anew with train --config"
    ):
        lf.runs.evaluate(run.path, synthetic_pair())


def test_a_damaged_split_is_drawn_again(tmp_path):
    first = quiet_fit(out=tmp_path / "run", epochs=2)
    first.run.split_file.write_bytes(first.run.split_file.read_bytes()[:-9])
    with pytest.raises(
        CheckpointError, match=r"split\.safetensors is cut short or damaged .*delete it and go on"
    ):
        fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False)
    first.run.split_file.unlink()
    again = fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False)
    assert again.metrics == first.metrics


def test_a_split_in_the_place_of_a_checkpoint(tmp_path):
    run = quiet_fit(out=tmp_path / "run", epochs=2).run
    shutil.copy(run.split_file, run.best_file)
    with pytest.raises(CheckpointError, match=r"best\.safetensors holds no model; .*--checkpoint last"):
        lf.runs.evaluate(run.path, synthetic_pair())


def test_a_checkpoint_of_another_model_is_refused_before_data_is_read(tmp_path):
    run = quiet_fit(out=tmp_path / "run", epochs=2).run
    other = quiet_fit(out=tmp_path / "other", epochs=2, hidden_dim=8).run
    shutil.copy(other.last_file, run.last_file)
    with pytest.raises(
        CheckpointError, match=r"last\.safetensors is of another model: hidden_dim is 8 there and 16 in"
    ):
        run.check_resumable(run.config)
    with pytest.raises(CheckpointError, match="hidden_dim is 8 there and 16 in"):
        run.load("last")


def test_the_checkpoint_to_measure_can_be_chosen(tmp_path, monkeypatch):
    scores = iter([0.9, 0.1])
    monkeypatch.setattr(
        Trainer, "_validation_metrics", lambda self: ({"hits@1": 0.0, "mrr": next(scores)}, [])
    )
    run = quiet_fit(out=tmp_path / "run", epochs=2, eval_every=1).run
    epochs = {
        c: lf.runs.evaluate(run.path, synthetic_pair(), checkpoint=c)["epoch"] for c in ("best", "last")
    }
    assert epochs == {"best": 1, "last": 2}
    with pytest.raises(ConfigError, match="checkpoint must be 'best' or 'last'; got 'first'"):
        lf.runs.evaluate(run.path, synthetic_pair(), checkpoint="first")


def test_kernels_are_there_before_the_clock_starts(monkeypatch):
    happened = []
    progress = loop.Progress
    monkeypatch.setattr(device, "native_reason", lambda tensor, device: happened.append(f"kernels {device}"))
    monkeypatch.setattr(loop, "Progress", lambda *args: happened.append("clock") or progress(*args))
    quiet_fit(epochs=1, device="cpu")
    assert happened == ["kernels cpu", "clock"]
    quiet_fit(epochs=1, device="cpu", backend="reference")
    assert happened == ["kernels cpu", "clock", "clock"]


def test_evaluation_before_the_first_checkpoint(tmp_path):
    run = quiet_fit(out=tmp_path / "run", epochs=2).run
    run.best_file.unlink()
    assert lf.runs.evaluate(run.path, synthetic_pair())["epoch"] == 2
    with pytest.raises(CheckpointError, match="no best checkpoint; take the other with --checkpoint last"):
        lf.runs.evaluate(run.path, synthetic_pair(), checkpoint="best")
    run.last_file.unlink()
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        lf.runs.evaluate(run.path, synthetic_pair())


def test_evaluation_without_data(tmp_path):
    quiet_fit(out=tmp_path / "run", epochs=1)
    with pytest.raises(ConfigError, match="names no data set"):
        lf.runs.evaluate(tmp_path / "run")


def test_metrics_are_rewound_and_a_torn_line_is_dropped(tmp_path):
    run = RunDirectory.create(tmp_path / "run", Config())
    for epoch in (1, 2, 3):
        run.append_metrics({"event": "epoch", "epoch": epoch})
    with run.metrics_file.open("a") as file:
        file.write('{"event": "ep')
    run.rewind_metrics(2)
    assert run.metrics_file.read_text() == '{"event": "epoch", "epoch": 1}\n{"event": "epoch", "epoch": 2}\n'


# Stopping and going on.

CHILD = """
    import os, signal, sys
    from loginmea_fast.runs import fit
    from loginmea_fast.training import Config, TrainingInterrupted
    from loginmea_fast.training.updates import Updates
    from tests.training.synthetic import synthetic_pair

    at, number = {at}, {number}
    step = Updates.step

    def step_then_signal(self, epoch, *rest):
        result = step(self, epoch, *rest)
        if epoch == at:
            os.kill(os.getpid(), number)
        return result

    Updates.step = step_then_signal
    try:
        fit(synthetic_pair(), Config.build({config}), {out!r}, progress=False)
    except TrainingInterrupted as stop:
        print(stop)
        sys.exit(stop.exit_code)
"""


def run_child(out, config, at, number):
    script = textwrap.dedent(CHILD.format(at=at, number=int(number), config=config, out=str(out)))
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.parametrize("config", [BOOTSTRAP, AUTHORS], ids=["default", "authors"])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, config):
    """SIGKILL in the epoch after a checkpoint, inside a bootstrapping window; the same run then finishes elsewhere."""
    whole = quiet_fit(config, tmp_path / "whole")
    killed = run_child(tmp_path / "killed", config, at=7, number=signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = fit(synthetic_pair(), out=tmp_path / "killed", resume=True, progress=False)
    assert [r["epoch"] for r in resumed.history if r["event"] == "resume"] == [7]
    assert resumed.metrics == whole.metrics
    assert resumed.best_epoch == whole.best_epoch
    assert losses(resumed.history) == losses(whole.history)
    assert losses(resumed.run.metrics()) == losses(whole.run.metrics())
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("part", ["_validate", "_mutual_nearest"])
def test_a_stop_in_what_follows_an_epoch_costs_no_epoch(tmp_path, monkeypatch, part):
    whole = quiet_fit(BOOTSTRAP, tmp_path / "whole")
    during = getattr(Trainer, part)

    def stop_in_epoch_5(self, *args):
        if self.standing.epoch == 5:
            during(self, *args)
            raise MemoryError("as good as a kill: nothing is saved after it")
        return during(self, *args)

    monkeypatch.setattr(Trainer, part, stop_in_epoch_5)
    with pytest.raises(MemoryError):
        quiet_fit(BOOTSTRAP, tmp_path / "cut")
    monkeypatch.undo()
    resumed = fit(synthetic_pair(), out=tmp_path / "cut", resume=True, progress=False)
    assert [r["epoch"] for r in resumed.history if r["event"] == "resume"] == [5]
    events = [(r["epoch"], r["event"]) for r in whole.history if r["event"] not in ("start", "resume")]
    assert [
        (r["epoch"], r["event"]) for r in resumed.history if r["event"] not in ("start", "resume")
    ] == events
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_signal_during_validation_ends_it_at_once(tmp_path, monkeypatch):
    whole = quiet_fit(out=tmp_path / "whole")
    monkeypatch.setattr(Trainer, "_validation_metrics", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingInterrupted, match="stopped after epoch 5 of 12; all is saved"):
        quiet_fit(out=tmp_path / "stopped")
    monkeypatch.undo()
    resumed = fit(synthetic_pair(), out=tmp_path / "stopped", resume=True, progress=False)
    assert resumed.metrics == whole.metrics
    assert losses(resumed.history) == losses(whole.history)


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path, caplog):
    whole = quiet_fit(out=tmp_path / "whole")
    assert run_child(tmp_path / "killed", SMALL, at=1, number=signal.SIGKILL).returncode == -signal.SIGKILL
    with caplog.at_level("INFO", logger="loginmea_fast"):
        resumed = fit(synthetic_pair(), out=tmp_path / "killed", resume=True, progress=True)
    assert "the run has no checkpoint yet and starts over" in caplog.text
    assert [r["epoch"] for r in resumed.history if r["event"] == "resume"] == [0]
    assert losses(resumed.history) == losses(whole.history)
    assert resumed.metrics == whole.metrics


def test_a_minute_without_a_checkpoint_makes_one(tmp_path, monkeypatch):
    monkeypatch.setattr("loginmea_fast.training.loop._UNSAVED_SECONDS", -1)
    saved = []
    save = Trainer._save
    monkeypatch.setattr(Trainer, "_save", lambda self: (saved.append(self.standing.epoch), save(self)))
    quiet_fit(out=tmp_path / "run")
    assert sorted(set(saved)) == list(range(1, SMALL["epochs"] + 1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_say_how_to_go_on(tmp_path, number):
    whole = quiet_fit(BOOTSTRAP, tmp_path / "whole")
    stopped = run_child(tmp_path / "stopped", BOOTSTRAP, at=6, number=number)
    assert stopped.returncode == 128 + number, stopped.stderr
    assert (
        f"stopped after epoch 7 of 12; all is saved in {tmp_path / 'stopped'}; go on with "
        f"loginmea-fast train --resume {tmp_path / 'stopped'}" in stopped.stdout
    )
    resumed = fit(synthetic_pair(), out=tmp_path / "stopped", resume=True, progress=False)
    assert [r["epoch"] for r in resumed.history if r["event"] == "resume"] == [7]
    assert losses(resumed.history) == losses(whole.history)
    assert_same_parameters(resumed.model.state_dict(), whole.model.state_dict())


def test_signal_handlers_are_put_back(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    step = Updates.step

    def step_then_signal(self, epoch, *rest):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, epoch, *rest)

    monkeypatch.setattr(Updates, "step", step_then_signal)
    with pytest.raises(TrainingInterrupted) as caught:
        quiet_fit(out=tmp_path / "run")
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_during_the_last_measurement_ends_it_at_once(tmp_path, monkeypatch):
    whole = quiet_fit(out=tmp_path / "whole")
    monkeypatch.setattr(
        measuring, "evaluate_links", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(TrainingInterrupted, match="stopped while the test links were measured; all is saved"):
        quiet_fit(out=tmp_path / "stopped")
    monkeypatch.undo()
    assert (
        fit(synthetic_pair(), out=tmp_path / "stopped", resume=True, progress=False).metrics == whole.metrics
    )


def test_without_a_directory_an_interrupt_is_an_interrupt(monkeypatch):
    monkeypatch.setattr(Updates, "step", lambda self, *_: os.kill(os.getpid(), signal.SIGINT))
    # A process that a shell put into the background ignores SIGINT, and Python then installs no handler of its own.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            quiet_fit()
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_embedded_pair_stays_itself_beside_a_directory_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "embedded").mkdir()
    monkeypatch.chdir(tmp_path)
    result = quiet_fit(out="run", pair=synthetic_pair(), path="embedded", epochs=1)
    assert result.run.config.path == "embedded"


def test_a_directory_is_no_pair():
    with pytest.raises(ConfigError, match=r"takes an AlignmentPair, as lf\.data\.load"):
        fit("dbp15k/zh_en", epochs=1)
