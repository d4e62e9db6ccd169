"""A trace: memory accesses in the order in which they were made, in memory or in a file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from twofold.errors import FormatError, SizeError
from twofold.trace.accesses import DATA_KINDS, Bytes, Gvas, TraceBlock
from twofold.trace.layout import PART_ACCESSES
from twofold.trace.pages import MAX_PAGES, distinct_pages
from twofold.trace.stored import StoredParts, TraceWriter, write_trace
from twofold.trace.summary import TraceInfo, summarise
from twofold.units import ORDER_4K, Order

BLOCK_ACCESSES: Final = PART_ACCESSES  # one part of a file
_RECORDING: Final = {"gva", "bytes", "write"}


class Trace:
    """Memory accesses, in blocks of columns; what is in a file is mapped a part at a time.

    Make one with `Trace.of` from arrays or from what `run` recorded, or with `Trace.load` from a file.

    Parameters
    ----------
    parts : blocks that follow each other
    source : where the accesses come from, a few words
    notes : what was assumed or left out on the way, one sentence each
    """

    def __init__(self, parts: Sequence[TraceBlock], source: str = "memory", notes: Iterable[str] = ()) -> None:
        self.source = source
        self.notes = tuple(notes)
        self._parts = parts
        self._accesses = parts.accesses if isinstance(parts, StoredParts) else sum(map(len, parts))

    @classmethod
    def of(
        cls,
        gvas: npt.ArrayLike,
        *,
        kinds: npt.ArrayLike | None = None,
        lengths: npt.ArrayLike | None = None,
        vcpus: npt.ArrayLike = 0,
        icounts: npt.ArrayLike = 0,
        source: str = "memory",
    ) -> Self:
        """Return a trace of these columns; a single number stands for a whole column.

        Parameters
        ----------
        gvas : guest virtual addresses, or the recording of a run, whose kinds and lengths are then taken
        kinds : 0 load, 1 store, 2 instruction fetch;  lengths : [bytes], 0 when not known
        vcpus : who made each access;  icounts : instructions begun in the whole trace up to it, 0 when not known
        source : where the accesses come from, a few words

        Raises
        ------
        FormatError : a column of another length, or a number that its column cannot hold
        """
        array = np.asarray(gvas)
        if set(array.dtype.names or ()) == _RECORDING:
            kinds = array["write"] if kinds is None else kinds
            lengths = array["bytes"] if lengths is None else lengths
            array = array["gva"]
        given = {"kinds": 0 if kinds is None else kinds, "lengths": 0 if lengths is None else lengths}
        return cls([TraceBlock.of(array, vcpus=vcpus, icounts=icounts, **given)], source)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open a trace file; the accesses stay in it until they are asked for.

        Raises
        ------
        FormatError : no trace, or one that is not whole; `convert_trace` keeps what is whole
        """
        return cls.of_parts(StoredParts(Path(path)))

    @classmethod
    def of_parts(cls, parts: StoredParts) -> Self:
        """Return the trace of an open trace file.

        Raises
        ------
        FormatError : it is not whole
        """
        if parts.problem is not None:
            raise parts.problem
        return cls(parts, parts.header.source, parts.header.notes)

    def save(self, path: str | Path) -> None:
        """Write a trace file, whole or not at all."""

        def fill(writer: TraceWriter) -> tuple[str, ...]:
            for part in self._parts:
                writer.append(part)
            return self.notes

        write_trace(Path(path), self.source, fill)

    def __len__(self) -> int:
        return self._accesses

    def __repr__(self) -> str:
        return f"Trace({len(self)} accesses from {self.source})"

    def blocks(self, accesses: int = BLOCK_ACCESSES) -> Iterator[TraceBlock]:
        """Yield the accesses in order, in blocks of at most so many; one part of a file is resident at a time."""
        if accesses < 1:
            raise SizeError(str(accesses), "is no number of accesses for a block")
        for part in self._parts:
            for start in range(0, len(part), accesses):
                yield part.part(start, min(start + accesses, len(part)))

    def verified(self) -> Iterator[TraceBlock]:
        """Yield the accesses in order, in blocks; what is in a file is compared with its checksums.

        Raises
        ------
        FormatError : a part of the file does not match; what stands before was yielded
        """
        return self._parts.verified() if isinstance(self._parts, StoredParts) else iter(self._parts)

    def gvas(self, kinds: tuple[int, ...] = DATA_KINDS, accesses: int = BLOCK_ACCESSES) -> Iterator[Gvas]:
        """Yield the addresses of the accesses of these kinds, in order, in blocks: loads and stores by default."""
        for block in self.blocks(accesses):
            chosen = block.of_kinds(kinds)
            if len(chosen):
                yield chosen

    def accesses(self, accesses: int = BLOCK_ACCESSES) -> Iterator[tuple[Gvas, Bytes]]:
        """Yield (gvas, kinds) of the loads and stores, in order, in blocks."""
        for block in self.blocks(accesses):
            part = block.data()
            if len(part[0]):
                yield part

    def __iter__(self) -> Iterator[Gvas]:
        """Yield the addresses of the loads and stores, in blocks: whoever takes an iterable of arrays takes a trace."""
        return self.gvas()

    def pages(self, order: Order = ORDER_4K, kinds: tuple[int, ...] = DATA_KINDS) -> Gvas:
        """Return the numbers of the pages of one size that are touched, ascending, each once.

        Raises
        ------
        FormatError : more pages than are told apart
        """
        numbers = distinct_pages(self.gvas(kinds, PART_ACCESSES), order, MAX_PAGES)
        if numbers is None:
            raise FormatError("trace", f"touches more than {MAX_PAGES} pages, the most that are told apart")
        return numbers

    def info(self) -> TraceInfo:
        """Return what is in the trace: kinds, vCPUs, span and footprint; each access is looked at once.

        Raises
        ------
        FormatError : a part of the file does not match its checksum
        """
        return replace(summarise(self.verified(), self.source), notes=self.notes)
