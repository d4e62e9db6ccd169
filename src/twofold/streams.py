"""The standard streams of the command: there whatever the caller has closed, with errors that name them."""

import io
import os
import sys
from typing import Any, Final, TextIO

STANDARD_OUTPUT: Final = "standard output"


def open_streams() -> None:
    """Give a process without standard streams some that refuse: else the next file opened would be written to.

    What reads or writes there fails as it should; talk on standard error goes nowhere.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # noqa: FBT003  the lowest that is free: this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  they stay as long as the process
    sys.stdout = _named(sys.stdout)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


class NamedOutput(io.FileIO):
    """Standard output, whose errors say that it is what failed; a reader that has gone is none."""

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Write what can be written."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None


def _named(stream: TextIO | None) -> TextIO:
    """Return standard output as it is, with errors that name it."""
    encoding, errors = (stream.encoding, stream.errors) if stream else ("utf-8", "strict")
    binary = io.BufferedWriter(NamedOutput(1, "w", closefd=False))
    return io.TextIOWrapper(binary, encoding, errors, line_buffering=os.isatty(1))
