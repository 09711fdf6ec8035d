"""Everything that a user can get wrong: one line that names the place and the remedy, status 2, nothing touched.

Run directories that exist and checkpoints cut short, newer or of another model are tried in test_train_evaluate.py.
"""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

Damage = Callable[[Path], object]


def lines(file: str, *change: tuple[int, str | None]) -> Damage:
    """Replace lines, by number from 1; None deletes one, a number behind the end appends."""

    def damage(data: Path) -> None:
        text = (data / file).read_text().splitlines()
        for number, new in change:
            text[number - 1 : number] = [] if new is None else [new]
        (data / file).write_text("".join(f"{line}\n" for line in text))

    return damage


def content(file: str, text: str | bytes) -> Damage:
    return lambda data: (data / file).write_bytes(text.encode() if isinstance(text, str) else text)


def vectors(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return lambda data: np.save(data / "voice.npy", change(np.ones((80, 3))))


def spoilt(value: float) -> Damage:
    def change(array: np.ndarray) -> np.ndarray:
        array[7, 1] = value
        return array

    return vectors(change)


class Runs:
    """What an ordinary unpickler would execute."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


VOICE = ("--modalities", "relation,voice", "--vectors", "voice=DATA/voice.npy")
EVIL = ("--modalities", "relation,voice", "--vectors", "voice=DATA/voice.pkl")
CASES: dict[str, tuple[Damage, tuple[str, ...], list[str]]] = {
    "missing file": (
        lambda data: (data / "triples_2").unlink(),
        (),
        ["triples_2 is missing", "put the files there", "dbp15k: ent_ids_1"],
    ),
    "missing file of a named layout": (
        lambda data: (data / "triples_2").unlink(),
        ("--format", "dbp15k"),
        ["triples_2 is missing", "the layout dbp15k needs", "put it there"],
    ),
    "empty file": (content("ent_ids_1", ""), (), ["ent_ids_1 is empty", "lines of id, uri", "again"]),
    "columns": (lines("triples_1", (3, "1\t2")), (), ["triples_1, line 3", "3 columns", "found 2", "delete"]),
    "no integer": (
        lines("triples_1", (2, "1\tx\t2")),
        (),
        ["triples_1, line 2", "'x' is no integer", "correct"],
    ),
    "negative id": (lines("triples_2", (1, "-1\t0\t2")), (), ["triples_2, line 1", "negative id", "correct"]),
    "negative id in a list": (
        lines("ent_ids_1", (1, "-1\ta")),
        (),
        ["ent_ids_1, line 1", "negative", "from 0"],
    ),
    "id beyond": (
        lines("triples_1", (1, "80\t0\t1")),
        (),
        ["triples_1, line 1", "entity 80 is beyond", "add it"],
    ),
    "duplicate id": (
        lines("ent_ids_1", (2, "0\tagain")),
        (),
        ["ent_ids_1, line 2", "0 stands already on line 1", "an id of its own"],
    ),
    "link to unknown": (
        lines("ill_ent_ids", (4, "3\t99")),
        (),
        ["ill_ent_ids, line 4", "entity 99", "add it"],
    ),
    "no triples": (content("triples_2", "\n"), (), ["triples_2 is empty", "head, relation, tail"]),
    "no links": (content("ill_ent_ids", ""), (), ["ill_ent_ids is empty", "left entity, right entity"]),
    "NaN": (spoilt(float("nan")), VOICE, ["voice.npy", "entity 7", "NaN or infinity", "repair"]),
    "infinity": (spoilt(float("-inf")), VOICE, ["voice.npy", "entity 7", "NaN or infinity", "repair"]),
    "rows": (vectors(lambda a: a[1:]), VOICE, ["voice.npy", "[79, 3] for 80 entities", "one row an entity"]),
    "no vectors": (lambda data: None, VOICE, ["voice.npy is missing", "leave its modality out"]),
    "ratio": (
        lambda data: None,
        ("--seed-ratio", "0"),
        ["'seed_ratio'", "above 0 and at most 1", "(--seed-ratio)"],
    ),
    "nothing to train on": (
        lambda data: None,
        ("--seed-ratio", "0.001"),
        ["no link to train on", "--seed-ratio"],
    ),
    "no test pairs": (
        lambda data: [
            shutil.copy(data / "ill_ent_ids", data / "sup_ent_ids"),
            (data / "ref_ent_ids").write_text(""),
        ],
        (),
        ["ref_ent_ids is empty", "left entity, right entity"],
    ),
    "pickle": (
        content("voice.pkl", pickle.dumps({0: Runs()})),
        EVIL,
        ["voice.pkl names 'posix.mkdir'", "builtin containers are read from a pickle", ".npz"],
    ),
}


def everything(root: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


@pytest.mark.parametrize("case", CASES)
def test_bad_data(call, data_dir: Path, tmp_path: Path, monkeypatch, case: str) -> None:
    damage, argv, parts = CASES[case]
    data = tmp_path / "data"
    shutil.copytree(data_dir, data)
    damage(data)
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path)
    options = [argument.replace("DATA", str(data)) for argument in argv]
    call("train", data, "--out", tmp_path / "run", "--quiet", *TINY, *options).check_error(*parts)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("--objectives", "contrasive"), ["'contrasive'", "(--objectives)"]),
        (("--objectives", "contrasive", "--print-config"), ["'contrasive'", "(--objectives)"]),
        (("--set", "decoder=sinkhron"), ["'sinkhron'", "(--decoder)"]),
        (("--modalities", "relation,imge"), ["no file features_imge"]),
        (("--modalities", "relation", "--vectors", "voice=DATA/ent_ids_1"), ["vectors are given for voice"]),
        (("--modalities", "relation,voice", "--vectors", "voice=DATA/none.npy"), ["none.npy is missing"]),
        (("--init-from", "DATA"), ["neither a run directory", "(--init-from)"]),
        (("--device", "cpu", "--backend", "cuda"), ["serves the device 'cuda'", "(--backend)"]),
        (("--format", "dbp51k"), ["unknown data format 'dbp51k'"]),
    ],
)
def test_what_needs_no_data_is_refused_before_data_is_read(
    call, data_dir: Path, tmp_path: Path, argv: tuple[str, ...], parts: list[str]
) -> None:
    """The data is damaged, which nobody would notice before reading it."""
    data = shutil.copytree(data_dir, tmp_path / "data")
    content("triples_1", "neither\n")(data)
    options = [argument.replace("DATA", str(data)) for argument in argv]
    call("train", data, "--out", tmp_path / "run", *options).check_error(*parts)


@pytest.mark.parametrize("variable", [{"CXX": "/nowhere/c++"}, {"LOGINMEA_BACKEND": "cqu"}])
def test_a_backend_that_cannot_be_had_is_refused_before_data_is_read(
    data_dir: Path, tmp_path: Path, variable: dict[str, str]
) -> None:
    data = shutil.copytree(data_dir, tmp_path / "data")
    content("triples_1", "neither\n")(data)
    named = ["--backend", "cpu"] if "CXX" in variable else []
    done = subprocess.run(
        [sys.executable, "-m", "loginmea_fast", "train", str(data), *named],
        env={**os.environ, "LOGINMEA_NATIVE_DIR": "", **variable},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert ("backend 'cpu' cannot be had" if named else "got 'cqu'") in line


@pytest.mark.hostile("surroundings")
def test_a_full_disk(trained_run: Path, tmp_path: Path) -> None:
    """A limit on the size of files is what a test can have of a full disk; the checkpoint before it stays."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("epochs = 10 ", "epochs = 20 "))
    last = (run / "last.safetensors").read_bytes()
    room = 10_000
    assert len(last) > room
    done = subprocess.run(
        [sys.executable, "-m", "loginmea_fast", "train", "--resume", str(run), "--quiet"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("loginmea-fast: error: cannot write ")
    assert "free 1 MiB there and go on with --resume" in line
    assert (run / "last.safetensors").read_bytes() == last
    assert [path.name for path in run.glob(".*")] in ([], [".lock"])
