"""P2Ms in plain arrays, one an engine, in every table format, and random lives for them."""

import numpy as np
from hypothesis import strategies as st

from twofold import kernels, spec
from twofold.formats import operands
from twofold.formats import p2m_state as at
from twofold.formats import shape as form
from twofold.formats.p2m_types import P2MType
from twofold.formats.table_formats import NPT, P2M_FORMATS, TableFormat

CAPACITY = 40
TYPES = [P2MType.RAM_RW, P2MType.RAM_RO, P2MType.RAM_LOGDIRTY, P2MType.GRANT_MAP_RW, P2MType.MMIO_DIRECT]
PLACES = [P2MType.POPULATE_ON_DEMAND, P2MType.RAM_BROKEN]
FORMATS = st.sampled_from(list(P2M_FORMATS.values()))
PLAIN = "sizes", False, False  # where splits may stop, whether empty tables stay, whether whole requests are aligned
UNMERGEABLE = 1 << P2MType.IOREQ_SERVER


class Tables:
    """Memory, stock and state of one P2M; leaves map frames that need not exist."""

    def __init__(self, engine, table_format: TableFormat, sizes: int | tuple = 7, capacity: int = CAPACITY) -> None:
        self.engine, self.format, self.shape = engine, table_format, table_format.shape
        self.bits = table_format.geometry.index_bits
        self.levels = table_format.geometry.levels
        self.limit = table_format.geometry.frame_limit
        self.memory = np.zeros((capacity, 1 << self.bits), table_format.entry_dtype)
        self.stock = np.arange(capacity, dtype=np.uint64)[::-1].copy()
        self.state = np.zeros(at.COLUMNS, np.int64)
        allowed = (1 << len(table_format.geometry.leaf_orders)) - 1
        sizes, (stops, keeps_empty, aligns_whole) = sizes if isinstance(sizes, tuple) else (sizes, PLAIN)
        self.state[at.FREE], self.state[at.SIZES] = capacity, sizes & allowed | 1
        self.state[at.STOPS] = {"sizes": sizes & allowed | 1, "levels": allowed, "target": 0}[stops]
        self.state[[at.KEEPS_EMPTY, at.ALIGNS_WHOLE]] = keeps_empty, aligns_whole
        self.root = int(engine.p2m.take(self.stock, self.state))
        engine.p2m.clear(self.memory, self.shape, self.root)

    @property
    def sizes(self) -> int:
        return int(self.state[at.SIZES])

    @property
    def tables(self):
        return *self.read, *self.pool

    @property
    def read(self):
        return operands.Tables(self.memory, self.shape, self.root)

    @property
    def pool(self):
        return operands.Pool(self.stock, self.state)

    def content(self) -> tuple[bytes, bytes, list[int]]:
        return self.memory.tobytes(), self.stock.tobytes(), self.state.tolist()

    def plan_map(self, pieces, extent_frames: int, free: int | None = None) -> int:
        """Return the extents that fit, as if `free` tables were in the stock."""
        state = self.state.copy()
        if free is not None:
            state[at.FREE] = free
        before = self.content()
        fitting = self.engine.p2m.plan_map(self.read, state, pieces, extent_frames)
        assert self.content() == before, "a plan changes nothing"
        return int(fitting)

    def map(self, pieces, flags: int) -> None:
        self.engine.p2m.map_pieces(self.read, self.pool, pieces, np.uint64(flags))

    def planned(self, plan: str, change: str, *arguments) -> int:
        """Change when the tables suffice; return the need."""
        need = int(getattr(self.engine.p2m, plan)(*self.read, self.state, *arguments))
        if need <= self.state[at.FREE]:
            before = int(self.state[at.ALLOCATED])
            getattr(self.engine.p2m, change)(*self.tables, *arguments)
            assert self.state[at.ALLOCATED] - before == need, "the plan counts exactly"
        return need

    def unmap(self, gfn: int, frames: int) -> int:
        return self.planned("plan_unmap", "unmap", gfn, frames)

    def split(self, gfn: int, level: int) -> int:
        return self.planned("plan_split", "split", gfn, level)

    def split_range(self, gfn: int, frames: int, allowed: int) -> int:
        need = int(self.engine.resize.plan_split_range(self.read, gfn, frames, allowed))
        if need <= self.state[at.FREE]:
            before = int(self.state[at.ALLOCATED])
            self.engine.resize.split_range(self.read, self.pool, gfn, frames, allowed)
            assert self.state[at.ALLOCATED] - before == need, "the plan counts exactly"
        return need

    def release(self) -> None:
        self.engine.p2m.release(self.stock, self.state)

    def leaves(self) -> dict[int, tuple[int, int]]:
        """Return {gfn: (level, entry)} of present leaves and of places, by a plain recursion over the tables."""
        found: dict[int, tuple[int, int]] = {}
        self._collect(self.root, self.levels - 1, 0, found)
        return found

    def _collect(self, table: int, level: int, gfn: int, found: dict[int, tuple[int, int]]) -> None:
        for slot, entry in enumerate(self.memory[table].tolist()):
            here = gfn + (slot << self.bits * level)
            if form.is_empty(self.shape, entry):
                continue
            if form.is_present(self.shape, entry) and not form.is_leaf(self.shape, entry, level):
                self._collect(form.frame_of(self.shape, entry), level - 1, here, found)
            else:
                found[here] = level, entry

    def translations(self) -> dict[int, tuple[int, int]]:
        """Return {first gfn of each run of frames: (frames, mfn)} of what is present, whatever the leaf sizes."""
        runs: dict[int, tuple[int, int]] = {}
        last = None
        for gfn, (level, entry) in sorted(self.leaves().items()):
            if not form.is_present(self.shape, entry):
                continue
            frames, mfn = 1 << self.bits * level, form.leaf_frame(self.shape, entry, level)
            if last is not None and last + runs[last][0] == gfn and runs[last][1] + runs[last][0] == mfn:
                runs[last] = runs[last][0] + frames, runs[last][1]
            else:
                runs[gfn], last = (frames, mfn), gfn
        return runs


