"""Pictures as arrays: memory along a Hilbert curve, each cell a small number that the report gives a colour.

Along the curve neighbouring frames stay neighbours, so a contiguous range is a patch and not a line.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.freemaps import FreeMap
from twofold.units import ORDER_1G, ORDER_2M

Picture = npt.NDArray[np.uint8]
SIDE_BITS: Final = 7  # 128 x 128 cells
NOTHING, SMALL, MIDDLE, LARGE = range(4)  # nothing there; less than 2M; 2M up to 1G; 1G and more


def hilbert(side_bits: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (x, y) of every cell of a square of 2**side_bits, in the order of the curve.

    Source: Butz's algorithm in its common iterative form, two bits of the index a step.
    """
    index = np.arange(1 << (2 * side_bits))
    x, y, rest = np.zeros_like(index), np.zeros_like(index), index.copy()
    for bit in range(side_bits):
        size = 1 << bit
        right = 1 & (rest >> 1)
        up = 1 & (rest ^ right)
        flip = (up == 0) & (right == 1)
        x, y = np.where(flip, size - 1 - x, x), np.where(flip, size - 1 - y, y)
        x, y = np.where(up == 0, y, x), np.where(up == 0, x, y)
        x, y, rest = x + size * right, y + size * up, rest >> 2
    return x, y


def along_curve(cells: npt.NDArray[np.uint8]) -> Picture:
    """Return a square picture of cells that are given in the order of the curve."""
    x, y = hilbert(SIDE_BITS)
    picture = np.zeros((1 << SIDE_BITS, 1 << SIDE_BITS), np.uint8)
    picture[y, x] = cells
    return picture


def p2m_picture(domain: Domain) -> Picture:
    """Return a P2M from gfn 0 to the end of RAM: a cell shows the leaf that maps its middle."""
    count = 1 << (2 * SIDE_BITS)
    middles = (2 * np.arange(count) + 1) * domain.layout.ram(domain.frames)[-1].end // (2 * count)
    leaves = domain.p2m.leaf_array()
    found = np.searchsorted(leaves["gfn"], middles.astype(np.uint64), "right") - 1
    orders = leaves["order"][np.maximum(found, 0)].astype(np.int64)
    inside = (found >= 0) & (middles < leaves["gfn"][np.maximum(found, 0)].astype(np.int64) + (1 << orders))
    return along_curve(np.where(inside, _size_codes(orders), NOTHING).astype(np.uint8))


def _size_codes(orders: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return what a cell shows for leaves or blocks of these orders, whichever format they are of."""
    return np.where(orders >= ORDER_1G, LARGE, np.where(orders >= ORDER_2M, MIDDLE, SMALL)).astype(np.uint8)


def free_picture(free: FreeMap) -> Picture:
    """Return a machine's memory from mfn 0 on: a cell shows the largest free block that it holds a part of."""
    count = 1 << (2 * SIDE_BITS)
    mfns, orders = free.decompose()
    starts = mfns.astype(np.int64)
    kind = _size_codes(orders.astype(np.int64))
    first = starts * count // free.machine_frames
    last = ((starts + (1 << orders.astype(np.int64))) * count - 1) // free.machine_frames
    cells = np.zeros(count, np.uint8)
    np.maximum.at(cells, first, kind)
    for block in np.flatnonzero(last > first).tolist():  # only blocks that are larger than a cell
        part = cells[first[block] : last[block] + 1]
        np.maximum(part, kind[block], out=part)
    return along_curve(cells)
