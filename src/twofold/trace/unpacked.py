"""Trace files of our own that cannot be mapped where they are, packed or out of a pipe: copied first.

A copy is a file without a name in the folder of temporary files: it is gone with the process, whatever ends that.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from twofold.errors import FormatError
from twofold.trace.layout import HEADER_BYTES, Header, LayoutError
from twofold.trace.packed import ByteSource
from twofold.trace.stored import StoredParts

_STEP_BYTES: Final = 1 << 20


def stored_parts(source: ByteSource) -> StoredParts:
    """Return the parts of a trace file of our own, whatever it comes out of.

    Raises
    ------
    FormatError : no such trace, or no room for a copy of it
    """
    if not source.packing and source.path.is_file():
        return StoredParts(source.path)
    try:  # before anything is copied: what is no trace may have no end
        Header.decode(source.peek(HEADER_BYTES))
    except LayoutError as error:
        raise FormatError(source.path, str(error), 0) from None
    with tempfile.TemporaryFile(prefix="twofold-") as file:
        problem = _copy(source, file)
        with temporary_writes():
            file.flush()
        parts = StoredParts(source.path, file.fileno())
    parts.problem = problem or parts.problem
    return parts


def _copy(source: ByteSource, file: IO[bytes]) -> FormatError | None:
    """Copy what can be read; return why that ended early, None when it did not."""
    part = b"-"
    while part:
        try:
            part = source.read(_STEP_BYTES)
        except FormatError as error:
            return error
        with temporary_writes():
            file.write(part)
    return None


@contextmanager
def temporary_writes() -> Iterator[None]:
    """Say in one line that the folder of temporary files has no room."""
    try:
        yield
    except OSError as error:
        problem = f"cannot hold the trace's accesses: {error.strerror or error}; TMPDIR names another folder"
        raise FormatError(tempfile.gettempdir(), problem) from None
