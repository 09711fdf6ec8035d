from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from loginmea_fast import data
from loginmea_fast.cli import main
from tests.training.synthetic import synthetic_pair

TINY = ("--preset", "loginmea", "--hidden-dim", "8", "--rank", "2", "--backend", "reference")


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def check_error(self, *parts: str, status: int = 2) -> None:
        """One line that names the program and holds all `parts`, nothing on standard output, no stack trace."""
        assert self.status == status
        assert self.out == ""
        lines = [
            line
            for line in self.err.strip().splitlines()
            if not line.startswith(("compiling loginmea_", "compiled loginmea_"))
        ]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("loginmea-fast: error: ")
        for part in parts:
            assert part in lines[0]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process."""

    def run(*argv: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 80 entities with relations and images, in the shared layout."""
    directory = tmp_path_factory.mktemp("data") / "tiny"
    data.save(synthetic_pair(), directory)
    return directory


@pytest.fixture(scope="session")
def trained_run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ten epochs; tests leave it as it is."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(data_dir), "--epochs", "10", "--out", str(run), "--quiet", *TINY]) == 0
    return run
