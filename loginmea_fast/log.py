"""The package's logger, and what is heard of it where nobody has configured logging."""

from __future__ import annotations

import logging
import sys

__all__ = ["announce", "log"]


class _Unconfigured(logging.NullHandler):
    """Nothing where a program has configured logging; else what Python does without any handler: shows warnings."""

    def handle(self, record: logging.LogRecord) -> bool:
        if (
            logging.lastResort is not None
            and record.levelno >= logging.lastResort.level
            and not _configured()
        ):
            logging.lastResort.handle(record)
        return True


log = logging.getLogger("loginmea_fast")
log.addHandler(_Unconfigured())


def announce(text: str) -> None:
    """Logs at INFO why a person waits; where nobody has configured logging, says it on stderr.

    A process that compiles for a minute in silence is taken for one that hangs, and few scripts configure logging.
    """
    if _configured():
        log.info(text)
    else:
        print(f"loginmea_fast: {text}", file=sys.stderr, flush=True)


def _configured() -> bool:
    """Whether the logger, or one that it passes records to, has a handler that somebody put there."""
    logger: logging.Logger | None = log
    while logger is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False
