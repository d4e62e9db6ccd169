"""The ranges of a P2M whose page size somebody insists on: merging leaves them alone."""

from bisect import bisect_right
from collections.abc import Iterator


class ExactRanges:
    """Disjoint ranges of gfns, each with the order of its leaves, ascending."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, int]] = []  # first gfn, gfn after the last, order

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return iter(self._ranges)

    def add(self, gfn: int, frames: int, order: int) -> None:
        """Insist on an order for a range; what was said of it before no longer counts."""
        self.drop(gfn, frames)
        place = bisect_right(self._starts, gfn)
        first, end, stop = gfn, gfn + frames, place
        if place and self._ranges[place - 1][1:] == (gfn, order):  # neighbours of one order are one range
            place -= 1
            first = self._ranges[place][0]
        if stop < len(self._ranges) and self._ranges[stop][::2] == (end, order):
            end = self._ranges[stop][1]
            stop += 1
        self._starts[place:stop] = [first]
        self._ranges[place:stop] = [(first, end, order)]

    def drop(self, gfn: int, frames: int) -> None:
        """Insist on nothing in a range any more."""
        if not self._ranges:
            return
        kept = []
        for first, end, order in self._ranges:
            if first < gfn:
                kept.append((first, min(end, gfn), order))
            if end > gfn + frames:
                kept.append((max(first, gfn + frames), end, order))
        self._ranges = [(first, end, order) for first, end, order in kept if first < end]
        self._starts = [first for first, _, _ in self._ranges]

    def allowed_parts(self, gfn: int, end: int, order: int) -> Iterator[tuple[int, int]]:
        """Yield (first gfn, gfn after the last) of the parts of a range where a leaf of this order may stand.

        gfn, end : multiples of the order's size; those of the parts are, too
        """
        for first, stop, insisted in self._ranges:
            if insisted >= order or stop <= gfn:
                continue
            if first >= end:
                break
            if first >> order << order > gfn:
                yield gfn, first >> order << order
            gfn = -(-stop >> order) << order
        if gfn < end:
            yield gfn, end

    def forbids(self, gfn: int, order: int) -> bool:
        """Return whether a leaf of this order at `gfn` would be larger than what a range in it insists on."""
        place = bisect_right(self._starts, gfn + (1 << order) - 1)
        while place:
            place -= 1
            _, end, insisted = self._ranges[place]
            if end <= gfn:
                return False
            if insisted < order:
                return True
        return False
