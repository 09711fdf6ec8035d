"""Errors that users see: one sentence that says what was expected, what came, and what to do."""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BuildError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InputError",
    "LoginMEAError",
    "LostOthersError",
    "OutOfMemoryError",
]


class LoginMEAError(Exception):
    """Base of every error this package raises on purpose; the command line prints it as one line."""


class InputError(LoginMEAError, ValueError):
    """An argument has the wrong shape, dtype, device or value."""


class DataError(InputError):
    """A file of a data set is missing or malformed; the message names the file, the line and the remedy."""


class ConfigError(InputError):
    """A configuration key or value is wrong; the message names the key and, where there is one, the near one.

    Attributes:
        key: the configuration key whose value is wrong, where it is one.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class CheckpointError(LoginMEAError, RuntimeError):
    """A checkpoint is cut short, belongs to another model, or was written by a newer version."""


class BackendError(LoginMEAError, RuntimeError):
    """A backend that was asked for by name cannot serve this call."""


class BuildError(BackendError):
    """A native library could not be compiled; the message holds the compiler's first error and a hint."""


class OutOfMemoryError(BackendError):
    """A device has no room for the results or the workspace of a call."""


class LostOthersError(LoginMEAError):
    """Another process of a run that several share is gone, or keeps this one waiting for too long."""
