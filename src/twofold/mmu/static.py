"""When the fast path may run, and what it works with.

The fast path (`kernels._mmu_static`) does loads over tables that do not change, with all structures exact LRU. All
else goes the general way (`kernels.mmu`); both count the same, bit for bit, and leave the same state behind.
"""

from typing import Final

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats import shape as form
from twofold.formats.arrays import Counts, Halves, Words
from twofold.kernels import _mmu_static as kernel
from twofold.kernels._mmu_regions import (
    GUEST_REGION_BITS,
    HOST_REGION_BITS,
    MAX_GUEST_LEVELS,
    MAX_LEVELS,
    MAX_REGIONS,
    NUMBER_MASK,
    RECORD_COLUMNS,
    SLOTS,
    Regions,
)
from twofold.kernels._mmu_rows import OWNER, Rows, give_rows, take_rows
from twofold.kernels._mmu_stages import BASE, FAMILY_COLUMNS, HITS, LAST, MASK
from twofold.kernels._mmu_static import Work
from twofold.kernels._rows import EMPTY
from twofold.kernels.lru_simd import touch_rows
from twofold.mmu.pieces import LEAST_PIECE, State, run_in_pieces

WIDTHS: Final = (4, 16, 64)  # lanes of a row
MAX_SETS: Final = 512  # of a TLB: more would take bits of a page number that its tag has not

LEAST_ACCESSES: Final = 1 << 15  # fewer do not pay for looking at the tables first
MAX_MEMORY_FRAMES: Final = 1 << 26  # 256 GiB: a line number has 32 bits
ALIGNMENT: Final = 64  # bytes: a row of sixteen lanes lies in one cache line
# The structures of each family, in the order of `kernels._mmu_static`; both lines are structures of one family.
FAMILIES: Final = (
    range(at.L1, at.L1_FETCH),
    range(at.L2, at.L2_FETCH),
    range(at.GUEST_TABLES, at.NESTED_TLB),
    range(at.NESTED_TLB, at.HOST_TABLES),
    range(at.HOST_TABLES, at.L2_LINES),
    range(at.L2_LINES, at.STRUCTURES),
)
LOOKED_UP_ALONE: Final = (kernel.L1, kernel.GUEST_CACHES, kernel.NESTED_TLB, kernel.HOST_CACHES)


def is_possible(memory: Words, shapes: Words, settings: Counts, structures: Counts) -> bool:
    """Return whether the fast path can take this CPU over tables of these formats."""
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


