"""The command line, one file a command: `loginmea-fast demo | train | align | evaluate | doctor`."""

from loginmea_fast.cli.app import main

__all__ = ["main"]
