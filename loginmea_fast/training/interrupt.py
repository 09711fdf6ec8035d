"""SIGINT and SIGTERM end training between two steps, with everything saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from loginmea_fast.errors import LoginMEAError

__all__ = ["StopOnSignal", "TrainingInterrupted"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(LoginMEAError):
    """Training was stopped by a signal after saving; the message says how to go on.

    Attributes:
        exit_code: what a shell expects of a process that the signal ended: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGTERM) -> None:
        # The message is all that another process makes it anew from, before it sets `exit_code`.
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopOnSignal:
    """Context in which the first SIGINT or SIGTERM is noted in `received`; the second acts as it did before.

    Outside the main thread Python allows no handlers: then, as when not `enabled`, the context changes nothing.

    Attributes:
        received: the signal that came, or None.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self.received: int | None = None
        self._at_once: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopOnSignal:
        if self._enabled and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def interrupt_with(self, message: str | None) -> None:
        """From here on a signal is not noted but raises `TrainingInterrupted`; None notes signals again.

        For work that may be dropped at any moment because all is saved.

        Args:
            message: of the exception.

        Raises:
            TrainingInterrupted: a signal has been noted already.
        """
        self._at_once = message
        if message is not None and self.received is not None:
            raise TrainingInterrupted(message, self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        # Noted even where it raises: what is raised inside a finalizer is printed and lost.
        self.received = number
        if self._at_once is not None:
            raise TrainingInterrupted(self._at_once, number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
