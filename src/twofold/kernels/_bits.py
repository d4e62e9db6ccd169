"""The bits of `formats.x86` as kernels need them: uint64, so that Numba keeps an entry unsigned."""

import numpy as np

from twofold.formats import npt, x86
from twofold.units import FRAME_SHIFT

ZERO, ONE = np.uint64(0), np.uint64(1)
SHIFT = np.uint64(FRAME_SHIFT)
ENTRY_SHIFT = np.uint64(x86.ENTRY_SHIFT)
INDEX_BITS = np.uint64(x86.INDEX_BITS)
INDEX_MASK = np.uint64(x86.INDEX_MASK)
FRAME_MASK = np.uint64(x86.FRAME_MASK)
PRESENT = np.uint64(x86.PRESENT)
WRITABLE = np.uint64(x86.WRITABLE)
USER = np.uint64(x86.USER)
LARGE = np.uint64(x86.LARGE)
LARGE_PAT = np.uint64(x86.LARGE_PAT)
PAT = np.uint64(x86.PAT)
NO_EXECUTE = np.uint64(x86.NO_EXECUTE)
RESERVED_2M = np.uint64(x86.RESERVED_2M)
RESERVED_1G = np.uint64(x86.RESERVED_1G)
TABLE_FLAGS = np.uint64(npt.TABLE_FLAGS)
