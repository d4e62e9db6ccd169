"""A two-dimensional walk as people read it: numbered steps with what each entry says."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twofold.formats import x86
from twofold.spec.walk import DATA, ENTRY, FOR_LEVEL, GUEST, LEVEL, SLOT, TABLE
from twofold.units import FRAME_SHIFT, Mfn


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
    """

    guest: bool
    serves: int | None
    level: int
    table: Mfn
    slot: int
    entry: int

    @property
    def maddr(self) -> int:
        """Where the entry stands in machine memory [byte address]."""
        return self.table << FRAME_SHIFT | self.slot << x86.ENTRY_SHIFT

    @property
    def meaning(self) -> str:
        """What the entry says, in a few words."""
        space = "gfn" if self.guest else "mfn"
        if not x86.is_present(self.entry):
            return "not present"
        if x86.reserved_bits(self.entry, self.level):
            return "reserved bits set"
        if x86.is_leaf(self.entry, self.level):
            size = ("4K", "2M", "1G")[self.level]
            rights = "" if self.entry & x86.WRITABLE else ", read-only"
            return f"{size} leaf, {space} {x86.leaf_frame(self.entry, self.level):#x}{rights}"
        return f"table, {space} {x86.frame_of(self.entry):#x}"


def steps_of(rows: npt.NDArray[np.uint64]) -> tuple[NestedStep, ...]:
    """Return the rows that a walk recorded as steps."""
    return tuple(
        NestedStep(
            guest=bool(row[GUEST]),
            serves=None if row[FOR_LEVEL] == DATA else row[FOR_LEVEL],
            level=row[LEVEL],
            table=Mfn(row[TABLE]),
            slot=row[SLOT],
            entry=row[ENTRY],
        )
        for row in rows.tolist()
    )
