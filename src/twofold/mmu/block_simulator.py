"""The block simulator over the arrays of one MMU, for one thread: its state as arrays, or as rows of tags.

`kernels.blocks` does the work. Its structures are rows while a run goes on: `take` makes them of the arrays that the
general path uses (`formats.mmu_state`), `give` fills the arrays again.
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.formats.operands import Caches
from twofold.kernels import blocks
from twofold.kernels._rows import EMPTY
from twofold.kernels.blocks.regions import NUMBER_MASK
from twofold.kernels.blocks.state import OWNER
from twofold.kernels.lru_simd import touch_rows
from twofold.mmu.block_work import make_work


class BlockSimulator:
    """The block simulator over one MMU's arrays, which it shares.

    notes_lines : whether `first_lines` are noted
    """

    def __init__(
        self, memory: Words, shapes: Words, settings: Counts, state: Caches, *, notes_lines: bool = False
    ) -> None:
        self._work = make_work(state.structures, notes_lines=notes_lines)
        self._inputs = memory, shapes, settings
        self._state = state
        self._everything = memory, shapes, settings, *state, self._work.regions, self._work.rows

    def go_on(self, gvas: Words, counters: Counts) -> int:
        """Access addresses from the state that is in the rows; return how many; fewer than all: rows are of no use."""
        memory, shapes, settings = self._inputs
        return int(blocks.run(memory, shapes, gvas, settings, counters, self._work))

    def take(self) -> bool:
        """Make rows of the arrays; return whether that could be done: each entry is of today's tables."""
        return bool(blocks.take_rows(*self._everything))

    def give(self) -> None:
        """Fill the arrays from the rows, which stay."""
        blocks.give_rows(*self._everything)

    def clear(self) -> None:
        """Begin with tables that were not looked at and structures that hold nothing."""
        self.forget_tables()
        self._state.tags[:] = 0
        self._state.structures[:, at.INSERTED] = 0
        self.empty_from(0)

    def empty_from(self, first: int) -> None:
        """Empty the rows of the structures from a number on."""
        for number in range(first, at.STRUCTURES):
            lane, lanes, is_owner = (int(column) for column in self._work.rows.places[number])
            if is_owner:
                self._work.rows.pool[lane : lane + lanes * int(self._state.structures[number, at.SETS])] = EMPTY
        self._work.rows.inserted[first:] = 0

    def empty_lines(self) -> None:
        """Empty the L3 cache of lines, and begin to note what comes to it first."""
        self.empty_from(at.L3_LINES)
        self._work.room[:] = self._state.structures[at.L3_LINES, at.WAYS]
        self._work.counts[0] = 0

    def first_lines(self) -> Halves:
        """Return the lines that came to where nothing was, in order."""
        return self._work.first_uses[: self._work.counts[0]].copy()

    def find_lines(self, lines: Halves) -> int:
        """Return how many lines the L3 cache of the state in the arrays has, when they come to it one after another."""
        if len(lines) == 0:
            return 0
        self.take()
        lane, lanes, _ = (int(column) for column in self._work.rows.places[at.L3_LINES])
        sets, ways = (int(self._state.structures[at.L3_LINES, column]) for column in (at.SETS, at.WAYS))
        rows = self._work.rows.pool[lane : lane + sets * lanes].reshape(sets, lanes)
        return int(touch_rows(rows, ways, lines % np.uint32(sets), lines))

    def read_cycles(self, place: int) -> int:
        """Return what a table read costs that the L2 cache (0), the L3 cache (1) or memory (2) serves [cycles]."""
        return int(self._inputs[2][at.READ_CYCLES + place])

    @property
    def owners(self) -> list[int]:
        """Return the numbers of the structures that have rows of their own."""
        return [int(number) for number in np.flatnonzero(self._work.rows.places[:, OWNER])]

    def state(self) -> Caches:
        """Return a copy of the arrays."""
        return self._state.copy()

    def set(self, state: Caches) -> None:
        """Fill the arrays."""
        for mine, given in zip(self._state, state, strict=True):
            mine[...] = given

    def another(self) -> "BlockSimulator":
        """Return one over a copy of the arrays, for another thread, which notes `first_lines`."""
        return BlockSimulator(*self._inputs, self.state(), notes_lines=True)

    def forget_tables(self) -> None:
        """Forget what was seen of the tables, which may have changed since."""
        regions = self._work.regions
        used, reached = (int(count) for count in regions.counts)
        regions.ids[regions.briefs[:used] & NUMBER_MASK] = 0
        regions.host[:reached] = 0
        regions.counts[:] = 0
