"""What is told of kernels while a command runs: that they are compiled, how far, and where they cannot be kept.

It listens to the log of `twofold.kernels`, which is there before that is loaded.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LINE = "compiling kernels, which takes a while at their first use"
_SECONDS = 10  # between lines, where there is no terminal


class CompilingLine(logging.Handler):
    """One line that counts on a terminal; elsewhere a line at once, and one now and then."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self._functions = 0
        self._told_at = 0.0
        self._counts = sys.stderr.isatty()

    def emit(self, record: logging.LogRecord) -> None:
        """Tell what a record says, once and short."""
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            _tell(f"twofold: {message}\n")
        elif self._counts:
            self._functions += bool(message)
            _tell(f"\r{_LINE}: {self._functions} ({message})\x1b[K" if message else "\r\x1b[K")
        elif message:
            self._functions += 1
            if not self._told_at or time.monotonic() - self._told_at > _SECONDS:
                _tell(f"{_LINE}: {self._functions} so far\n" if self._told_at else f"{_LINE}\n")
                self._told_at = time.monotonic()


@contextmanager
def told_of_kernels(*, quiet: bool) -> Iterator[None]:
    """Tell what the kernels have to say while a command runs; nothing but what is wrong where it is to be quiet."""
    log = logging.getLogger("twofold.kernels")
    handler, level = CompilingLine(quiet=quiet), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
