"""Free memory as runs and as buddy blocks, and a seeded fragmenter that makes both.

A *run* is a maximal range of free frames. A *block* is what a buddy heap holds: a free, naturally aligned
extent of 2**order frames whose parent, the aligned extent of twice the length around it, is not wholly free:

    frames      0 1 2 3 4 5 6 7 8 9 a b
    free        . . # # # # # # # # # .      one run: start 2, 9 frames
    blocks          [1] [ -2- ] [1] 0        (2, order 1) (4, order 2) (8, order 1) (a, order 0)

Model of the fragmenter. F free frames are spread over orders so that blocks of order k or more hold the share
(1 - fragmentation) ** ((k / 9) ** 2) of them. Read at the page sizes: `fragmentation` is the share of the
free memory that lies below 2M, and (1 - fragmentation)**4 of it lies in 1G or more. 0 makes the largest
blocks that F allows, 1 makes single frames only, and for every order more fragmentation never gives more
memory in blocks that large. The square gives each order more memory than the next smaller one, as hosts'
buddy lists have it. One used frame spoils one block of each order, so with few used frames some free memory
stays in larger blocks than the model asks.
Left out: mobility types and per-CPU lists.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.units import MAX_HEAP_ORDER, ORDER_2M

Frames = npt.NDArray[np.uint64]
Orders = npt.NDArray[np.uint8]

_ORDER_BITS: Final = np.uint64(5)  # an order up to 20 under an mfn below 2**52: both sort as one word
_ORDER_MASK: Final = np.uint64(31)


def merge_blocks(mfns: Frames, orders: Orders) -> tuple[Frames, Frames]:
    """Return disjoint blocks, in any sequence, as ascending maximal runs (starts, frames)."""
    mfns, orders = sort_blocks(mfns, orders)
    ends = mfns + (np.uint64(1) << orders.astype(np.uint64))
    breaks = ends[:-1] != mfns[1:]
    starts = mfns[np.concatenate(([True], breaks))[: mfns.size]]
    return starts, ends[np.concatenate((breaks, [True]))[: mfns.size]] - starts


def sort_blocks(mfns: Frames, orders: Orders) -> tuple[Frames, Orders]:
    """Return the blocks by ascending mfn; sorting one packed word is faster than an index sort."""
    words = np.sort(mfns << _ORDER_BITS | orders.astype(np.uint64))
    return words >> _ORDER_BITS, (words & _ORDER_MASK).astype(np.uint8)


def peel_blocks(starts: Frames, frames: Frames, max_order: int) -> Iterator[tuple[int, Frames]]:
    """Yield (order, mfns) of the canonical buddy decomposition, smallest order first.

    Before each order both ends of every run are multiples of 2**order. An end whose bit `order` is set cannot
    be the border of anything larger, so the block at that end is peeled off; the next order finds both bits
    clear. What is left at `max_order` is cut into blocks of that order.
    """
    ends = starts + frames
    for order in range(max_order):
        step = np.uint64(1 << order)
        # with both bits set the ends are two blocks or more apart: none is peeled twice
        low, high = (starts & step).astype(bool), (ends & step).astype(bool)
        yield order, np.concatenate((starts[low], ends[high] - step))
        starts = starts + np.where(low, step, np.uint64(0))
        ends = ends - np.where(high, step, np.uint64(0))
        left = starts < ends
        starts, ends = starts[left], ends[left]
    # both ends are multiples of the largest block by now
    counts = (ends - starts) >> np.uint64(max_order)
    yield max_order, _cut(starts, counts, max_order)


def _cut(starts: Frames, counts: Frames, order: int) -> Frames:
    """Return the mfns of `counts[i]` adjacent blocks of this order from each `starts[i]` on."""
    firsts = np.cumsum(counts) - counts
    nth = np.arange(int(counts.sum()), dtype=np.uint64) - np.repeat(firsts, counts.astype(np.int64))
    return np.repeat(starts, counts.astype(np.int64)) + (nth << np.uint64(order))


def decompose(starts: Frames, frames: Frames, max_order: int = MAX_HEAP_ORDER) -> tuple[Frames, Orders]:
    """Return (mfns, orders) of the canonical buddy decomposition of runs, by ascending mfn."""
    parts = list(peel_blocks(starts, frames, max_order))
    orders = np.repeat([order for order, _ in parts], [mfns.size for _, mfns in parts])
    return sort_blocks(np.concatenate([mfns for _, mfns in parts]), orders.astype(np.uint8))


def plan_blocks(machine_frames: int, free_frames: int, fragmentation: float) -> list[int]:
    """Return how many blocks of each order 0..20 the model gives (see the module's page).

    Parameters
    ----------
    machine_frames, free_frames : the machine, and what of it is free [4 KiB frames]
    fragmentation : 0 (as large as possible) to 1 (as small as the used frames allow)

    Returns
    -------
    blocks : per order; they hold `free_frames` in all, and `place_blocks` can place them
    """
    extents = [free_frames]
    for order in range(1, MAX_HEAP_ORDER + 1):
        share = (1.0 - fragmentation) ** ((order / ORDER_2M) ** 2)
        extents.append(pair_extents(machine_frames, extents, int(free_frames * share) >> order))
    return extents_to_blocks(extents)


def pair_extents(machine_frames: int, extents: Sequence[int], wanted: int) -> int:
    """Return how many free extents the next order has: as near to `wanted` as can be.

    Parameters
    ----------
    machine_frames : the machine [4 KiB frames]
    extents : free aligned extents of the orders 0, 1, ... so far, each order counting those inside larger
        ones
    wanted : extents of the next order that the caller would like
    """
    order = len(extents)
    below = extents[-1]
    # Each pair of buddies can hide one free extent of the order below, and so can an odd last one.
    hideable = (machine_frames >> order) + (machine_frames >> (order - 1) & 1)
    return min(max(wanted, below - hideable, 0), below >> 1)


def extents_to_blocks(extents: Sequence[int]) -> list[int]:
    """Return blocks of each order from free aligned extents, which count those inside larger blocks."""
    larger = [*extents[1:], 0]
    return [here - 2 * above for here, above in zip(extents, larger, strict=True)]


def fits(machine_frames: int, blocks: Sequence[int]) -> bool:
    """Tell whether blocks of the orders 0..20 can stand in the machine with no two free buddies."""
    regions = 0
    for order in range(MAX_HEAP_ORDER, -1, -1):
        edges = _edge_regions(machine_frames, order).size
        # one half of each region may be a block; an edge region has no other half in the machine
        if blocks[order] > regions + edges:
            return False
        regions = 2 * regions + edges - blocks[order]
    return True


def place_blocks(machine_frames: int, blocks: Sequence[int], rng: np.random.Generator) -> tuple[Frames, Orders]:
    """Return (mfns, orders) of blocks at random places, no two of them buddies, in no set sequence.

    From the largest order down: an *open* region is aligned and not wholly free. Each is halved; at most one
    half of a region becomes a block, so no parent is ever wholly free and the decomposition finds exactly
    these blocks.

    Parameters
    ----------
    machine_frames : the machine [4 KiB frames]
    blocks : blocks of each order 0..20; `fits` holds
    """
    keep = _open_regions(machine_frames, blocks)
    opened = np.empty(0, dtype=np.uint64)
    placed = []
    for order in range(MAX_HEAP_ORDER, -1, -1):
        side = rng.integers(0, 2, opened.size, dtype=np.uint64) << np.uint64(order)
        halves = np.concatenate((opened + side, _edge_regions(machine_frames, order)))
        picks = rng.permutation(halves.size)
        placed.append(halves[picks[: blocks[order]]])
        # the other half of each region, whether or not this one became a block
        others = opened + (side ^ np.uint64(1 << order))
        rest = np.concatenate((halves[picks[blocks[order] :]], others))
        opened = rng.choice(rest, keep[order], replace=False, shuffle=False)
    orders = np.repeat(np.arange(MAX_HEAP_ORDER, -1, -1, dtype=np.uint8), [mfns.size for mfns in placed])
    return np.concatenate(placed), orders


def _edge_regions(machine_frames: int, order: int) -> Frames:
    """Return the mfns of aligned regions of this order that lie in no larger region of the machine."""
    if order == MAX_HEAP_ORDER:
        return np.arange(machine_frames >> order, dtype=np.uint64) << np.uint64(order)
    first = machine_frames >> (order + 1) << (order + 1)
    return np.full(machine_frames >> order & 1, first, dtype=np.uint64)


def _open_regions(machine_frames: int, blocks: Sequence[int]) -> list[int]:
    """Return how many regions of each order to halve further; the others are wholly used.

    Halving every region would cost one word for each used frame of the machine. Kept are as many as the
    smaller blocks need, and up to twice the blocks of the next order, so that which half is free stays a
    matter of chance.
    """
    keep = [0]
    free_frames = sum(count << order for order, count in enumerate(blocks))
    for order in range(1, MAX_HEAP_ORDER + 1):
        below = blocks[order - 1]
        # from here on: what is free in blocks of this order or more
        free_frames -= below << (order - 1)
        not_free = (machine_frames - free_frames) >> order
        # the odd region at the machine's end takes a block without any region to halve
        paired = below - (machine_frames >> (order - 1) & 1)
        # a region gives two halves, which the next order keeps open or uses as blocks
        need = max(paired, (keep[-1] + paired + 1) // 2, 0)
        keep.append(max(need, min(not_free, 2 * below)))
    return keep
