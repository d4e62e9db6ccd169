"""The table formats by name: a P2M's (NPT in each paging mode, EPT), and a guest's own.

A `TableFormat` joins what Python asks of a format (encode a type, decode an entry) with what its twins ask (`shape`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import UnknownNameError
from twofold.formats import ept, legacy, shape, x86
from twofold.formats import guest as guest_format
from twofold.formats import npt as npt_format
from twofold.formats.arrays import Words
from twofold.formats.geometry import FIVE_LEVEL, FOUR_LEVEL, PAE, TWO_LEVEL, Geometry
from twofold.formats.p2m_types import ACCESS_NAMES, P2MType
from twofold.formats.walk_state import EXECUTE


@dataclass(frozen=True)
class TableFormat:
    """One format of P2M tables.

    Parameters
    ----------
    name : as in messages and files: "npt", "npt-5", "npt-pae", "npt-2", "ept", "ept-5"
    geometry : levels, index bits, leaf orders
    shape : what the twins take, uint64[shape.COLUMNS]
    flags : (type, access) to all bits of a 4K entry but its frame number
    type_of, access_of : of an entry, the stored type and the access as a name
    """

    name: str
    geometry: Geometry
    shape: Words = field(repr=False, compare=False)
    flags: Callable[[P2MType, str], int] = field(repr=False, compare=False)
    type_of: Callable[[int], P2MType] = field(repr=False, compare=False)
    access_of: Callable[[int], str] = field(repr=False, compare=False)

    @property
    def entry_dtype(self) -> type[np.uint32 | np.uint64]:
        """The NumPy type of an entry."""
        return np.uint32 if int(self.shape[shape.ENTRY_SHIFT]) == 2 else np.uint64

    @property
    def is_32_bit(self) -> bool:
        """Whether a 32-bit hypervisor uses it, whose tables stand below 4 GiB."""
        return self.geometry in {PAE, TWO_LEVEL}

    @property
    def small_limit(self) -> int:
        """First machine frame that a 4K leaf or a table entry cannot hold."""
        return int(self.shape[shape.SMALL_LIMIT])

    @property
    def large_limit(self) -> int:
        """First machine frame that a large leaf cannot hold."""
        return int(self.shape[shape.LARGE_LIMIT])

    @property
    def accesses(self) -> npt.NDArray[np.uint8]:
        """Access numbers (`p2m_types.ACCESS_NAMES`) by what a present entry says: ACCESS_MASK, no execute on top."""
        numbers = range(int(self.shape[shape.ACCESS_MASK]) + 1)
        if self.name.startswith("ept"):
            return np.array(numbers, np.uint8)
        shift = int(self.shape[shape.ACCESS_SHIFT])
        words = (number << shift | no_execute for no_execute in (0, x86.NO_EXECUTE) for number in numbers)
        return np.array([ACCESS_NAMES.index(self.access_of(x86.PRESENT | word)) for word in words], np.uint8)


def access_numbers(words: Words, entries: Words) -> npt.NDArray[np.int64]:
    """Return where in `TableFormat.accesses` each present entry says its access."""
    mask, is_denied = words[shape.ACCESS_MASK], (entries & words[shape.DENY + EXECUTE]) != 0
    numbers: Words = (entries >> words[shape.ACCESS_SHIFT] & mask) + np.where(is_denied, mask + np.uint64(1), 0)
    return numbers.astype(np.int64)


def _npt_flags(type_: P2MType, access: str) -> int:
    return npt_format.leaf_flags(type_, 0, access)


def _ept_flags(type_: P2MType, access: str) -> int:
    return ept.leaf_flags(type_, 0, access)


def _npt(name: str, geometry: Geometry, words: Words) -> TableFormat:
    return TableFormat(name, geometry, words, _npt_flags, npt_format.type_of, npt_format.access_of)


def _ept(name: str, geometry: Geometry, words: Words) -> TableFormat:
    return TableFormat(name, geometry, words, _ept_flags, ept.type_of, ept.access_of)


NPT: Final = _npt("npt", FOUR_LEVEL, npt_format.FOUR_LEVEL_SHAPE)
NPT_5: Final = _npt("npt-5", FIVE_LEVEL, npt_format.FIVE_LEVEL_SHAPE)
NPT_PAE: Final = TableFormat(
    "npt-pae", PAE, legacy.PAE_SHAPE, legacy.pae_flags, legacy.pae_type_of, npt_format.access_of
)
NPT_2: Final = TableFormat(
    "npt-2",
    TWO_LEVEL,
    legacy.TWO_LEVEL_SHAPE,
    legacy.two_level_flags,
    legacy.two_level_type_of,
    npt_format.access_of,
)
EPT: Final = _ept("ept", FOUR_LEVEL, ept.FOUR_LEVEL_SHAPE)
EPT_5: Final = _ept("ept-5", FIVE_LEVEL, ept.FIVE_LEVEL_SHAPE)
P2M_FORMATS: Final = {each.name: each for each in (NPT, NPT_5, NPT_PAE, NPT_2, EPT, EPT_5)}

# The NPT format follows the hypervisor's own paging mode.
NPT_OF_MODE: Final = {"4-level": NPT, "5-level": NPT_5, "pae": NPT_PAE, "2-level": NPT_2}
GUEST_SHAPES: Final = {
    "4-level": guest_format.FOUR_LEVEL_SHAPE,
    "pae": guest_format.PAE_SHAPE,
    "2-level": guest_format.TWO_LEVEL_SHAPE,
}

# Whether new entries have A and D set beforehand, or walks set them.
ACCESSED_DIRTY: Final = ("preset", "clear")


def with_marks(table_format: TableFormat, accessed_dirty: str) -> TableFormat:
    """Return a P2M format whose new entries have A and D "preset", or "clear".

    Raises
    ------
    UnknownNameError : neither
    """
    _check_marks(accessed_dirty)
    if accessed_dirty == "preset":
        return table_format
    words, flags = shape.with_clear_marks(table_format.shape), table_format.flags
    return replace(table_format, shape=words, flags=lambda type_, access: shape.unmarked(words, flags(type_, access)))


def guest_shape(mode: str, accessed_dirty: str) -> Words:
    """Return the shape of a guest's own tables whose new entries have A and D "preset", or "clear".

    Raises
    ------
    UnknownNameError : neither, or no such mode
    """
    _check_marks(accessed_dirty)
    if mode not in GUEST_SHAPES:
        raise UnknownNameError("guest mode", mode, tuple(GUEST_SHAPES))
    words = GUEST_SHAPES[mode]
    return words if accessed_dirty == "preset" else shape.with_clear_marks(words)


def _check_marks(accessed_dirty: str) -> None:
    if accessed_dirty not in ACCESSED_DIRTY:
        raise UnknownNameError("choice of A and D bits", accessed_dirty, ACCESSED_DIRTY)


def get_format(paging: str, table_format: str) -> TableFormat:
    """Return the P2M format of a machine's paging mode and a domain's `table_format`.

    Parameters
    ----------
    paging : "4-level", "5-level", "pae" or "2-level"
    table_format : "npt" (in the format of the paging mode), "ept" or "ept-5" (of 64-bit modes)

    Raises
    ------
    UnknownNameError : no such mode or format, or an EPT under a 32-bit hypervisor
    """
    if paging not in NPT_OF_MODE:
        raise UnknownNameError("paging mode", paging, tuple(NPT_OF_MODE))
    has_ept = not NPT_OF_MODE[paging].is_32_bit
    known = {"npt": NPT_OF_MODE[paging]} | ({"ept": EPT, "ept-5": EPT_5} if has_ept else {})
    if table_format not in known:
        raise UnknownNameError(f"table format of a {paging} machine", table_format, tuple(known))
    return known[table_format]
