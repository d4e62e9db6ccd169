"""Entries that a hypervisor means as no memory, put as a look-up and an audit of ours read them.

They are changed in our copy of the tables. What stood there is kept, for a walk shows the entry of the file, and what
an access meets there is up to hardware, which knows of no marks.
Read first: `formats.dialects`.
"""

import numpy as np
import numpy.typing as npt

from twofold.dumps.levels import parts_of
from twofold.formats.dialects import Dialect, marked
from twofold.machine import Arena

Array = npt.NDArray[np.uint64]


class Kept:
    """The entries that were changed, as the file has them."""

    def __init__(self, slots: int, places: npt.NDArray[np.int64], entries: Array) -> None:
        order = np.argsort(places)
        self._slots, self._places, self._entries = slots, places[order], entries[order]

    def __len__(self) -> int:
        return len(self._places)

    def entry(self, table: int, slot: int) -> int | None:
        """Return what the file has in a slot, None where it is what the tables have now."""
        place = table * self._slots + slot
        row = int(np.searchsorted(self._places, place))
        is_kept = row < len(self._places) and int(self._places[row]) == place
        return int(self._entries[row]) if is_kept else None


def put_marked(arena: Arena, mfns: Array, dialect: Dialect, root: int) -> Kept:
    """Change the marked entries of all tables that a root leads to."""
    slots = dialect.table_format.geometry.entries
    places, entries = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    memory = arena.tables_of(dialect.table_format.entry_dtype)
    for part in parts_of(arena, mfns, dialect.table_format, root) if dialect.markers else ():
        read = marked(dialect.markers, part.entries, part.level)
        rows, at = np.nonzero(read != part.entries)
        frames = part.frames[rows]
        places.append(frames * slots + at)
        entries.append(part.entries[rows, at])
        memory[frames, at] = read[rows, at].astype(memory.dtype)
    return Kept(slots, np.concatenate(places), np.concatenate(entries))
