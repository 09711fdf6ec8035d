"""Parses the command line, runs one command, and turns whatever goes wrong into one line on stderr.

A command is a module with `add_parser`, which must not import torch so that `--help` is quick, and `run`, which returns
the exit status. Standard output carries the answer alone; progress, notes and errors go to standard error.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn, TextIO

from loginmea_fast.cli import demo, doctor, evaluate, train
from loginmea_fast.cli.options import flag_of
from loginmea_fast.errors import ConfigError, LoginMEAError
from loginmea_fast.version import __version__

__all__ = ["COMMANDS", "main"]

COMMANDS = (demo, train, evaluate, doctor)

_DESCRIPTION = """\
Entity alignment of two multi-modal knowledge graphs (LoginMEA), exact, from fused operators.

  loginmea-fast demo                                 align two real sources in a minute or two
  loginmea-fast train DIR --out RUN                  train on your data
  loginmea-fast evaluate RUN                         measure the trained model
  loginmea-fast doctor                               what this machine has, and whether it works
"""
_EXIT_CODES = """\
exit status: 0 done; 1 a check failed or an unforeseen error; 2 wrong input; 130 or 143 stopped by a signal.
Each command has its own --help with examples."""


class UsageError(LoginMEAError):
    """The command line cannot be understood."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are LoginMEAErrors, so that they are printed like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` instead of printing the usage and exiting."""
        raise UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `loginmea-fast` with `argv` (by default the process's arguments).

    Returns:
        The exit status: 0 done; 1 a check failed, or an error that nobody foresaw; 2 wrong input; 130 or 143 stopped
        by SIGINT or SIGTERM.
    """
    show = warnings.showwarning
    warnings.showwarning = _show_warning
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except ConfigError as error:
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


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="loginmea-fast",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"loginmea-fast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        own = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.SUMMARY[0].upper() + command.SUMMARY[1:] + ".",
            epilog=command.EXAMPLES,
            formatter_class=layout,
            allow_abbrev=False,
        )
        command.add_arguments(own)
        own.set_defaults(run=command.run, parser=own)
    args, rest = parser.parse_known_args(argv)
    if rest:
        args.parser.error(_unknown(rest[0], args.parser))
    return args


def _unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}"
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(argument.partition("=")[0], known, 1)
    return f"unknown option {argument!r}" + (f", did you mean {near[0]}?" if near else "")


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
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate" in str(error):
        return (
            "out of memory; train with a smaller hidden_dim or rank, with fewer modalities, or with --dtype bfloat16",
            2,
        )
    return (
        f"{type(error).__name__}: {error} (a defect of loginmea-fast: run again with LOGINMEA_TRACEBACK=1 and report "
        "what it prints)",
        1,
    )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
