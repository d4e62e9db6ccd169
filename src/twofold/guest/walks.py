"""A two-dimensional walk as people read it: numbered steps with what each entry says."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.formats import shape as form
from twofold.formats.arrays import Words
from twofold.formats.shape import allows, frame_of, is_leaf, is_usable, leaf_frame, malformed
from twofold.formats.walk_state import DATA, ENTRY, FOR_LEVEL, GUEST, LEVEL, SLOT, TABLE, WRITE
from twofold.units import FRAME_SHIFT, Mfn, order_name


@dataclass(frozen=True)
class NestedStep:
    """One table read of a two-dimensional walk.

    Parameters
    ----------
    guest : True for an entry of the guest's tables, False for one of the P2M
    serves : the guest level whose entry is being found by this step; None for the data itself
    level : of the table read, 0 is the table of 4K leaves
    table, slot : where the entry stands
    entry : its value
    maddr : where the entry stands in machine memory [byte address]
    meaning : what the entry says, in a few words
    """

    guest: bool
    serves: int | None
    level: int
    table: Mfn
    slot: int
    entry: int
    maddr: int
    meaning: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them: an address and an entry in hex."""
        return asdict(self) | {"entry": hex(self.entry), "maddr": hex(self.maddr)}


def steps_of(rows: npt.NDArray[np.uint64], guest_shape: Words, p2m_shape: Words) -> tuple[NestedStep, ...]:
    """Return the rows that a walk recorded as steps; the shapes are the formats of both dimensions."""
    steps = []
    for row in rows.tolist():
        shape = guest_shape if row[GUEST] else p2m_shape
        step = NestedStep(
            guest=bool(row[GUEST]),
            serves=None if row[FOR_LEVEL] == DATA else row[FOR_LEVEL],
            level=row[LEVEL],
            table=Mfn(row[TABLE]),
            slot=row[SLOT],
            entry=row[ENTRY],
            maddr=row[TABLE] << FRAME_SHIFT | row[SLOT] << int(shape[form.ENTRY_SHIFT]),
            meaning=_meaning(shape, row[ENTRY], row[LEVEL], "gfn" if row[GUEST] else "mfn"),
        )
        steps.append(step)
    return tuple(steps)


def _meaning(shape: Words, entry: int, level: int, space: str) -> str:
    """Return what an entry says; `space` is that of the frame numbers it holds."""
    if not is_usable(shape, entry):
        return "not present"
    if malformed(shape, entry, level):
        return "reserved bits set"
    if not is_leaf(shape, entry, level):
        return f"table, {space} {frame_of(shape, entry):#x}"
    size = order_name(level * int(shape[form.BITS]))
    rights = "" if allows(shape, entry, WRITE, level) else ", read-only"
    return f"{size} leaf, {space} {leaf_frame(shape, entry, level):#x}{rights}"
