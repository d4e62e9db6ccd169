"""The pages that a trace touches, each once: few passes over them, and memory for no more than are told apart."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from twofold.trace.accesses import Gvas
from twofold.units import FRAME_SHIFT, Order

MAX_PAGES: Final = 1 << 24  # that are told apart: 64 GiB of 4K pages, 128 MiB of numbers
INDEX_BITS: Final = 9  # from a page size to the next
_FEWEST: Final = 1 << 9  # page numbers that are worth a merge
_MOST_WAITING: Final = 1 << 22  # 32 MiB of them


class PageSet:
    """Page numbers, each once, ascending; of larger pages when there are too many.

    Parameters
    ----------
    order : of the pages; it grows
    most : numbers that are told apart
    """

    def __init__(self, order: Order, most: int) -> None:
        self.order = int(order)
        self._most = most
        self._numbers = np.empty(0, np.uint64)
        self._waiting: list[Gvas] = []
        self._rows = 0  # that wait

    def add(self, gvas: Gvas) -> None:
        """Add the pages that hold these addresses."""
        self._waiting.append(_distinct(gvas >> np.uint64(FRAME_SHIFT + self.order)))
        self._rows += len(self._waiting[-1])
        if self._rows >= min(max(len(self._numbers), _FEWEST), _MOST_WAITING):  # so that few merges sort all of them
            self._merge()

    def numbers(self) -> Gvas:
        """Return the page numbers, ascending."""
        self._merge()
        return self._numbers

    def _merge(self) -> None:
        self._numbers = np.concatenate([self._numbers, *self._waiting])  # the old ones are freed before more is taken
        self._waiting, self._rows = [], 0
        self._numbers.sort()
        self._numbers = _without_repeats(self._numbers)
        while len(self._numbers) > self._most:
            self.order += INDEX_BITS
            self._numbers = _without_repeats(self._numbers >> np.uint64(INDEX_BITS))


def distinct_pages(blocks: Iterable[Gvas], order: Order, most: int) -> Gvas | None:
    """Return the numbers of the pages of an order that hold an address of the blocks, ascending, each once.

    Returns
    -------
    numbers : None when there are more than `most`; the rest of the blocks is not read then
    """
    pages = PageSet(order, most)
    for gvas in blocks:
        pages.add(gvas)
        if pages.order != order:
            return None
    numbers = pages.numbers()
    return numbers if pages.order == order else None


def _distinct(numbers: Gvas) -> Gvas:
    """Return what `np.unique` does; sorting first is measured 16 times as fast on a block of a trace."""
    return _without_repeats(np.sort(_without_repeats(numbers)))


def _without_repeats(numbers: Gvas) -> Gvas:
    """Return the numbers that differ from the one before."""
    return numbers[np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]])[: len(numbers)])]
