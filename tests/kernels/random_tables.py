"""P2Ms in plain arrays, one an engine, and random lives for them."""

import numpy as np
from hypothesis import strategies as st

from twofold import kernels, spec
from twofold.formats import npt, x86
from twofold.formats import p2m_state as at
from twofold.formats.npt import P2MType

CAPACITY = 40
LIMIT = 1 << 36
TYPES = [P2MType.RAM_RW, P2MType.RAM_RO, P2MType.RAM_LOGDIRTY, P2MType.GRANT_MAP_RO, P2MType.MMIO_DIRECT]


class Tables:
    """Memory, stock and state of one P2M; leaves map frames that need not exist."""

    def __init__(self, engine, sizes: int, capacity: int = CAPACITY) -> None:
        self.engine = engine
        self.memory = np.zeros((capacity, 512), np.uint64)
        self.stock = np.arange(capacity, dtype=np.uint64)[::-1].copy()
        self.state = np.zeros(at.COLUMNS, np.int64)
        self.state[at.FREE], self.state[at.SIZES] = capacity, sizes
        self.root = int(engine.p2m.take(self.stock, self.state))

    def content(self) -> tuple[bytes, bytes, list[int]]:
        return self.memory.tobytes(), self.stock.tobytes(), self.state.tolist()

    def plan_map(self, pieces, extent_frames: int, free: int | None = None) -> int:
        """Return the extents that fit, as if `free` tables were in the stock."""
        state = self.state.copy()
        if free is not None:
            state[at.FREE] = free
        before = self.content()
        fitting = self.engine.p2m.plan_map(self.memory, self.root, state, *pieces, extent_frames)
        assert self.content() == before, "a plan changes nothing"
        return int(fitting)

    def map(self, pieces, flags: int) -> None:
        self.engine.p2m.map_pieces(self.memory, self.root, self.stock, self.state, *pieces, np.uint64(flags))

    def unmap(self, gfn: int, frames: int) -> int:
        """Unmap when the tables suffice; return the need."""
        need = int(self.engine.p2m.plan_unmap(self.memory, self.root, self.state, gfn, frames))
        if need <= self.state[at.FREE]:
            before = int(self.state[at.ALLOCATED])
            self.engine.p2m.unmap(self.memory, self.root, self.stock, self.state, gfn, frames)
            assert self.state[at.ALLOCATED] - before == need, "the plan counts exactly"
        return need

    def split(self, gfn: int, level: int) -> int:
        """Split when the tables suffice; return the need."""
        need = int(self.engine.p2m.plan_split(self.memory, self.root, self.state, gfn, level))
        if need <= self.state[at.FREE]:
            before = int(self.state[at.ALLOCATED])
            self.engine.p2m.split(self.memory, self.root, self.stock, self.state, gfn, level)
            assert self.state[at.ALLOCATED] - before == need, "the plan counts exactly"
        return need

    def release(self) -> None:
        self.engine.p2m.release(self.stock, self.state)

    def leaves(self) -> dict[int, tuple[int, int]]:
        """Return {gfn: (level, entry)} by a plain recursion over the tables."""
        found: dict[int, tuple[int, int]] = {}
        self._collect(self.root, 3, 0, found)
        return found

    def _collect(self, table: int, level: int, gfn: int, found: dict[int, tuple[int, int]]) -> None:
        for slot in np.flatnonzero(self.memory[table]).tolist():
            entry, here = int(self.memory[table, slot]), gfn + (slot << 9 * level)
            if x86.is_leaf(entry, level):
                found[here] = level, entry
            else:
                self._collect(x86.frame_of(entry), level - 1, here, found)


def make_pieces(pieces, masks):
    """Return gfns, mfns, frames and masks as kernels take them."""
    table = np.array(pieces, np.uint64).reshape(-1, 3)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy(), np.array(masks, np.int64)


BASES = st.sampled_from([0, 1 << 9, 1 << 18, 2 << 18, (1 << 27) - (1 << 18), 1 << 27, LIMIT - (1 << 18)])
OFFSETS = st.one_of(
    st.just(0), st.integers(0, 3).map(lambda n: n << 9), st.integers(0, 1100), st.sampled_from([511, 512, 513])
)
GFNS = st.builds(lambda base, offset: base + offset, BASES, OFFSETS)
LENGTHS = st.one_of(
    st.sampled_from([1, 2, 511, 512, 513, 1024, 4096, 1 << 18, (1 << 18) + 512, 3 << 18]), st.integers(1, 2000)
)
# (gfn, distance of the mfn, frames, level mask): a distance of 0, 2M or 1G keeps large leaves possible.
PIECES = st.tuples(
    GFNS,
    st.sampled_from([0, 1 << 18, 5 << 18, 1 << 9, 7 << 9, 1, 37]),
    LENGTHS,
    st.sampled_from([7, 7, 3, 1, 5]),
)
SIZES = st.sampled_from([1, 3, 5, 7, 7])
MAP = st.tuples(st.just("map"), st.lists(PIECES, min_size=1, max_size=3), st.sampled_from(TYPES))
UNMAP = st.tuples(st.just("unmap"), GFNS, LENGTHS)
SPLIT = st.tuples(st.just("split"), GFNS, st.integers(0, 2))
LIVES = st.lists(st.one_of(MAP, MAP, UNMAP, SPLIT), min_size=1, max_size=12)


def live(tables: Tables, step) -> object:
    """Do one step of a life; return what it answers."""
    if step[0] == "map":
        sizes, end, pieces, masks = int(tables.state[at.SIZES]), 0, [], []
        for gfn, distance, frames, mask in sorted(step[1]):
            start = max(gfn, end)
            length = min(frames, LIMIT - start)
            if length > 0:
                pieces.append((start, start + distance, length))
                masks.append(mask & sizes | 1)
                end = start + length
        arrays = make_pieces(pieces, masks)
        fitting = tables.plan_map(arrays, 1)
        if fitting == sum(length for _, _, length in pieces):
            before = int(tables.state[at.ALLOCATED])
            free = int(tables.state[at.FREE])
            need = exact_need(tables, arrays, fitting, free)
            tables.map(arrays, npt.leaf_flags(step[2], 0))
            assert tables.state[at.ALLOCATED] - before == need, "the plan counts exactly"
        answer = fitting
    elif step[0] == "unmap":
        answer = tables.unmap(step[1], min(step[2], LIMIT - step[1]))
    else:
        answer = tables.split(step[1], step[2])
    tables.release()
    tables.state[at.REPLACED] = 0
    return answer


def exact_need(tables: Tables, arrays, whole: int, free: int) -> int:
    """Return the least number of free tables with which the plan still lets everything be mapped."""
    low, high = 0, free
    while low < high:
        middle = (low + high) // 2
        if tables.plan_map(arrays, 1, middle) == whole:
            high = middle
        else:
            low = middle + 1
    return low


def twins(sizes: int, capacity: int = CAPACITY) -> tuple[Tables, Tables]:
    """Return an empty P2M for each engine."""
    return Tables(spec, sizes, capacity), Tables(kernels, sizes, capacity)
