"""Names for the arrays that both twins, `spec` and `kernels`, work on."""

from typing import cast

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]  # entries, tables (uint64[frames, 512]), frame numbers, addresses
Counts = npt.NDArray[np.int64]  # counters and small tables of geometry
Halves = npt.NDArray[np.uint32]  # links of the heap's lists
Owners = npt.NDArray[np.uint16]  # domids
Bytes = npt.NDArray[np.uint8]  # text
Rows = npt.NDArray[np.void]  # records
Marks = npt.NDArray[np.uint8]  # small numbers: orders, levels, uses


def as_word(number: int) -> int:
    """Return a number as uint64, for a kernel's scalar that must be unsigned.

    Numba compiles a kernel for each type that it is called with, and takes an int as signed. Its type here is the one
    that the signatures of both twins say.
    """
    return cast("int", np.uint64(number))
