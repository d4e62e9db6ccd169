"""Reading a text trace as a stream: chunks of bytes in, blocks of accesses out, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from twofold.errors import FormatError
from twofold.formats import trace_program as at
from twofold.formats.arrays import Bytes, Words
from twofold.kernels import traces as kernels
from twofold.trace.accesses import TraceBlock
from twofold.trace.packed import TAR, ByteSource, is_tar
from twofold.trace.templates import TextFormat, compile_lines

CHUNK_BYTES: Final = 4 << 20
MAX_LINE_BYTES: Final = 64 << 10
ROOM: Final = 1 << 17  # accesses of a block: more than any line can have
MAX_THREADS: Final = 1 << 16
_EXCERPT_BYTES: Final = 60
_NAMED_THREADS: Final = 8
_MANY_OTHERS: Final = 8  # lines of source code, or whatever a field adds, for each sample
_MAX_FOREIGN: Final = 16  # lines that are skipped to see what a file is like


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
        counts: dict[str, int] = {}
        for line, lines in zip(self._form.lines, self._state[at.SEEN :].tolist(), strict=True):
            counts[line.note] = counts.get(line.note, 0) + lines
        seen = (note.replace("{lines}", f"{lines:,}") for note, lines in counts.items() if lines)
        named = [f"{index} is thread {thread}" for thread, index in self._threads.items()][:_NAMED_THREADS]
        more = ", ..." if len(self._threads) > _NAMED_THREADS else ""
        threads = (f"vCPU {', '.join(named)}{more}.",) if named else ()
        return tuple(dict.fromkeys((*self._form.notes, *threads, *filter(None, seen))))

    def blocks(self) -> Iterator[TraceBlock]:
        """Yield the accesses in order.

        Raises
        ------
        FormatError : a line that is none of the format's, or broken data; what stands before was yielded. Or no line
            has an address, in a format whose lines may lack it
        """
        problem: FormatError | None = None
        is_addressed = False
        while problem is None and not self._state[at.IS_LAST]:
            problem = self._fill()
            if not self._base and is_tar(self._text[: self._length].tobytes()):
                raise FormatError(self._source.path, TAR, 0)
            status = at.FULL
            while status == at.FULL:
                status = self._scan()
                if self._state[at.ACCESSES]:
                    is_addressed = True
                    yield self._block()
                elif status == at.FULL:
                    raise self._error("has more accesses than a line can have")
            if status == at.NO_MATCH:
                raise self._error(f"is no {self._form.title}: {self._excerpt()}")
            if self._left() >= MAX_LINE_BYTES and not self._state[at.IS_LAST]:
                raise self._error(f"is longer than {MAX_LINE_BYTES} bytes")
        if problem is not None:
            raise problem
        if not is_addressed and self._state[at.LINES] and self._form.unaddressed:
            raise FormatError(self._source.path, self._form.unaddressed, 0)
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
        return excerpt(self._text[int(self._state[at.POSITION]) : self._length])

    def _error(self, problem: str) -> FormatError:
        offset = self._base + int(self._state[at.POSITION])
        return FormatError(
            self._source.path, f"line {int(self._state[at.LINES]) + 1}{self._source.place} {problem}", offset
        )


@dataclass(frozen=True)
class Survey:
    """What a format makes of the first bytes of a file.

    Parameters
    ----------
    form : the format
    accesses : lines that give some, and are of this format whatever the others are
    samples : those, and lines of this format that have no address and should
    others : lines that are taken for its own where it is named; `doubtful` of them give an access
    foreign : lines that are none of its lines
    line, offset, text : of the first of these: its number, its place [bytes], how it starts
    """

    form: TextFormat
    accesses: int
    samples: int
    others: int
    doubtful: int
    foreign: int
    line: int
    offset: int
    text: str

    @property
    def is_whole(self) -> bool:
        """Whether the file may be of this format: no line is foreign, and others are not nearly all of them."""
        return not self.foreign and (self.form.is_mixed or _MANY_OTHERS * self.samples > self.others)


def survey(head: bytes, form: TextFormat, *, is_whole: bool) -> Survey:
    """Return what a format makes of the first bytes of a file, foreign lines skipped.

    Parameters
    ----------
    is_whole : the file ends where the bytes do
    """
    compiled = compile_lines(form.lines, form.words)
    text = np.frombuffer(head, np.uint8).copy()
    state = np.zeros(at.SEEN + len(form.lines), np.int64)
    state[at.IS_LAST] = is_whole and not form.is_written_whole
    registers, out = np.zeros(at.REGISTERS, np.uint64), np.empty((at.COLUMNS, 2 * len(head) + 2), np.uint64)
    foreign: list[tuple[int, int]] = []
    while kernels.scan_lines(text, compiled, state, registers, out) == at.NO_MATCH and len(foreign) < _MAX_FOREIGN:
        start = int(state[at.POSITION])
        foreign.append((int(state[at.LINES]) + 1, start))
        state[at.POSITION] = head.find(b"\n", start) + 1 or len(head)
        state[at.LINES] += 1
    line, offset = foreign[0] if foreign else (0, 0)
    accesses, samples, others, doubtful = _count_lines(form, state[at.SEEN :].tolist())
    return Survey(form, accesses, samples, others, doubtful, len(foreign), line, offset, excerpt(text[offset:]))


def _count_lines(form: TextFormat, counts: list[int]) -> tuple[int, int, int, int]:
    """Return the accesses, samples, others and doubtful lines of a survey."""
    seen = [(line, lines) for line, lines in zip(form.lines, counts, strict=True) if lines]
    ended = [(line, lines) for line, lines in seen if line.then == at.LAST_STAGE]
    others = [(line, lines) for line, lines in ended if not line.is_evidence]
    begun = any(
        line.is_evidence and not line.stage for line, _ in seen if line.then != at.LAST_STAGE or line.emits >= 0
    )
    accesses = sum(lines for line, lines in seen if line.is_evidence and line.emits != at.NOTHING)
    missing = sum(lines for line, lines in ended if line.is_evidence and line.emits == at.NOTHING and line.note)
    doubtful = sum(lines for line, lines in others if line.emits != at.NOTHING)
    return accesses * begun, (accesses + missing) * begun, sum(lines for _, lines in others), doubtful


def excerpt(text: Bytes) -> str:
    """Return the start of a line, for a message."""
    return ascii(text[:_EXCERPT_BYTES].tobytes().partition(b"\n")[0].decode("utf-8", "replace"))
