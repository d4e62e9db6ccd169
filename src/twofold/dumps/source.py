"""What a file of a machine's memory comes to once a reader has opened it: frames on demand, and where the tables begin.

A source is asked for one frame at a time, and only for frames that some table names as a table: the data frames of a
guest are never read. So a dump may be far larger than this machine's memory.
Read first: `readers`, for who opens a file; `collect`, for who asks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from twofold.errors import FormatError
from twofold.formats.table_formats import NPT, NPT_2, NPT_5, NPT_PAE, P2M_FORMATS, TableFormat
from twofold.machine import M2P, FrameTable
from twofold.memory import MemoryLimit
from twofold.units import FRAME_BYTES, parse_frames

MAX_FRAMES: Final = parse_frames("16TiB")  # what is mapped, sparsely, to hold tables at their own places
ZEROS: Final = bytes(FRAME_BYTES)
_FORMAT_OF_LEVELS: Final = {2: NPT_2, 3: NPT_PAE, 4: NPT, 5: NPT_5}


class FrameSource(Protocol):
    """The frames of a machine, read when they are asked for."""

    def read(self, mfn: int) -> bytes | None:
        """Return the 4096 bytes of a frame, or None where the file does not hold it; memory stays bounded.

        Raises
        ------
        FormatError : the file is damaged there
        """


class MachineState(NamedTuple):
    """What tables are held against: who owns a frame, which gfn it backs, what is free.

    parts : (first, frames) of all that is owned, ascending, with what lies between; None: of the whole machine
    """

    frame_table: FrameTable
    m2p: M2P
    orders: npt.NDArray[np.uint8]  # of the heap: order + 1 at the head of each free block
    parts: list[tuple[int, int]] | None = None


@dataclass(frozen=True)
class DumpRoot:
    """One P2M of a dump.

    mfn : its top table
    table_format : such as "npt" or "ept"; None where the file does not say
    levels : where it says only these; None: not even that
    name, domid : of the domain; "" and 0 where nobody knows
    """

    mfn: int
    table_format: str | None = None
    levels: int | None = None
    name: str = ""
    domid: int = 0

    def format_of(self, path: object, asked: str | None) -> TableFormat:
        """Return how to read the tables: what the file says, else what was asked for, else the NPT of as many levels.

        Raises
        ------
        FormatError : the file says something else, or nobody says anything
        """
        if self.table_format is not None:
            if asked is not None:
                raise FormatError(path, "says itself what its tables are: name no format")
            return P2M_FORMATS[self.table_format]
        if asked is None:
            if self.levels not in _FORMAT_OF_LEVELS:
                raise FormatError(path, f"does not say what its tables are: name a format ({', '.join(P2M_FORMATS)})")
            return _FORMAT_OF_LEVELS[self.levels]
        chosen = P2M_FORMATS[asked]
        if self.levels is not None and chosen.geometry.levels != self.levels:
            raise FormatError(
                path, f"has {self.levels} levels, and a {chosen.name} table has {chosen.geometry.levels}: name another"
            )
        return chosen


def _nothing() -> None:
    """Release nothing."""


@dataclass(frozen=True)
class Dump:
    """An opened file.

    source : its frames
    frames : of the machine, or up to the last that the file holds; no table lies at or above [4 KiB frames]
    roots : the P2Ms that the file names; none: who opens it has to name one
    tables : uint64[n] ascending, where the file says which frames hold tables; None: those that the root leads to
    machine : what the tables are held against, where the file has it
    release : called when nothing will be read any more
    """

    source: FrameSource
    frames: int
    roots: tuple[DumpRoot, ...] = ()
    tables: npt.NDArray[np.uint64] | None = None
    machine: MachineState | None = field(default=None, repr=False)
    release: Callable[[], None] = _nothing


class BoundedReader(ABC):
    """A reader that claims memory before it takes any: what the built-in ones are.

    A reader of another package need not be one; what its source gives is bounded where it is collected.
    """

    def open(self, path: Path) -> Dump:
        """Return what a file holds, in a quarter of the memory that is free."""
        return self.open_within(path, MemoryLimit())

    @abstractmethod
    def open_within(self, path: Path, limit: MemoryLimit) -> Dump:
        """Return what a file holds.

        Raises
        ------
        FormatError : what is wrong with it, or it takes more memory than it may
        """


@dataclass(frozen=True)
class StoredPages:
    """Pages of a file that are in memory, as a source.

    mfns : uint64[n], ascending;  pages : uint8[n, 4096]
    """

    mfns: npt.NDArray[np.uint64]
    pages: npt.NDArray[np.uint8]

    def read(self, mfn: int) -> bytes | None:
        """Return a page, None for a frame that is not among them."""
        row = int(np.searchsorted(self.mfns, np.uint64(mfn)))
        if row == len(self.mfns) or int(self.mfns[row]) != mfn:
            return None
        return bytes(self.pages[row])
