"""Names for the arrays that both twins, `spec` and `kernels`, work on."""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]  # entries, tables (uint64[frames, 512]), frame numbers, addresses
Counts = npt.NDArray[np.int64]  # counters and small tables of geometry
Halves = npt.NDArray[np.uint32]  # links of the heap's lists
Owners = npt.NDArray[np.uint16]  # domids
Bytes = npt.NDArray[np.uint8]  # text
Rows = npt.NDArray[np.void]  # records
Marks = npt.NDArray[np.uint8]  # small numbers: orders, levels, uses
