"""The tables of a dump, and nothing else of it: read level by level from a root, put at their own places in an arena.

A table may be reached at several levels, from several entries, or lead back to one above it. Each level below the root
is the set of frames that tables one level up name, so the walk ends after as many steps as the format has levels, and
each frame is read once. An entry of the last level names data, and is not followed.
Left out: whether an entry is well-formed, which the audit says; what is collected is all that it may look into.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.dumps.levels import lead
from twofold.dumps.source import Dump
from twofold.errors import FormatError
from twofold.formats import shape
from twofold.formats.table_formats import TableFormat
from twofold.machine import Arena
from twofold.memory import MemoryLimit
from twofold.units import FRAME_BYTES, FRAME_SHIFT

Array = npt.NDArray[np.uint64]
_STEP: Final = 1 << 10  # tables at a time: 4 MiB
_NONE: Final = np.zeros(0, np.uint64)


class Reached(NamedTuple):
    """What a root leads to: the frames read, and those that the source does not have; uint64[n], both ascending."""

    mfns: Array
    missing: Array


class CollectedTables:
    """The tables of one dump in an arena; `reach` adds those of a root."""

    def __init__(self, path: Path, dump: Dump, limit: MemoryLimit) -> None:
        self.frames = dump.frames
        self.path, self.limit = path, limit
        self._source = dump.source
        self._stated = dump.tables
        self._read, self._missing = _NONE, _NONE
        self._marked = 0
        self.arena = Arena(dump.frames)

    def reach(self, table_format: TableFormat, root: int) -> Reached:
        """Read every table that `root` leads to.

        Raises
        ------
        FormatError : the file is damaged, or its tables take more memory than they may
        """
        top = table_format.geometry.levels - 1
        frontier, found, missing = np.array([root], np.uint64), [_NONE], [_NONE]
        for level in range(top, -1, -1):
            frontier = frontier[frontier < np.uint64(self.frames)]
            self._fetch(frontier)
            is_there = np.isin(frontier, self._read, assume_unique=True)
            found.append(frontier[is_there])
            missing.append(frontier[~is_there])
            if level:
                frontier = self._targets(table_format, found[-1], level, is_top=level == top)
        return Reached(np.unique(np.concatenate(found)), np.unique(np.concatenate(missing)))

    def claim_marks(self, reached: Reached) -> None:
        """Claim what an audit marks, a byte a frame: a page for each table that stands by itself, a machine at most."""
        stated = 0 if self._stated is None else len(self._stated)
        marked = max(len(reached.mfns), stated) * FRAME_BYTES
        self._marked, before = max(self._marked, min(marked, self.frames)), self._marked
        self.limit.claim(self.path, self._marked - before)

    def _fetch(self, mfns: Array) -> None:
        """Read what was not asked for before, ascending."""
        new = np.setdiff1d(np.setdiff1d(mfns, self._read, assume_unique=True), self._missing, assume_unique=True)
        has = np.zeros(len(new), np.bool_)
        if self._stated is not None:  # whatever else an entry names need not be asked for
            is_stated = np.isin(new, self._stated, assume_unique=True)
            self._missing = np.union1d(self._missing, new[~is_stated])
            new, has = new[is_stated], has[is_stated]
        for start in range(0, len(new), _STEP):
            part = new[start : start + _STEP].tolist()
            self.limit.claim(self.path, len(part) * FRAME_BYTES)
            for row, mfn in enumerate(part, start):
                has[row] = self._store(mfn)
        self._read = np.union1d(self._read, new[has])
        self._missing = np.union1d(self._missing, new[~has])

    def _store(self, mfn: int) -> bool:
        """Put a frame at its place; return whether the source has it. Zeros are left out: memory reads as zero."""
        content = self._source.read(mfn)
        if content is None:
            return False
        if len(content) != FRAME_BYTES:
            raise FormatError(self.path, f"gave {len(content)} bytes for mfn {mfn:#x}: a frame has {FRAME_BYTES}")
        words = np.frombuffer(content, np.uint64)
        if words.any():
            self.arena.tables[mfn] = words
        return True

    def _targets(self, table_format: TableFormat, mfns: Array, level: int, *, is_top: bool) -> Array:
        """Return the frames that tables name as tables, each once, ascending."""
        memory = self.arena.tables_of(table_format.entry_dtype)
        slots = 1 << table_format.geometry.top_bits if is_top else None
        parts = [_NONE]
        for start in range(0, len(mfns), _STEP):
            entries = memory[mfns[start : start + _STEP].astype(np.int64), :slots].astype(np.uint64)
            leads = lead(table_format, entries, level)
            parts.append(np.unique((entries[leads] & table_format.shape[shape.FRAME]) >> np.uint64(FRAME_SHIFT)))
        return np.unique(np.concatenate(parts))


def copied(arena: Arena, mfns: Array) -> Arena:
    """Return memory of its own that holds the same tables."""
    other = Arena(arena.frames)
    for start in range(0, len(mfns), _STEP):
        places = mfns[start : start + _STEP].astype(np.int64)
        pages = arena.tables[places]
        used = pages.any(axis=1)
        other.tables[places[used]] = pages[used]
    return other
