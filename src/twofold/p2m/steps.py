"""Long work on a range of gfns in steps, so that somebody can be told how far it is.

Steps are taken where tables exist, never by the range alone: one page at the top of five levels is one step, and the
2**27 GiB below it are none.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from twofold.formats import shape
from twofold.formats.table_formats import TableFormat
from twofold.p2m.audit import Progress
from twofold.units import FRAME_SHIFT

_STEP_ORDER = 18  # 1 GiB


def steps_of(
    gfns: range, table_format: TableFormat, memory: npt.NDArray[np.uint64], root: int, progress: Progress | None
) -> Iterator[range]:
    """Yield the parts of a range in which anything is mapped, in steps that end at multiples of 1 GiB.

    Parameters
    ----------
    memory : the machine's frames as tables of this format
    progress : called after each step with (how far it is, frames of the range)
    """
    told = gfns.start
    for first in _steps(gfns, table_format, memory, root):
        told = min(gfns.stop, first + (1 << _STEP_ORDER))
        yield range(max(gfns.start, first), told)
        if progress:
            progress(told - gfns.start, len(gfns))
    if progress and told < gfns.stop:
        progress(len(gfns), len(gfns))


def _steps(gfns: range, table_format: TableFormat, memory: npt.NDArray[np.uint64], root: int) -> list[int]:
    """Return where the steps begin, ascending: from the top, the entries that hold something are followed."""
    bits, words = table_format.geometry.index_bits, table_format.shape
    found, level = [(root, 0)], table_format.geometry.levels - 1
    if bits * level < _STEP_ORDER:  # two levels: all of it is four steps
        return list(range(gfns.start >> _STEP_ORDER << _STEP_ORDER, gfns.stop, 1 << _STEP_ORDER))
    while True:
        order = bits * level
        slots = 1 << table_format.geometry.top_bits if level == table_format.geometry.levels - 1 else 1 << bits
        below = []
        for table, base in found:
            row = memory[table, :slots]
            for slot in np.flatnonzero(row & ~words[shape.EMPTY].astype(row.dtype)).tolist():
                first = base + (slot << order)
                if first < gfns.stop and first + (1 << order) > gfns.start:
                    below.append((int(row[slot]), first))
        if order == _STEP_ORDER:
            return [first for _, first in below]
        # No leaf is as large as what stands here, and no place: what is present is a table.
        tables = [(entry & int(words[shape.FRAME])) >> FRAME_SHIFT for entry, _ in below]
        found = [
            (table, first)
            for table, (entry, first) in zip(tables, below, strict=True)
            if shape.is_present(words, entry) and table < len(memory)
        ]
        level -= 1
