"""Reading a text trace as a stream: chunks of bytes in, blocks of accesses out, in bounded memory."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from twofold.errors import FormatError
from twofold.formats import trace_program as at
from twofold.formats.arrays import Words
from twofold.kernels import traces as kernels
from twofold.trace.accesses import TraceBlock
from twofold.trace.packed import ByteSource
from twofold.trace.templates import compile_lines
from twofold.trace.text_formats import TextFormat

CHUNK_BYTES: Final = 4 << 20
MAX_LINE_BYTES: Final = 64 << 10
ROOM: Final = 1 << 17  # accesses of a block: more than any line can have
MAX_THREADS: Final = 1 << 16
_EXCERPT_BYTES: Final = 60
_NAMED_THREADS: Final = 8


class TextReader:
    """The accesses of a text file, by the templates of its format.

    Parameters
    ----------
    source : the file
    form : its format
    chunk : bytes that are looked at a time
    """

    def __init__(self, source: ByteSource, form: TextFormat, chunk: int = CHUNK_BYTES) -> None:
        self.name = form.name
        self._source = source
        self._form = form
        self._compiled = compile_lines(form.lines, form.words)
        self._text = np.empty(max(chunk, MAX_LINE_BYTES), np.uint8)
        self._length = 0  # bytes of _text that hold something
        self._base = 0  # offset of _text[0] in the file
        self._state = np.zeros(at.SEEN + len(form.lines), np.int64)
        self._registers = np.zeros(at.REGISTERS, np.uint64)
        self._out = np.empty((at.COLUMNS, ROOM), np.uint64)
        self._threads: dict[int, int] = {}

    def notes(self) -> tuple[str, ...]:
        """Return what has to be said of what was read so far."""
        seen = (line.note for line, seen in zip(self._form.lines, self._state[at.SEEN :], strict=True) if seen)
        named = [f"{index} is thread {thread}" for thread, index in self._threads.items()][:_NAMED_THREADS]
        more = ", ..." if len(self._threads) > _NAMED_THREADS else ""
        threads = (f"vCPU {', '.join(named)}{more}.",) if named else ()
        return tuple(dict.fromkeys((*self._form.notes, *threads, *filter(None, seen))))

    def blocks(self) -> Iterator[TraceBlock]:
        """Yield the accesses in order.

        Raises
        ------
        FormatError : a line that is none of the format's, or broken data; what stands before was yielded
        """
        problem: FormatError | None = None
        while problem is None and not self._state[at.IS_LAST]:
            problem = self._fill()
            status = at.FULL
            while status == at.FULL:
                status = self._scan()
                if self._state[at.ACCESSES]:
                    yield self._block()
                elif status == at.FULL:
                    raise self._error("has more accesses than a line can have")
            if status == at.NO_MATCH:
                raise self._error(f"is no {self._form.title}: {self._excerpt()}")
            if self._left() >= MAX_LINE_BYTES and not self._state[at.IS_LAST]:
                raise self._error(f"is longer than {MAX_LINE_BYTES} bytes")
        if problem is not None:
            raise problem
        if self._left():
            raise self._error(f"is cut off by the end of the file: {self._excerpt()}")

    def _fill(self) -> FormatError | None:
        """Move the incomplete line to the front and read on behind it; return why that ended early."""
        start, left = int(self._state[at.POSITION]), self._left()
        self._text[:left] = self._text[start : self._length].copy()
        self._base, self._length = self._base + start, left
        self._state[at.POSITION] = 0
        try:
            part = self._source.read(len(self._text) - left)
        except FormatError as error:
            return error
        self._text[left : left + len(part)] = np.frombuffer(part, np.uint8)
        self._length += len(part)
        if not part:
            self._state[at.IS_LAST] = 1
        return None

    def _scan(self) -> int:
        """Run the kernel on what is there; a last line without an end is a line where the format allows that."""
        state = self._state
        is_last = int(state[at.IS_LAST])
        state[at.ACCESSES] = 0
        state[at.IS_LAST] = is_last and not self._form.is_written_whole
        text = self._text[: self._length]
        status = kernels.scan_lines(text, self._compiled, state, self._registers, self._out)
        state[at.IS_LAST] = is_last
        return int(status)

    def _block(self) -> TraceBlock:
        gvas, icounts, lengths, vcpus, kinds = self._out[:, : self._state[at.ACCESSES]]
        if any("{thread:" in line.template for line in self._form.lines):
            vcpus = self._number(vcpus)
        return TraceBlock(
            gvas.copy(), icounts.copy(), lengths.astype(np.uint16), vcpus.astype(np.uint16), kinds.astype(np.uint8)
        )

    def _number(self, threads: Words) -> Words:
        """Return the vCPUs that stand for these thread IDs: numbers in the order in which they appear."""
        distinct, first, inverse = np.unique(threads, return_index=True, return_inverse=True)
        for thread in distinct[np.argsort(first)].tolist():
            if self._threads.setdefault(thread, len(self._threads)) == MAX_THREADS:
                raise FormatError(self._source.path, f"has more than {MAX_THREADS} threads", self._base)
        vcpus: Words = np.array([self._threads[thread] for thread in distinct.tolist()], np.uint64)[inverse]
        return vcpus

    def _left(self) -> int:
        """Return how many bytes are not done with."""
        return self._length - int(self._state[at.POSITION])

    def _excerpt(self) -> str:
        """Return the start of the line at POSITION, for a message."""
        start = int(self._state[at.POSITION])
        line = self._text[start : min(self._length, start + _EXCERPT_BYTES)].tobytes().partition(b"\n")[0]
        return ascii(line.decode("utf-8", "replace"))

    def _error(self, problem: str) -> FormatError:
        offset = self._base + int(self._state[at.POSITION])
        return FormatError(
            self._source.path, f"line {int(self._state[at.LINES]) + 1}{self._source.place} {problem}", offset
        )


def count_accesses(head: bytes, form: TextFormat, *, is_whole: bool) -> int:
    """Return how many accesses of a format the first bytes of a file hold, -1 where a line is none of its lines.

    Parameters
    ----------
    is_whole : the file ends where the bytes do
    """
    compiled = compile_lines(form.lines, form.words)
    state = np.zeros(at.SEEN + len(form.lines), np.int64)
    state[at.IS_LAST] = is_whole and not form.is_written_whole
    status = kernels.scan_lines(
        np.frombuffer(head, np.uint8).copy(),
        compiled,
        state,
        np.zeros(at.REGISTERS, np.uint64),
        np.empty((at.COLUMNS, 2 * len(head) + 2), np.uint64),
    )
    return -1 if status == at.NO_MATCH else int(state[at.ACCESSES])
