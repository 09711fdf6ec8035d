"""What a person sees while a model trains: a bar with rate and remaining time, or a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm

from loginmea_fast.log import announce

__all__ = ["Progress"]

_LINE_SECONDS = 10.0


class Progress:
    """Counts epochs: a tqdm bar on a terminal, else the log gets a line in ten seconds and one for each event."""

    def __init__(
        self, total: int, done: int, enabled: bool | None = None, stream: TextIO | None = None
    ) -> None:
        """Start at `done` of `total` epochs.

        Args:
            total: epochs in all.
            done: epochs finished before, by the run that is resumed.
            enabled: False: silent; None or True: shown.
            stream: where a bar is drawn if it is a terminal; stderr unless given.
        """
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled is not False
        self._total, self._first, self._done = total, done, done
        self._start = time.monotonic()
        self._last_line = -_LINE_SECONDS
        self._bar: tqdm | None = None
        if self._enabled and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=done,
                unit="epoch",
                desc="training",
                file=self._stream,
                dynamic_ncols=True,
            )

    def epoch(self, loss: float, done: int) -> None:
        """Stand at `done` epochs, those that a round left out included."""
        more, self._done = done - self._done, done
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update(more)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS or self._done == self._total:
            self.say(f"loss {loss:.4f}")

    def say(self, text: str) -> None:
        """Show one line without disturbing the bar."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
            return
        self._last_line = time.monotonic()
        seconds = self._last_line - self._start
        rate = (self._done - self._first) / seconds if seconds else 0.0
        pace = ""
        if rate:
            left = (self._total - self._done) / rate
            each = f"{rate:.1f} epochs/s" if rate >= 1 else f"{1 / rate:.1f} s/epoch"
            pace = f" [{seconds:.0f} s, {left:.0f} s left, {each}]"
        announce(f"epoch {self._done}/{self._total}: {text}{pace}")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
