"""Where a guest's memory is in guest-physical space: RAM ranges, the MMIO hole, special pages.

         0    640K 768K                        hole       4G
    hvm  | RAM | VGA | RAM .................. | MMIO ... | RAM above 4G
    pvh  | RAM ............................. | MMIO ... | RAM above 4G
    flat | RAM ..........................................

Memory that the hole displaces goes above 4 GiB. Special pages (rings, ACPI tables, console) stand inside the hole.
Source: Xen 4.17 tools/libs/light/libxl_dom.c and tools/libs/guest/xg_dom_x86.c; the special pages are those that a
real Xen 4.17 gave its guests (tests/golden/xen).
"""

from dataclasses import dataclass
from typing import Final

from twofold.errors import UnknownNameError
from twofold.units import Gfn

FOUR_GIB: Final = 1 << 20  # [frames]
VGA_HOLE: Final = range(0xA0, 0xC0)


@dataclass(frozen=True)
class GfnRange:
    """`frames` guest frames from `gfn` on."""

    gfn: Gfn
    frames: int

    @property
    def end(self) -> int:
        """First gfn after the range."""
        return self.gfn + self.frames


@dataclass(frozen=True)
class Layout:
    """One way of laying out guest memory.

    Parameters
    ----------
    mmio : the hole below 4 GiB that no RAM goes into; empty when there is none
    holes : what is left out of low RAM without being made up for above
    special : pages that the toolstack populates one by one, inside the hole
    """

    name: str
    mmio: range
    holes: tuple[range, ...]
    special: tuple[GfnRange, ...]

    def ram(self, frames: int) -> tuple[GfnRange, ...]:
        """Return the RAM ranges of a guest of this size, ascending; adjoining ones are one range."""
        low_end = min(frames, self.mmio.start) if self.mmio else frames
        ranges, start = [], 0
        for hole in self.holes:
            if hole.start < low_end:
                ranges.append(GfnRange(Gfn(start), hole.start - start))
                start = hole.stop
        if start < low_end:
            ranges.append(GfnRange(Gfn(start), low_end - start))
        if frames > low_end:
            ranges.append(GfnRange(Gfn(FOUR_GIB), frames - low_end))
        return tuple(ranges)


LAYOUTS: Final = {
    "pvh": Layout(
        "pvh",
        mmio=range(0xFC000, FOUR_GIB),
        holes=(),
        special=(GfnRange(Gfn(0xFC000), 9), GfnRange(Gfn(0xFEFF8), 8)),
    ),
    "hvm": Layout("hvm", mmio=range(0xF0000, FOUR_GIB), holes=(VGA_HOLE,), special=(GfnRange(Gfn(0xFEFF0), 16),)),
    "flat": Layout("flat", mmio=range(0), holes=(), special=()),
}


def get_layout(name: str) -> Layout:
    """Return a layout by name.

    Raises
    ------
    UnknownNameError : no layout has that name
    """
    if name not in tuple(LAYOUTS):  # by comparison: a list has no hash
        raise UnknownNameError("layout", name, tuple(LAYOUTS))
    return LAYOUTS[name]