class FastPath:
    """The fast path over one MMU's arrays, which it shares.

    The state is in the arrays, or as rows while a run goes on: `take` and `give` bring it from one to the other.
    notes_lines : whether `first_lines` are noted
    """

    def __init__(
        self, memory: Words, shapes: Words, settings: Counts, state: State, *, notes_lines: bool = False
    ) -> None:
        self._work = make_work(state.structures, notes_lines=notes_lines)
        self._inputs = memory, shapes, settings
        self._state = state
        self._everything = memory, shapes, settings, *state, self._work.regions, self._work.rows
        self._others: list[FastPath] = []  # of the other threads

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
        self._forget_tables()
        if not self.take():
            return -1
        threads = min(threads, len(gvas) // LEAST_PIECE)
        if threads > 1:
            return run_in_pieces([self, *self._helpers(threads - 1)], gvas, counters)
        done = self.go_on(gvas, counters)
        if done == len(gvas):
            self.give()
        return done

    def go_on(self, gvas: Words, counters: Counts) -> int:
        """Access addresses from the state that is in the rows; return how many; fewer than all: rows are of no use."""
        memory, shapes, settings = self._inputs
        return int(kernel.run(memory, shapes, gvas, settings, counters, self._work))

    def take(self) -> bool:
        """Make rows of the arrays; return whether that could be done: each entry is of today's tables."""
        return bool(take_rows(*self._everything))

    def give(self) -> None:
        """Fill the arrays from the rows, which stay."""
        give_rows(*self._everything)

    def clear(self) -> None:
        """Begin with tables that were not looked at and structures that hold nothing."""
        self._forget_tables()
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

    def state(self) -> State:
        """Return a copy of the arrays."""
        return self._state.copy()

    def set(self, state: State) -> None:
        """Fill the arrays."""
        for mine, given in zip(self._state, state, strict=True):
            mine[...] = given

    def _helpers(self, count: int) -> "list[FastPath]":
        """Return so many paths with arrays of their own."""
        while len(self._others) < count:
            self._others.append(FastPath(*self._inputs, self.state(), notes_lines=True))
        return self._others[:count]

    def _forget_tables(self) -> None:
        """Forget what was seen of the tables, which may have changed since."""
        regions = self._work.regions
        used, reached = (int(count) for count in regions.counts)
        regions.ids[regions.briefs[:used] & NUMBER_MASK] = 0
        regions.host[:reached] = 0
        regions.counts[:] = 0


def _are_apart(structures: Counts) -> bool:
    """Return whether no two families share entries."""
    owners = [
        {int(structures[number, at.OFFSET]) for number in family if structures[number, at.WAYS]} for family in FAMILIES
    ]
    return sum(map(len, owners)) == len(set().union(*owners))


def make_work(structures: Counts, *, notes_lines: bool) -> Work:
    """Return what the fast path works with for these structures; memory that is not touched costs nothing."""
    families = np.zeros((len(FAMILIES), at.UPPER_LEVELS * FAMILY_COLUMNS), np.uint64)
    lanes, flags = np.zeros(len(FAMILIES), np.int64), np.zeros(len(FAMILIES), np.int64)
    places = np.zeros((at.STRUCTURES, 3), np.int64)
    first = WIDTHS[-1]  # the first row is that of absent structures
    for family, numbers in enumerate(FAMILIES):
        width = max(int(structures[number, at.WAYS]) for number in numbers)
        flags[family] = _flag(structures, family, numbers)
        # Rows of four are there for structures that are looked up alone.
        least = WIDTHS[0] if family in LOOKED_UP_ALONE and not flags[family] else WIDTHS[1]
        lanes[family] = next(each for each in WIDTHS if each >= max(width, least))
        first = _place(structures, numbers, int(lanes[family]), places, first)
    pool = _aligned(first)
    for family, numbers in enumerate(FAMILIES):
        for index, number in enumerate(numbers):
            here = slice(index * FAMILY_COLUMNS, (index + 1) * FAMILY_COLUMNS)
            families[family, here] = _describe(structures[number], pool, int(places[number, 0]))
    rows = Rows(pool, places, np.zeros(at.STRUCTURES, np.int64))
    is_noted = notes_lines and int(places[at.L3_LINES, OWNER])
    sets, ways = (int(structures[at.L3_LINES, column]) * is_noted for column in (at.SETS, at.WAYS))
    nested = kernel.BLOCK * kernel.MAX_NESTED + WIDTHS[0]  # the last copy of four may reach behind the last gpa
    halves = np.zeros((kernel.HALVES, nested), np.uint32)
    halves[kernel.NUMBERS] = np.arange(nested)
    return Work(
        regions=_make_regions(),
        rows=rows,
        families=families,
        lanes=lanes,
        flags=flags,
        pages=np.zeros(kernel.BLOCK, np.uint64),
        halves=halves,
        marks=np.zeros((kernel.MARKS, nested), np.uint8),
        lines=np.zeros((2, kernel.BLOCK * kernel.MAX_READS), np.uint32),
        table_counts=np.zeros((3, MAX_LEVELS), np.int64),
        room=np.zeros(sets, np.uint8),
        first_uses=np.zeros(sets * ways, np.uint32),
        counts=np.zeros(1, np.int64),
    )


def _place(structures: Counts, numbers: range, lanes: int, places: Counts, first: int) -> int:
    """Give the structures of a family their rows from lane `first` on; return the first lane behind them."""
    owners: dict[int, int] = {}  # by offset
    for number in numbers:
        offset, sets, ways = (int(structures[number, column]) for column in (at.OFFSET, at.SETS, at.WAYS))
        if ways and offset in owners:
            places[number] = places[owners[offset]]
            places[number, 2] = 0
        elif ways:
            owners[offset] = number
            places[number] = first, lanes, 1
            first += sets * lanes
    return first + -first % (ALIGNMENT // 4)


def _flag(structures: Counts, family: int, numbers: range) -> int:
    """Return what the kernel wants to know of a family; see `kernels._mmu_static.Work`."""
    present = structures[[number for number in numbers if structures[number, at.WAYS]]]
    owners = len(set(present[:, at.OFFSET].tolist()))
    if family == kernel.LINES:
        return int(owners > 0)
    if family in {kernel.GUEST_CACHES, kernel.HOST_CACHES}:
        return int(owners < len(present))
    return int(owners == 1 and len(present) == len(numbers) and int(present[0, at.SETS]) == 1)


def _describe(structure: Counts, pool: Halves, first: int) -> list[int]:
    """Return the row of a family for one structure; an absent one uses a row that nobody looks at."""
    row = [0] * FAMILY_COLUMNS
    ways = int(structure[at.WAYS])
    row[BASE] = pool.ctypes.data + first * pool.itemsize
    row[MASK] = int(structure[at.SETS]) - 1 if ways else 0
    row[LAST] = 1 << max(ways - 1, 0)
    row[HITS] = (1 << ways) - 1
    return row


def _aligned(lanes: int) -> Halves:
    """Return a pool of so many lanes that hold nothing, at the start of a cache line."""
    raw = np.full(lanes + ALIGNMENT, EMPTY, np.uint32)
    skip = -raw.ctypes.data % ALIGNMENT // raw.itemsize
    return raw[skip : skip + lanes]


def _make_regions() -> Regions:
    """Return what is known of the tables: nothing yet."""
    ids, host = 1 << GUEST_REGION_BITS, 1 << HOST_REGION_BITS
    return Regions(
        ids=np.zeros(ids, np.uint32),
        briefs=np.zeros(MAX_REGIONS, np.uint32),
        names=np.zeros(MAX_REGIONS, np.uint64),
        records=np.zeros((MAX_REGIONS, RECORD_COLUMNS), np.uint32),
        counts=np.zeros(2, np.int64),
        frames=np.zeros(MAX_REGIONS * SLOTS, np.uint32),
        host=np.zeros(host, np.uint64),
        host_tables=np.zeros((MAX_LEVELS, host // SLOTS), np.uint32),
    )
