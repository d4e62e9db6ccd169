"""Somebody else's tables, level by level from a root, each once: no loop and no wild pointer prolongs the walk."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.formats import shape
from twofold.formats.table_formats import TableFormat
from twofold.machine import Arena
from twofold.units import FRAME_SHIFT

Array = npt.NDArray[np.uint64]
_STEP: Final = 1 << 10  # tables at a time: some 4 MiB


class Part(NamedTuple):
    """Some tables of one level. frames : int64[n];  entries : uint64[n, entries];  leads : bool[n, entries]."""

    level: int
    frames: npt.NDArray[np.int64]
    entries: Array
    leads: npt.NDArray[np.bool_]


def lead(table_format: TableFormat, entries: Array, level: int) -> npt.NDArray[np.bool_]:
    """Return which entries of a level point to a table."""
    words = table_format.shape
    leads: npt.NDArray[np.bool_] = (entries & words[shape.PRESENT]) != 0
    if not level:
        leads[:] = False
    elif int(words[shape.LARGE_LEVELS]) >> level & 1:
        leads &= (entries & words[shape.LARGE]) == 0
    return leads


def parts_of(
    arena: Arena, mfns: Array, table_format: TableFormat, root: int, most: int | None = None
) -> Iterator[Part]:
    """Yield all tables that a root leads to, a part of a level at a time.

    Parameters
    ----------
    mfns : frames that may hold tables, ascending
    most : of each level, for who needs only some; None: all
    """
    memory, geometry = arena.tables_of(table_format.entry_dtype), table_format.geometry
    seen, frontier = np.zeros(len(mfns), np.bool_), np.array([root], np.uint64)
    for level in range(geometry.levels - 1, -1, -1):
        places = np.flatnonzero(np.isin(mfns, frontier) & ~seen)[:most]
        seen[places] = True
        slots = 1 << geometry.top_bits if level == geometry.levels - 1 else None
        below = [frontier[:0]]
        for start in range(0, len(places), _STEP):
            frames = mfns[places[start : start + _STEP]].astype(np.int64)
            entries = memory[frames, :slots].astype(np.uint64)
            leads = lead(table_format, entries, level)
            below.append(np.unique((entries[leads] & table_format.shape[shape.FRAME]) >> np.uint64(FRAME_SHIFT)))
            yield Part(level, frames, entries, leads)
        frontier = np.unique(np.concatenate(below))
