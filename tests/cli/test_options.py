from __future__ import annotations

import re

import pytest

from loginmea_fast.cli import options
from loginmea_fast.training.config import Config
from loginmea_fast.training.keys import KEYS
from tests.training.test_config import OTHER

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")


def test_the_help_of_train_lists_every_key_once(call) -> None:
    shown = call("train", "--help").out
    for key in KEYS.values():
        flag = options.flag_of(key.name)
        assert len(re.findall(rf"^  (?:DATA, --data, )?{flag}[ ,:]", shown, re.MULTILINE)) == 1, flag
        assert key.meaning in " ".join(shown.split())
        if key.kind is bool:
            assert f"{flag}, {options.flag_of('no_' + key.name)}: " in shown
    headings = [line for line in shown.splitlines() if line.startswith("Configuration, ")]
    sections = dict.fromkeys(key.section for key in KEYS.values())
    assert headings == [f"Configuration, {section}:" for section in sections]


@pytest.mark.parametrize("name", [name for name in KEYS if name not in ("path", "compat", "valid_ratio")])
def test_every_key_is_a_flag_that_reads_back(call, tmp_path, name: str) -> None:
    value = getattr(OTHER, name)
    flag = options.flag_of(name)
    if isinstance(value, bool):
        argv = [flag if value else options.flag_of(f"no_{name}")]
    elif isinstance(value, dict):
        files = [(m, f) for m, given in value.items() for f in ([given] if isinstance(given, str) else given)]
        argv = [word for modality, file in files for word in (flag, f"{modality}={file}")]
    else:
        argv = [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    written = tmp_path / "printed.toml"
    written.write_text(call("train", "somewhere", *argv, "--print-config").out)
    assert Config.load(written) == Config(path="somewhere", **{name: value})


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--set", "lrr=1"], ["'lrr'", "did you mean 'lr'?"]),
        (["--set", "bach_size=1"], ["'bach_size'", "did you mean 'batch_size'?"]),
        (["--set", "lr"], ["'lr' is not key=value"]),
        (["--set", "model.lr=1"], ["'lr' belongs to [training]"]),
        (["--epochs", "ten"], ["'epochs' must be a whole number of at least 1; got 'ten'"]),
        (["--epochs", "0"], ["'epochs' must be a whole number of at least 1; got 0"]),
        (
            ["--seed-ratio", "1.5"],
            ["'seed_ratio' must be a number above 0 and at most 1; got 1.5", "(--seed-ratio)"],
        ),
        (
            ["--set", "grad_clip=-1"],
            ["'grad_clip' must be a number of at least 0; got -1", "(--grad-clip)"],
        ),
        (["--seed-ratio", "0.01"], ["no link to train on", "--seed-ratio"]),
        (["--modalities", "relations"], ["'relations' is none of", "did you mean 'relation'?"]),
        (["--format", "dbp"], ["unknown data format 'dbp'", "did you mean 'dbp15k'?"]),
        (["--dtype", "float8"], ["'dtype' must be one of 'float32', 'bfloat16'; got 'float8'"]),
        (["--modalities", "image,image"], ["modalities names one twice"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (["--modalities", "relation,imag"], ["imag"]),
    ],
)
def test_a_wrong_key_or_value_is_one_line(
    call, data_dir, tmp_path, argv: list[str], parts: list[str]
) -> None:
    call("train", data_dir, "--out", tmp_path / "run", "--quiet", *argv).check_error(*parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[training]\nlrr = 1", ["'lrr'", "did you mean 'lr'?"]),
        ("[trainig]\nlr = 1", ["[trainig]", "did you mean [training]?"]),
        ("lr = 'fast'", ["'lr' must be a number above 0; got 'fast'"]),
        ("lr = = 1", ["not valid TOML", "line 1"]),
    ],
)
def test_a_wrong_file_is_named(call, data_dir, tmp_path, text: str, parts: list[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    call("train", data_dir, "--config", file, "--out", tmp_path / "run", "--quiet").check_error(*parts)


def test_a_missing_file_is_named(call, data_dir, tmp_path) -> None:
    call("train", data_dir, "--config", tmp_path / "no.toml").check_error(
        "no.toml", "no such configuration file"
    )


def test_the_last_of_flags_and_set_wins_over_the_file(call, tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\nepochs = 1\nlr = 0.25\n[model]\nrank = 3")
    argv = [
        "--config",
        file,
        "--set",
        "epochs=2",
        "--epochs",
        "3",
        "--set",
        "training.epochs=4",
        "--bootstrap",
    ]
    printed = call("train", "somewhere", *argv, "--print-config")
    written = tmp_path / "printed.toml"
    written.write_text(printed.out)
    assert Config.load(written) == Config(path="somewhere", epochs=4, lr=0.25, rank=3, bootstrap=True)


def test_the_authors_procedure_comes_with_their_values(call, tmp_path) -> None:
    written = tmp_path / "printed.toml"
    written.write_text(call("train", "x", "--compat", "authors", "--epochs", "7", "--print-config").out)
    config = Config.load(written)
    assert (config.compat, config.epochs, config.lr, config.bidirectional) == ("authors", 7, 5e-4, False)
