"""Parses the command line, runs one command, and turns whatever goes wrong into one line on stderr.

A command is a module with `run`, whose parameters are what it takes and whose result is the exit status, and with
`EXAMPLES`. So that `--help` is quick, only the module of the command that is asked for is imported, and importing it
must not import torch. Standard output carries the answer alone; progress, notes and errors go to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import BoundArguments
from typing import Any, TextIO

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnusedCliTokensError
from rich.console import Console

from loginmea_fast.errors import ConfigError, LoginMEAError
from loginmea_fast.version import __version__

__all__ = ["COMMANDS", "main", "parse"]

_OUT_OF_MEMORY = (  # as torch, the system and its loader of libraries say it
    "out of memory",
    "can't allocate",
    "cannot allocate memory",
    "failed to map segment",
)
_WIDTH = 120  # of what is not a terminal
COMMANDS = {
    "demo": "Align two real sources that ship inside the package, and show what comes out.",
    "train": "Train on a data set and measure the test links.",
    "align": "Match the entities of two graphs, with a confidence, and write the matches.",
    "report": "Write a page of an alignment or a run, to look at and decide on.",
    "evaluate": "Measure a trained run on its test links, or matches in a file by links that are known.",
    "convert": "Write two graphs and their links in another format.",
    "generate": "Make a synthetic data set of any size, to see how time and memory grow.",
    "doctor": "What this machine has, which backend serves each operator, and whether all of it works.",
}

_DESCRIPTION = """\
Entity alignment of two multi-modal knowledge graphs (LoginMEA), exact, from fused operators.

  loginmea-fast demo                                 align two real sources in a minute or two
  loginmea-fast train DIR --out RUN                  train on your data
  loginmea-fast align DIR --out DIR                  match your entities, and say how sure each match is
  loginmea-fast report DIR                           a page to look at the matches and decide on them
  loginmea-fast evaluate RUN                         measure the trained model
  loginmea-fast convert LEFT RIGHT --to csv --out DIR  read and write graphs in other formats
  loginmea-fast generate DIR --entities 100000       make a synthetic data set of any size
  loginmea-fast doctor                               what this machine has, and whether it works
"""
_EXIT_CODES = """\
exit status: 0 done; 1 a check failed or an unforeseen error; 2 wrong input; 130 or 143 stopped by a signal.
Each command has its own --help with examples."""


class _Told(logging.Formatter):
    """What the package logs, as lines of the command line."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"loginmea-fast: warning: {_one_line(text)}"


class UsageError(LoginMEAError):
    """The command line cannot be understood."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `loginmea-fast` with `argv` (by default the process's arguments).

    Returns:
        The exit status: 0 done; 1 a check failed, or an error that nobody foresaw; 2 wrong input; 130 or 143 stopped
        by SIGINT or SIGTERM.
    """
    show = warnings.showwarning
    warnings.showwarning = _show_warning
    package, handler = logging.getLogger("loginmea_fast"), logging.StreamHandler(sys.stderr)
    level = package.level
    handler.setFormatter(_Told())
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        words = sys.argv[1:] if argv is None else argv
        command, bound = parse(words)
        _check_alone(words[0])
        status: int | None = command(*bound.args, **bound.kwargs)
        sys.stdout.flush()
        return status or 0  # help and version return nothing
    except ConfigError as error:
        from loginmea_fast.cli.options import flag_of

        return _fail(f"{error} ({flag_of(error.key)})" if error.key else error, 2)
    except LoginMEAError as error:
        stopped = getattr(error, "exit_code", None)  # by a signal, all saved: no error
        return _fail(error, 2) if stopped is None else _fail(error, stopped, "")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever read the output has gone; keep Python from flushing into the closed pipe as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("LOGINMEA_TRACEBACK"):
            raise
        return _fail(*_unforeseen(error))
    finally:
        warnings.showwarning = show
        package.removeHandler(handler)
        package.setLevel(level)


def _check_alone(command: str) -> None:
    """Raise `UsageError` where torchrun has started several processes of a command that is the work of one."""
    count = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and count != "1" and command in COMMANDS and command != "train":
        raise UsageError(
            f"{command} is the work of one process, and torchrun has started {count}; call it without torchrun, it "
            "reads what several processes trained"
        )


def parse(argv: Sequence[str]) -> tuple[Callable[..., Any], BoundArguments]:
    """The function that `argv` asks for, and its arguments.

    Raises:
        ConfigError: an unknown key behind `--set`.
        UsageError: what was not understood, and the near option or command.
    """
    if not argv:
        raise UsageError(f"name a COMMAND: {', '.join(COMMANDS)}; see loginmea-fast --help")
    app = App(
        name="loginmea-fast",
        help=_DESCRIPTION,
        help_format="plaintext",
        help_epilogue=_EXIT_CODES,
        help_formatter="default" if sys.stdout.isatty() else "plain",
        console=Console(width=None if sys.stdout.isatty() else _WIDTH),
        version=f"loginmea-fast {__version__}",
    )
    for name, summary in COMMANDS.items():
        module = f"{__package__}.{name}"
        examples = import_module(module).EXAMPLES if name in argv else ""
        app.command(f"{module}:run", name=name, help=summary, help_epilogue=examples)
    if any(word.startswith("--set") for word in argv):
        from loginmea_fast.cli.options import rewrite_set

        argv = rewrite_set(argv)
    try:
        command, bound, _ = app.parse_args(argv, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        prog = f"loginmea-fast {argv[0]}" if argv[0] in COMMANDS else "loginmea-fast"
        raise UsageError(f"{_told(error)}; see {prog} --help") from None
    return command, bound


def _told(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}"
    text = str(error).rstrip(".")
    return text[0].lower() + text[1:]


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning without the path of the code that gave it."""
    text = _one_line(message).removeprefix("loginmea_fast: ")
    print(f"loginmea-fast: warning: {text}", file=sys.stderr)


def _fail(error: object, status: int, what: str = "error: ") -> int:
    print(f"loginmea-fast: {what}{_one_line(error)}", file=sys.stderr)
    return status


def _unforeseen(error: Exception) -> tuple[str, int]:
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}", 2
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY):
        return (
            "out of memory; train with a smaller hidden_dim or rank, with fewer modalities, or with --dtype bfloat16; "
            "or raise the limit of the process (ulimit -v)",
            2,
        )
    return (
        f"{type(error).__name__}: {error} (a defect of loginmea-fast: run again with LOGINMEA_TRACEBACK=1 and report "
        "what it prints)",
        1,
    )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