def make_pieces(pieces, masks):
    """Return pieces as kernels take them."""
    table = np.array(pieces, np.uint64).reshape(-1, 3)
    return operands.Pieces(*(column.copy() for column in table.T), np.array(masks, np.int64))


# Gfns near the borders of tables of either width, and, by their upper bits, near those of the whole reach.
BASES = st.sampled_from([0, 1 << 9, 1 << 10, 1 << 18, 2 << 18, (1 << 20) - (1 << 18), (1 << 27) - (1 << 18), 1 << 36])
OFFSETS = st.one_of(
    st.just(0), st.integers(0, 3).map(lambda n: n << 9), st.integers(0, 1100), st.sampled_from([511, 512, 513, 1023])
)
GFNS = st.builds(lambda base, offset: base + offset, BASES, OFFSETS)
LENGTHS = st.one_of(
    st.sampled_from([1, 2, 511, 512, 513, 1024, 4096, 1 << 18, (1 << 18) + 512, 3 << 18]), st.integers(1, 2000)
)
# (gfn, distance of the mfn, frames, level mask): a distance of 0, 2M, 4M or 1G keeps large leaves possible; the last
# lies above 4 GiB.
PIECES = st.tuples(
    GFNS,
    st.sampled_from([0, 1 << 18, 5 << 18, 1 << 9, 1 << 10, 7 << 9, 1, 37]),
    LENGTHS,
    st.sampled_from([7, 7, 3, 1, 5]),
)
PAGE_SIZES = st.sampled_from([1, 3, 5, 7, 7])
RULES = st.tuples(st.sampled_from(["sizes", "sizes", "levels", "target"]), st.booleans(), st.booleans())
SIZES = st.tuples(PAGE_SIZES, RULES)  # sizes that are on, and the rules of a behaviour
MAP = st.tuples(st.just("map"), st.lists(PIECES, min_size=1, max_size=3), st.sampled_from(TYPES + PLACES))
ONE = st.tuples(st.just("one"), GFNS, st.sampled_from([0, 5, 1 << 18]), st.sampled_from([1, 1, 512, 1024]))
SINGLES = st.tuples(st.just("singles"), st.lists(GFNS, min_size=1, max_size=5), st.booleans())
UNMAP = st.tuples(st.just("unmap"), GFNS, LENGTHS)
SPLIT = st.tuples(st.just("split"), GFNS, st.integers(0, 2))
SPLIT_RANGE = st.tuples(st.just("split_range"), GFNS, LENGTHS, st.sampled_from([1, 3]))
MERGE = st.tuples(st.just("merge"), GFNS, st.integers(1, 2))
MERGE_RANGE = st.tuples(st.just("merge_range"), BASES, st.integers(1, 2), st.integers(1, 4))
LIVES = st.lists(
    st.one_of(MAP, MAP, ONE, SINGLES, UNMAP, SPLIT, SPLIT_RANGE, MERGE, MERGE_RANGE), min_size=1, max_size=12
)


