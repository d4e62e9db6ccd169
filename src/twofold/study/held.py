"""A trace of one's own under study: opened for as many passes as are wanted, with what a comparison says of it.

A trace file of our own is mapped. The loads and stores of any other are read once, and kept in a file of our own layout
that has no name: it is gone with the process, whatever ends it. So a pipe can be read twice too, and no
trace has to fit in memory.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO, Final

import numpy as np

from twofold.errors import FormatError, SizeError
from twofold.guest.addresses import Gvas, Kinds, accesses_of
from twofold.trace import Trace, TraceBlock, open_reader
from twofold.trace.pages import MAX_PAGES, PageSet
from twofold.trace.readers import STDIN, StoredReader
from twofold.trace.stored import StoredParts, TraceWriter
from twofold.trace.unpacked import temporary_writes
from twofold.units import FRAME_BYTES, ORDER_4K

Progress = Callable[[str, int, int], None]
STDIN_NAME: Final = "stdin"  # what a trace is called that has no file


def read_accesses(
    path: str | Path,
    source_format: str | None = None,
    *,
    accesses: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Gvas, Kinds]]:
    """Yield (gvas, kinds) of the loads and stores of a trace of any format, in order, in blocks.

    Parameters
    ----------
    path : the file, packed perhaps; "-" is standard input
    source_format : name of its format; None: by what it holds
    accesses : so many of them at most, and the file is read no further; None: all
    progress : called as the file is read: text, bytes done, bytes in all

    Raises
    ------
    UnknownNameError : no such format
    FormatError : no trace; or one that is broken, or does not match its checksums: what stands before was yielded
    """
    yield from _first(accesses_of(open_reader(Path(path), source_format, progress).blocks()), accesses)


@contextmanager
def open_trace(
    path: str | Path,
    source_format: str | None = None,
    *,
    accesses: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Trace]:
    """Open a trace of any format for several passes over its loads and stores; see `read_accesses`.

    accesses : so many of them are kept, at least; of a trace file of our own, all are there
    """
    reader = open_reader(Path(path), source_format, progress)
    if isinstance(reader, StoredReader):
        yield Trace.of_parts(reader.parts)
        return
    with tempfile.TemporaryFile(prefix="twofold-") as file:
        _keep(file, reader.name, _first(accesses_of(reader.blocks()), accesses))
        yield Trace.of_parts(StoredParts(Path(path), file.fileno()))


def _first(blocks: Iterable[tuple[Gvas, Kinds | None]], accesses: int | None) -> Iterator[tuple[Gvas, Kinds]]:
    """Yield so many of some accesses, None for all, and look no further."""
    left = accesses
    for gvas, kinds in blocks:
        known = np.zeros(len(gvas), np.uint8) if kinds is None else kinds
        yield gvas[:left], known[:left]
        if left is not None:
            left -= min(left, len(gvas))
            if not left:
                return


def _keep(file: BinaryIO, source: str, blocks: Iterable[tuple[Gvas, Kinds]]) -> None:
    """Write accesses to a file as a trace of our own."""
    with temporary_writes():
        writer = TraceWriter(file, source)
    for gvas, kinds in blocks:  # what goes wrong in reading says so by itself
        with temporary_writes():
            writer.append(TraceBlock.of(gvas, kinds=kinds))
    with temporary_writes():
        writer.finish()
        file.flush()


@dataclass(frozen=True)
class HeldTrace:
    """The part of a trace that is priced.

    Parameters
    ----------
    name : what it is called: its file's name, without folders
    digest : SHA-256 of its loads and stores, their addresses and kinds: the same in whichever format they came
    warmup, accesses : how many fill the caches first, and how many are counted after them
    gvas : an address in each 4K page that they touch, ascending
    """

    name: str
    digest: str
    warmup: int
    accesses: int
    gvas: Gvas
    _trace: Trace

    @property
    def footprint(self) -> int:
        """Memory of the 4K pages that it touches [bytes]."""
        return len(self.gvas) * FRAME_BYTES

    def blocks(self) -> Iterator[tuple[Gvas, Kinds]]:
        """Yield (gvas, kinds) in order, warm-up included; any number of times, and by several threads."""
        yield from _first(self._trace.accesses(), self.warmup + self.accesses)


@contextmanager
def held_trace(
    path: str | Path,
    source_format: str | None = None,
    *,
    warmup: int = 0,
    accesses: int | None = None,
    progress: Progress | None = None,
) -> Iterator[HeldTrace]:
    """Open a trace of any format, and look at each access that is to be priced once; see `read_accesses`.

    accesses : counted after `warmup` at most; None: all that follow

    Raises
    ------
    SizeError : the warm-up leaves nothing to count
    """
    most = None if accesses is None else warmup + accesses
    with open_trace(path, source_format, accesses=most, progress=progress) as trace:
        gvas_hash, kinds_hash, pages, count = hashlib.sha256(), hashlib.sha256(), PageSet(ORDER_4K, MAX_PAGES), 0
        for gvas, kinds in _first(accesses_of(trace.verified()), most):
            gvas_hash.update(np.ascontiguousarray(gvas).data)
            kinds_hash.update(np.ascontiguousarray(kinds).data)
            pages.add(gvas)
            count += len(gvas)
        if not count:
            raise FormatError(path, "has no load and no store to price")
        if warmup >= count:
            raise SizeError(str(warmup), f"is too long a warm-up: the trace has {count} loads and stores")
        numbers = pages.numbers()
        if pages.order != ORDER_4K:
            raise FormatError(path, f"touches more than {MAX_PAGES} pages of 4K, the most that are told apart")
        digest = hashlib.sha256(gvas_hash.digest() + kinds_hash.digest()).hexdigest()
        firsts = numbers * np.uint64(FRAME_BYTES)
        yield HeldTrace(trace_name(path), digest, warmup, count - warmup, firsts, trace)


def trace_name(path: str | Path) -> str:
    """Return what a trace is called: by its file, never by a folder."""
    return STDIN_NAME if Path(path) == STDIN else PurePath(path).name
