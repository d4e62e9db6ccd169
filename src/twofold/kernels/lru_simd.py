"""Exact LRU over sets that are rows of a vector register. Twin of `spec.lru_simd`; how: `_rows`.

`touch_rows_scalar` does the same one way at a time: what the vector form is measured against.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from twofold.formats.arrays import Halves
from twofold.kernels._jit import inner, kernel
from twofold.kernels._rows import FOUR, SIXTEEN, SIXTY_FOUR, RowOperations

ONE = np.uint64(1)
TAG_BYTES = 4


def _make_touch(operations: RowOperations) -> Callable[..., Any]:
    """Return the loop for rows of one width."""
    load, store, ways_of, moved = operations[1:5]
    row_bytes = np.uint64(operations.lanes * TAG_BYTES)

    @inner
    def touch(rows: Halves, ways: int, sets: Halves, tags: Halves) -> int:
        base, last, hits = np.uint64(rows.ctypes.data), ONE << np.uint64(ways - 1), 0
        for use in range(len(tags)):
            address = base + np.uint64(sets[use]) * row_bytes
            row = load(address)
            held = ways_of(row, tags[use])
            store(address, moved(row, tags[use], held, last))
            hits += np.int64(held != np.uint64(0))
        return hits

    return touch


_touch_4, _touch_16, _touch_64 = (_make_touch(each) for each in (FOUR, SIXTEEN, SIXTY_FOUR))


@kernel
def touch_rows(rows: Halves, ways: int, sets: Halves, tags: Halves) -> int:
    """Use tags in order, each in its set; return how many were there. Twin: spec.lru_simd.touch_rows."""
    if rows.shape[1] == 4:
        return _touch_4(rows, ways, sets, tags)
    if rows.shape[1] == 16:
        return _touch_16(rows, ways, sets, tags)
    return _touch_64(rows, ways, sets, tags)


@kernel
def touch_rows_scalar(rows: Halves, ways: int, sets: Halves, tags: Halves) -> int:
    """Use tags in order, one way at a time. Twin: spec.lru_simd.touch_rows_scalar."""
    hits = 0
    for use in range(len(tags)):
        number, carried = sets[use], tags[use]
        for way in range(ways):
            held = rows[number, way]
            rows[number, way] = carried
            if held == tags[use]:
                hits += 1
                break
            carried = held
    return hits
