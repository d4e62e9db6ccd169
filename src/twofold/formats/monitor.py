"""The hypervisor's own page tables, as far as the linear mapping needs them: entries, slots and addresses.

The monitor table has the format of the hypervisor's paging mode. Windows are read-only and the supervisor's. The slots
are those that Xen 3 used for its read-only M2P, which the P2M of the running domain took over.
Source: Xen 3.3 xen/include/asm-x86/config.h, RO_MPT_VIRT_START of each mode.
"""

from typing import Final

from twofold.formats import legacy, shape, x86
from twofold.formats.geometry import FIVE_LEVEL, FOUR_LEVEL, TWO_LEVEL, Geometry
from twofold.units import FRAME_SHIFT

_FLAGS: Final = x86.PRESENT | x86.ACCESSED
_OWN: Final = {shape.TABLE_FLAGS: _FLAGS, shape.ROOT_FLAGS: _FLAGS}
SHAPES: Final = {
    "5-level": shape.as_words(_OWN, base=x86.make_shape(FIVE_LEVEL)),
    "4-level": shape.as_words(_OWN, base=x86.make_shape(FOUR_LEVEL)),
    "pae": legacy.pae_shape(_FLAGS),
    "2-level": legacy.two_level_shape(_FLAGS),
}
# PAE: 0xf5800000; its directory is that of the last GiB.
PAE_TOP_SLOT: Final = 3
PAE_DIRECTORY_SLOT: Final = 0x1AC
PAE_BASE: Final = PAE_TOP_SLOT << 30 | PAE_DIRECTORY_SLOT << 21
PAE_BASE_ABOVE: Final = PAE_BASE + (4 << 21)


def slots(geometry: Geometry) -> tuple[int, int]:
    """Return the root slots of the window of 4K entries, and of the windows above it."""
    first = 0x3F0 if geometry is TWO_LEVEL else geometry.entries >> 1
    return first, first + 1


def slot_address(geometry: Geometry, slot: int) -> int:
    """Return the virtual address where a root slot begins, sign-extended in 64-bit modes."""
    bits = FRAME_SHIFT + geometry.frame_bits
    address = slot << bits - geometry.top_bits
    is_long = geometry is not TWO_LEVEL
    return address | ((1 << 64) - (1 << bits) if is_long and address >> bits - 1 else 0)


def encode(mfn: int) -> int:
    """Return the read-only entry for a frame: a table, or at the last level a page."""
    return mfn << FRAME_SHIFT | _FLAGS


def encode_pae_root(mfn: int) -> int:
    """Return the entry of a PAE root: a frame and P, nothing else."""
    return mfn << FRAME_SHIFT | x86.PRESENT