def live(tables: Tables, step) -> object:
    """Do one step of a life; return what it answers."""
    name, *arguments = step
    answer = STEPS[name](tables, *arguments)
    tables.release()
    tables.state[at.REPLACED] = 0
    return answer


def _map(tables: Tables, drawn, type_) -> object:
    end, pieces, masks = 0, [], []
    for gfn, distance, frames, mask in sorted((gfn % tables.limit, *rest) for gfn, *rest in drawn):
        start = max(gfn, end)
        length = min(frames, tables.limit - start)
        if length > 0:
            pieces.append((start, start if type_ in PLACES else start + distance, length))
            masks.append(mask & tables.sizes | 1)
            end = start + length
    arrays = make_pieces(pieces, masks)
    fitting = tables.plan_map(arrays, 1)
    if fitting == sum(length for _, _, length in pieces):
        before = int(tables.state[at.ALLOCATED])
        need = exact_need(tables, arrays, fitting, int(tables.state[at.FREE]))
        tables.map(arrays, tables.format.flags(type_, "rwx"))
        assert tables.state[at.ALLOCATED] - before == need, "the plan counts exactly"
    return fitting


def _one(tables: Tables, gfn: int, distance: int, frames: int) -> object:
    gfn %= tables.limit - frames
    before = tables.content()
    flags = np.uint64(tables.format.flags(P2MType.RAM_RW, "rwx"))
    status = int(tables.engine.p2m.change_one(*tables.tables, gfn, gfn + distance, frames, tables.sizes, flags))
    assert not status or tables.content() == before, "what is refused changes nothing"
    return status


def _singles(tables: Tables, gfns, do_set) -> object:
    where = np.array(sorted({gfn % tables.limit for gfn in gfns}), np.uint64)
    ones = np.ones(len(where), np.uint64)
    if not do_set:
        return int(tables.engine.p2m.unmap_pieces(tables.read, tables.pool, where, ones))
    mfns, masks = where % np.uint64(1 << 20), np.ones(len(where), np.int64)
    pieces = operands.Pieces(where, mfns, ones, masks)
    fitting = tables.plan_map(pieces, 1)
    if fitting == len(where):
        tables.map(pieces, tables.format.flags(P2MType.RAM_RW, "rwx"))
    return fitting


def _unmap(tables: Tables, gfn: int, frames: int) -> object:
    gfn %= tables.limit
    return tables.unmap(gfn, min(frames, tables.limit - gfn))


def _split(tables: Tables, gfn: int, level: int) -> object:
    before = tables.translations()
    need = tables.split(gfn % tables.limit, min(level, len(tables.format.geometry.leaf_orders) - 1))
    assert tables.translations() == before, "a split keeps every translation"
    return need


def _split_range(tables: Tables, gfn: int, frames: int, allowed: int) -> object:
    gfn %= tables.limit
    before = tables.translations()
    need = tables.split_range(gfn, min(frames, tables.limit - gfn), allowed & tables.sizes)
    assert tables.translations() == before, "a split keeps every translation"
    return need


def _merge(tables: Tables, gfn: int, level: int) -> object:
    level = min(level, len(tables.format.geometry.leaf_orders) - 1)
    before = tables.translations()
    first = gfn % tables.limit >> tables.bits * level << tables.bits * level
    merged = int(tables.engine.resize.merge(*tables.tables, first, level, UNMERGEABLE))
    assert tables.translations() == before, "a merge keeps every translation"
    return merged


def _merge_range(tables: Tables, gfn: int, level: int, number: int) -> object:
    level = min(level, len(tables.format.geometry.leaf_orders) - 1)
    size = 1 << tables.bits * level
    first = gfn % tables.limit // size * size
    frames = min(number * size, tables.limit - first)
    before = tables.translations()
    merged = int(tables.engine.resize.merge_range(tables.read, tables.pool, first, frames, level, UNMERGEABLE))
    assert tables.translations() == before, "a merge keeps every translation"
    return merged


STEPS = {
    "map": _map,
    "one": _one,
    "singles": _singles,
    "unmap": _unmap,
    "split": _split,
    "split_range": _split_range,
    "merge": _merge,
    "merge_range": _merge_range,
}


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


def twins(sizes: int | tuple = 7, capacity: int = CAPACITY, table_format: TableFormat = NPT) -> tuple[Tables, Tables]:
    """Return an empty P2M for each engine."""
    return Tables(spec, table_format, sizes, capacity), Tables(kernels, table_format, sizes, capacity)
