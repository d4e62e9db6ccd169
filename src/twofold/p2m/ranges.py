"""Ranges of gfns as two arrays, first gfns and frames: joined, cut out of each other, compared.

"Apart" means ascending, and neither overlapping nor touching.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.units import INVALID_GFN

Array = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.int64]
_END: Final = np.uint64(INVALID_GFN)  # beyond every gfn


class Ranges(NamedTuple):
    """Ranges of gfns: range i has frames[i] of them, from gfns[i] on."""

    gfns: Array
    frames: Array

    @property
    def ends(self) -> Array:
        """The first gfn behind each."""
        return self.gfns + self.frames


NONE: Final = Ranges(np.empty(0, np.uint64), np.empty(0, np.uint64))


def one_range(gfn: int, frames: int) -> Ranges:
    """Return a single range."""
    return Ranges(np.array((gfn,), np.uint64), np.array((frames,), np.uint64))


def every_gfn(ranges: Ranges) -> Array:
    """Return every gfn of ranges, one range after the other."""
    gfns, frames = ranges
    lengths = frames.astype(np.int64)
    inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    numbers: Array = np.repeat(gfns, lengths) + inside.astype(np.uint64)
    return numbers


def joined(parts: list[Ranges]) -> Ranges:
    """Return all ranges of several, as they are."""
    if len(parts) == 1:
        return parts[0]
    return Ranges(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) if parts else NONE


def apart(ranges: Ranges) -> Ranges:
    """Return what ranges cover together, as ranges that are apart."""
    gfns, frames = ranges
    if len(gfns) < 2:
        return Ranges(gfns[frames > 0], frames[frames > 0])
    if (gfns[1:] < gfns[:-1]).any():
        if (frames == frames[0]).all():
            gfns = np.sort(gfns)  # a fifth of the time of finding the order
        else:
            order = np.argsort(gfns, kind="stable")
            gfns, frames = gfns[order], frames[order]
    ends = np.maximum.accumulate(gfns + frames)
    firsts = np.flatnonzero(np.concatenate([[True], gfns[1:] > ends[:-1]]))
    starts, stops = gfns[firsts], ends[np.concatenate([firsts[1:] - 1, [len(gfns) - 1]])]
    return Ranges(starts[stops > starts], (stops - starts)[stops > starts])


def common(one: Ranges, other: Ranges) -> tuple[Indexes, Indexes, Ranges]:
    """Return every part that a range of the one and a range of the other share: (index in one, in other, part).

    one : ascending, none overlapping another;  other : likewise
    """
    first = np.searchsorted(other.ends, one.gfns, "right")
    counts = np.maximum(np.searchsorted(other.gfns, one.ends, "left") - first, 0)
    mine = np.repeat(np.arange(len(one.gfns)), counts)
    theirs = np.arange(len(mine)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    starts = np.maximum(one.gfns[mine], other.gfns[theirs])
    ends = np.minimum(one.ends[mine], other.ends[theirs])
    return mine, theirs, Ranges(starts, ends - starts)


def without(ranges: Ranges, taken: Ranges) -> Ranges:
    """Return what some ranges that are apart cover and others do not."""
    starts = np.concatenate([np.zeros(1, np.uint64), taken.ends])
    ends = np.concatenate([taken.gfns, [_END]])
    return common(ranges, Ranges(starts, ends - starts))[2]


def rounded(ranges: Ranges, orders: npt.NDArray[np.uint8]) -> Ranges:
    """Return each range extended to whole leaves of its order."""
    inside = (np.uint64(1) << orders.astype(np.uint64)) - np.uint64(1)
    starts = ranges.gfns & ~inside
    return Ranges(starts, (ranges.ends + inside & ~inside) - starts)
