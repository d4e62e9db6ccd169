"""The way through the block simulator: whether an MMU can take it, and a whole trace on it, by one thread or several.

It does loads over tables that do not change, with all structures exact LRU. All else goes the general way
(`kernels.mmu`); both count the same, bit for bit, and leave the same state behind (docs/blocks.md).
"""

from typing import Final

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats import shape as form
from twofold.formats.arrays import Counts, Words
from twofold.formats.operands import Caches
from twofold.kernels._rows import WIDTHS
from twofold.kernels.blocks.regions import MAX_GUEST_LEVELS
from twofold.mmu.block_simulator import BlockSimulator
from twofold.mmu.block_work import FAMILIES
from twofold.mmu.pieces import LEAST_PIECE, run_in_pieces

MAX_SETS: Final = 512  # of a TLB: more would take bits of a page number that its tag has not

LEAST_ACCESSES: Final = 1 << 15  # fewer do not pay for looking at the tables first
MAX_MEMORY_FRAMES: Final = 1 << 26  # 256 GiB: a line number has 32 bits


def takes(memory: Words, shapes: Words, settings: Counts, structures: Counts) -> bool:
    """Return whether the block simulator takes this CPU over tables of these formats."""
    used = structures[[number for family in FAMILIES for number in family]]
    used = used[used[:, at.WAYS] > 0]
    sets = np.where(used[:, at.OFFSET] >= structures[at.L2_LINES, at.OFFSET], 1, used[:, at.SETS])  # lines may have any
    is_plain = (used[:, at.POLICY] == at.LRU) & (used[:, at.WAYS] <= WIDTHS[-1]) & (sets & (sets - 1) == 0)
    if not is_plain.all() or settings[at.MARKS] or not _are_apart(structures):
        return False
    # Repeated accesses to a page are hits in the L1 TLB, so there must be one for every size.
    if (structures[at.L1 : at.L1_FETCH, at.WAYS] == 0).any() or len(memory) >= MAX_MEMORY_FRAMES:
        return False
    if (structures[at.L1 : at.GUEST_TABLES, at.SETS] > MAX_SETS).any() or shapes[0, form.LEVELS] > MAX_GUEST_LEVELS:
        return False
    return all(_is_plain_format(shape, settings) for shape in shapes[: 2 if settings[at.NESTED] else 1])


def _is_plain_format(shape: Words, settings: Counts) -> bool:
    """Return whether tables of this format have 64-bit entries, all of which walks read from memory."""
    is_loaded = settings[at.ROOTS_LOADED] and shape[form.ROOT_EXEMPT]
    return int(shape[form.BITS]) == at.SIZE_ORDER and not is_loaded


class BlockPath:
    """Traces of loads through the block simulator, over one MMU's arrays, which it shares."""

    def __init__(self, memory: Words, shapes: Words, settings: Counts, state: Caches) -> None:
        self._simulators = [BlockSimulator(memory, shapes, settings, state)]  # one for each thread that was ever used

    def run(self, gvas: Words, counters: Counts, threads: int = 1) -> int:
        """Access every address of a trace of loads in order; return how many were done.

        Parameters
        ----------
        threads : that may work on it; what is counted is the same, bit for bit

        Returns
        -------
        done : all of them; or fewer, and the state is as it was, and counters are of no use; -1 when the state cannot
            be taken: an entry is stale, or out of reach
        """
        simulator = self._simulators[0]
        simulator.forget_tables()
        if not simulator.take():
            return -1
        threads = min(threads, len(gvas) // LEAST_PIECE)
        if threads > 1:
            return run_in_pieces(self._for_threads(threads), gvas, counters)
        done = simulator.go_on(gvas, counters)
        if done == len(gvas):
            simulator.give()
        return done

    def _for_threads(self, threads: int) -> list[BlockSimulator]:
        """Return so many simulators: the first over the MMU's arrays, the others over arrays of their own."""
        while len(self._simulators) < threads:
            self._simulators.append(self._simulators[0].another())
        return self._simulators[:threads]


def _are_apart(structures: Counts) -> bool:
    """Return whether no two families share entries."""
    owners = [
        {int(structures[number, at.OFFSET]) for number in family if structures[number, at.WAYS]} for family in FAMILIES
    ]
    return sum(map(len, owners)) == len(set().union(*owners))
