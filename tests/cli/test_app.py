from __future__ import annotations

import importlib
import re
import shlex
import signal
import subprocess
import sys
import warnings

import pytest

from loginmea_fast.cli import app, train
from loginmea_fast.errors import DataError
from loginmea_fast.training import TrainingInterrupted


def raising(error: BaseException):
    def run(path: str | None = None):
        raise error

    return run


def test_without_a_command_it_says_how_to_get_help(call) -> None:
    call().check_error("COMMAND", "--help")


def test_an_unknown_command_lists_the_known_ones(call) -> None:
    call("trian").check_error("trian", "demo", "train", "evaluate", "doctor")


def test_an_unknown_option_is_answered_with_the_near_one(call) -> None:
    call("train", "x", "--epohcs", "3").check_error("--epohcs", "Did you mean --epochs?", "train --help")


def test_options_are_not_abbreviated(call) -> None:
    call("train", "x", "--epoch", "3").check_error("--epoch.", "Did you mean --epochs?")


def test_a_superfluous_argument_is_named(call) -> None:
    call("evaluate", "one", "two", "three").check_error("'three'")


def test_an_option_without_its_value_is_named(call) -> None:
    call("train", "x", "--epochs").check_error("--epochs", "requires an argument")


@pytest.mark.parametrize(
    "command", [("evaluate", "run"), ("align", "left", "right", "--out", "x"), ("demo",)]
)
def test_what_is_the_work_of_one_process_is_not_done_by_several(
    call, monkeypatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = call(*command)
    assert done.status == 2
    assert f"{command[0]} is the work of one process, and torchrun has started 2" in done.err


@pytest.mark.parametrize("name", ["", *app.COMMANDS])
def test_help_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([*name.split(), "--help"]) == 0
    assert f"loginmea-fast {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", app.COMMANDS)
def test_examples_of_the_help_are_understood(name: str) -> None:
    command = importlib.import_module(f"loginmea_fast.cli.{name}")
    lines = [line.strip() for line in command.EXAMPLES.splitlines() if line.startswith("  loginmea-fast")]
    assert lines
    for line in lines:
        spelled = re.split(r"\s{2,}|[|>]", line)[0]
        assert app.parse(shlex.split(spelled)[1:])[0] is command.run


def test_help_is_quick_because_torch_is_not_imported() -> None:
    code = (
        "import sys\nfrom loginmea_fast.cli import main\n"
        "assert main(['train', '--help']) == 0\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys\nfrom loginmea_fast.cli import main\nassert main(['--help']) == 0\n"
        "loaded = {'pydantic', 'tomlkit', *map('loginmea_fast.cli.{}'.format, ('train', 'doctor'))} & {*sys.modules}\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loginmea_fast", "evaluate", "/no/such/run"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("loginmea-fast: error: /no/such/run is not a run directory")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (DataError("triples_1,\n line 3: bad"), 2, "triples_1, line 3: bad"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "runs/x"), 2, "runs/x: No space left on device"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 2, "out of memory"),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero (a defect"),
    ],
)
def test_every_error_is_one_line(call, monkeypatch, error: BaseException, status: int, text: str) -> None:
    monkeypatch.setattr(train, "run", raising(error))
    call("train", "x").check_error(text, status=status)


def test_stopped_by_a_signal_is_no_error(call, monkeypatch) -> None:
    monkeypatch.setattr(train, "run", raising(TrainingInterrupted("saved; go on", signal.SIGTERM)))
    done = call("train", "x")
    assert (done.status, done.err) == (143, "loginmea-fast: saved; go on\n")


def test_a_developer_gets_the_stack_trace(call, monkeypatch) -> None:
    monkeypatch.setattr(train, "run", raising(ZeroDivisionError()))
    monkeypatch.setenv("LOGINMEA_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        call("train", "x")


def test_a_warning_is_one_line_without_the_path_of_the_code(call, monkeypatch) -> None:
    def run(path: str | None = None) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = app._show_warning
            warnings.warn("no compiler;\n the formula answers", RuntimeWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(train, "run", run)
    assert call("train", "x").err == "loginmea-fast: warning: no compiler; the formula answers\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys\nfrom loginmea_fast.cli import main, train\n"
        "train.run = lambda path: print('x' * 10**6) or 0\nsys.exit(main(['train', 'x']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
