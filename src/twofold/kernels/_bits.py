"""The bits of `formats.x86` as kernels need them: uint64, so that Numba keeps an entry unsigned."""

import numpy as np

from twofold.formats import x86
from twofold.units import FRAME_SHIFT

ZERO, ONE = np.uint64(0), np.uint64(1)
SHIFT = np.uint64(FRAME_SHIFT)
ENTRY_SHIFT = np.uint64(x86.ENTRY_SHIFT)
INDEX_BITS = np.uint64(x86.INDEX_BITS)
INDEX_MASK = np.uint64(x86.INDEX_MASK)
FRAME_MASK = np.uint64(x86.FRAME_MASK)
PRESENT = np.uint64(x86.PRESENT)
LARGE = np.uint64(x86.LARGE)
RESERVED_2M = np.uint64(x86.RESERVED_2M)
RESERVED_1G = np.uint64(x86.RESERVED_1G)
