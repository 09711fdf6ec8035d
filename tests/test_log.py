"""Who hears the package, with and without a configured log."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

SPEAK = """
import logging
{}
from loginmea_fast.log import announce, log
announce("compiling")
log.warning("careful")
log.info("by the way")
"""


@pytest.mark.parametrize(
    ("configure", "heard"),
    [
        ("", ["loginmea_fast: compiling", "careful"]),
        ("logging.basicConfig()", ["WARNING:loginmea_fast:careful"]),
        (
            "logging.basicConfig(level='INFO')",
            [
                "INFO:loginmea_fast:compiling",
                "WARNING:loginmea_fast:careful",
                "INFO:loginmea_fast:by the way",
            ],
        ),
        ("logging.getLogger('loginmea_fast').addHandler(logging.FileHandler('/dev/null'))", []),
    ],
)
def test_what_stands_on_stderr(configure: str, heard: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", SPEAK.format(configure)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (0, "", heard)


def test_the_library_logs_and_does_not_print() -> None:
    import loginmea_fast.log

    package = logging.getLogger("loginmea_fast")
    assert loginmea_fast.log.log is package
    assert any(isinstance(handler, logging.NullHandler) for handler in package.handlers)
