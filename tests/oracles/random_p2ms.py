"""Random P2Ms of every table format, places to ask for in them, and ways to spoil them: for the tests of all oracles.

Machine memory is laid out so that every oracle can be asked about all of it::

    TABLE_MFNS      the only free memory of the machine: the tables, and nothing else, are there
    1G .. 3G        frames that leaves of all sizes map
    4G .. 64G       the same, where the entry can hold it
    64G .. 1T       frames that only MMIO_DIRECT maps: there is no RAM; oracles have 40 bits of physical address

The frames in between are left out: Bochs keeps its harness there.
"""

import contextlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from kinds import FORMATS
from twofold.domain import DomainOptions, Machine
from twofold.errors import EncodingError, FormatError
from twofold.formats import ept, shape, x86
from twofold.formats.p2m_types import ACCESS_NAMES, PLACE_TYPES, PRESENT_TYPES, SMALL_TYPES, P2MType
from twofold.formats.table_formats import TableFormat
from twofold.freemaps import FreeMap
from twofold.p2m import P2M, WalkStep
from twofold.units import INVALID_MFN

LEAVES = 120
TABLE_MFNS = range(512, 2560)
LOW_MFNS, HIGH_MFNS, DEVICE_MFNS = range(1 << 18, 3 << 18), range(1 << 20, 1 << 24), range(1 << 24, 1 << 28)
# Accesses are made to the beginning of a page: none passes its end, and its last byte stays as it is.
OFFSETS = 0xFF0
_FEW, _TRIES = 20, 30  # of `spoil`
_PLACES = [*sorted(PLACE_TYPES)]


class Kind(NamedTuple):
    """A table format: how a machine and a domain get it, and the gfns that can be asked for.

    reach : first gfn that is left out: 64-bit addresses stay in the lower half, where they are canonical
    """

    paging: str
    table_format: str
    reach: int


REACHES = {"npt": 35, "npt-5": 44, "npt-pae": 20, "npt-2": 20, "ept": 36, "ept-5": 45}  # bits of a gfn
KINDS = {name: Kind(*FORMATS[name], 1 << bits) for name, bits in REACHES.items()}


@dataclass
class RandomP2M:
    """A P2M with random content, and the random numbers to go on with.

    corners : gfns at the borders of what was set, and beside them
    rows : its leaves, from before it was spoiled
    spoiled : gfns below entries that `spoil` has changed
    """

    machine: Machine
    p2m: P2M
    rng: np.random.Generator
    reach: int
    corners: np.ndarray
    rows: np.ndarray
    spoiled: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def tables(self) -> np.ndarray:
        """Machine memory up to the last table, uint64[frames, 512]; not a copy."""
        return self.machine.arena.tables[: TABLE_MFNS.stop]

    @property
    def entries(self) -> np.ndarray:
        """The same with entries as wide as the format has them."""
        return self.tables.view(self.p2m.format.entry_dtype)


@contextlib.contextmanager
def random_p2m(name: str, seed: int, reach: int | None = None) -> Iterator[RandomP2M]:
    """Make a P2M with leaves of all sizes, types and accesses; some split, merged or removed again.

    Parameters
    ----------
    name : one of KINDS
    reach : first gfn that is left out; None: that of the kind
    """
    kind = KINDS[name]
    reach = kind.reach if reach is None else reach
    rng = np.random.Generator(np.random.PCG64(seed))
    starts, frames = np.array([TABLE_MFNS.start], np.uint64), np.array([len(TABLE_MFNS)], np.uint64)
    with Machine(free=FreeMap(starts, frames, HIGH_MFNS.stop, "synthetic"), paging=kind.paging) as machine:
        options = DomainOptions(table_format=kind.table_format, table_pool=len(TABLE_MFNS))
        p2m = machine.create_domain("64MiB", options=options).p2m
        contents = contents_of(p2m.format)
        corners = np.array([gfn for _ in range(LEAVES) for gfn in _set_one(p2m, rng, reach, contents)], np.uint64)
        yield RandomP2M(machine, p2m, rng, reach, corners[corners < reach], p2m.leaf_array())


def contents_of(table_format: TableFormat) -> list[tuple[P2MType, str]]:
    """Return the pairs of a present type and an access that a format can hold."""
    found = []
    for type_ in sorted(PRESENT_TYPES):
        for access in ACCESS_NAMES:
            with contextlib.suppress(FormatError):
                table_format.flags(type_, access)
                found.append((type_, access))
    return found


def _set_one(p2m: P2M, rng: np.random.Generator, reach: int, contents: list[tuple[P2MType, str]]) -> list[int]:
    """Set one leaf somewhere, and change it in part; return the gfns at its borders."""
    orders = [int(order) for order in p2m.geometry.leaf_orders]
    order = int(rng.choice([*orders, *orders[:2]]))
    window = min(1 << 22, reach)
    near = int(rng.choice([gfn for gfn in (0, 1 << 22, 1 << 27, 5 << 27, reach - window) if 0 <= gfn < reach]))
    gfn = min(near + int(rng.integers(window)), reach - (1 << orders[-1])) >> order << order
    inside, frames = gfn + int(rng.integers(1 << order)), int(rng.integers(1, 600))
    type_, access = (P2MType.RAM_RW, "rwx") if rng.random() < 0.4 else contents[rng.integers(len(contents))]
    if type_ in SMALL_TYPES:
        order = min(order, orders[1])
    # Sometimes the frames are aligned for smaller leaves only.
    aligned = order if order == 0 or rng.random() < 0.8 else orders[orders.index(order) - 1]
    mfn = _random_mfn(p2m, rng, order, aligned, is_device=type_ == P2MType.MMIO_DIRECT)
    if rng.random() < 0.1:
        mfn, type_, access = INVALID_MFN, _PLACES[rng.integers(len(_PLACES))], "rwx"
        order = min(order, orders[1])
    gfn = inside >> order << order
    smaller, larger, chances = int(rng.choice(orders[:-1])), int(rng.choice(orders[1:])), rng.random(3)
    # In 2-level tables smaller leaves cannot hold what a 4M leaf above 4 GiB maps: it stays as it is.
    with contextlib.suppress(EncodingError):
        p2m.set_entry(gfn, mfn, order, type_, access)
        if chances[0] < 0.3:
            p2m.split(inside, smaller)
        if chances[1] < 0.3:
            p2m.unmap(inside, min(frames, reach - inside))
        if chances[2] < 0.2:
            p2m.merge(inside, larger)
    around = [gfn, gfn + (1 << order) - 1, gfn - 1, gfn + (1 << order), inside, inside + frames]
    return [each for each in around if each >= 0]


def _random_mfn(p2m: P2M, rng: np.random.Generator, order: int, aligned: int, *, is_device: bool) -> int:
    """Return the first of 2**order frames that a leaf may map."""
    limit = p2m.format.large_limit if order and aligned == order else p2m.format.small_limit
    wanted = DEVICE_MFNS if is_device and rng.random() < 0.5 else HIGH_MFNS
    where = wanted if wanted.stop <= limit and rng.random() < 0.7 else LOW_MFNS
    return int(rng.integers(where.start, where.stop - (1 << order) + 1)) >> aligned << aligned


def gfns_of(random: RandomP2M, count: int) -> np.ndarray:
    """Return gfns to ask for: inside leaves, whatever their size, near corners, below spoiled entries, anywhere."""
    rng, near, picked = random.rng, max(1, count // 4), _leaves_of_all_sizes(random, count // 2)
    inside = picked["gfn"] + rng.integers(1 << 62, size=len(picked)).astype(np.uint64) % (
        np.uint64(1) << picked["order"].astype(np.uint64)
    )
    chosen = rng.choice(np.concatenate([random.corners, random.spoiled, random.spoiled]), size=near)
    beside = chosen + rng.integers(3, size=near).astype(np.uint64)
    anywhere = rng.integers(random.reach, size=count - len(inside) - near).astype(np.uint64)
    return rng.permutation(np.concatenate([inside, beside, anywhere])) % np.uint64(random.reach)


def _leaves_of_all_sizes(random: RandomP2M, count: int) -> np.ndarray:
    """Return so many leaves, as many of one size as of another."""
    _, which, each = np.unique(random.rows["order"], return_inverse=True, return_counts=True)
    return random.rows[random.rng.choice(len(random.rows), size=count, p=1 / (each[which] * len(each)))]


class Spoil(NamedTuple):
    """One way to change an entry: bits cleared, then bits set.

    level : where such an entry stands
    is_leaf : of a leaf, or of an entry that points to a table
    """

    level: int
    is_leaf: bool
    cleared: int
    set_: int


def malformations(name: str) -> list[Spoil]:
    """Return how an entry of a format becomes malformed, as far as both Twofold and the oracles say so.

    Left out: address bits of leaves from 40 up (Twofold has no physical-address width), bit 12 of a large EPT leaf
    (Bochs ignores it), the root of PAE tables (Bochs cannot load it into CR3, Unicorn ignores most of its bits).
    """
    above = [(level, 0, 1 << bit) for level in (1, 2, 3) for bit in (40, 45, 51)]  # no such frame
    sizes = [(1, 0, 1 << bit) for bit in (13, 16, 20)] + [(2, 0, 1 << bit) for bit in (13, 20, 21, 29)]
    if name == "npt-2":
        return _spoils([(1, 0, 1 << 21)], [])
    if name == "npt-pae":
        reserved = [(level, 0, 1 << bit) for level in (0, 1) for bit in (52, 57, 62)]
        return _spoils([*reserved, *sizes[:3]], [*reserved[3:], *above[:3]])
    tops = [(level, 0, x86.LARGE) for level in (3, 4)]
    if name.startswith("npt"):
        return _spoils(sizes, [*tops, *above])
    # Rights that hardware refuses: W without R.
    rights = [(level, ept.RIGHTS, bad) for level in range(4) for bad in (2, 6)]
    types = [(level, ept.MEMORY_TYPE, bad << shape.MEMORY_TYPE_SHIFT) for level in range(3) for bad in (2, 3, 7)]
    reserved = [(level, 0, 1 << bit) for level in (1, 2, 3) for bit in (3, 4, 5, 6)]
    return _spoils([*sizes, *rights[:6], *types], [*tops, *above, *rights[2:], *reserved])


def restrictions(name: str) -> list[Spoil]:
    """Return how an entry that points to a table gives fewer rights, which Twofold's own never do."""
    if name.startswith("ept"):
        return _spoils([], [(level, ept.RIGHTS, rights) for level in (1, 2, 3) for rights in (0, 1, 3, 4, 5)])
    levels = {"npt-2": (1,), "npt-pae": (1,)}.get(name, (1, 2, 3))
    no_execute = 0 if name == "npt-2" else x86.NO_EXECUTE
    changes = {(x86.WRITABLE, 0), (x86.PRESENT, 0), (0, no_execute), (x86.WRITABLE, no_execute)} - {(0, 0)}
    return _spoils([], [(level, *change) for level in levels for change in sorted(changes)])


def _spoils(leaf: list[tuple[int, int, int]], table: list[tuple[int, int, int]]) -> list[Spoil]:
    changes = [(True, change) for change in leaf] + [(False, change) for change in table]
    return [Spoil(level, is_leaf, cleared, set_) for is_leaf, (level, cleared, set_) in changes]


def spoil(random: RandomP2M, ways: list[Spoil], levels: int) -> int:
    """Change an entry in each of these ways, or some where they are few; return how many were changed.

    It happens behind the P2M's back, where there is such an entry. One at most is above level 2, and none has most of
    the leaves below it. From here on only `fault`, `get_entry` and `walk` may be asked of the P2M.

    Parameters
    ----------
    levels : of the tables that the oracle walks; entries above are left alone
    """
    done: dict[tuple[int, int], list[int]] = {}
    is_high_done = False
    for index in random.rng.permutation(max(len(ways), _FEW)).tolist():
        way = ways[index % len(ways)]
        if way.level >= levels or (way.level > 2 and is_high_done):
            continue
        for gfn in _leaves_of_all_sizes(random, _TRIES)["gfn"].tolist():
            step = _spoilable(random, way, gfn, done)
            if step is not None:
                random.entries[step.table, step.slot] = step.entry & ~way.cleared | way.set_
                done[step.table, step.slot] = _gfns_below(random, gfn, way.level)
                is_high_done |= way.level > 2
                break
    random.spoiled = np.array([gfn for gfns in done.values() for gfn in gfns if gfn < random.reach], np.uint64)
    return len(done)


def _spoilable(random: RandomP2M, way: Spoil, gfn: int, done: Container[tuple[int, int]]) -> WalkStep | None:
    """Return the entry above a gfn that can be spoiled in this way, if there is one."""
    steps, position = random.p2m.walk(gfn), random.p2m.geometry.levels - 1 - way.level
    if len(steps) <= position or any((step.table, step.slot) in done for step in steps):
        return None
    step, words = steps[position], random.p2m.format.shape
    if not shape.is_present(words, step.entry) or shape.is_leaf(words, step.entry, step.level) != way.is_leaf:
        return None
    return step if len(_rows_below(random, gfn, way.level)) <= len(random.rows) // 2 else None


def _rows_below(random: RandomP2M, gfn: int, level: int) -> np.ndarray:
    """Return the leaves that begin below the entry of this level above `gfn`."""
    order = level * random.p2m.geometry.index_bits
    return random.rows[random.rows["gfn"] >> np.uint64(order) == gfn >> order]


def _gfns_below(random: RandomP2M, gfn: int, level: int) -> list[int]:
    """Return some of the gfns that the entry of this level above `gfn` translates, those of leaves among them."""
    order = level * random.p2m.geometry.index_bits
    first, last = gfn >> order << order, gfn | (1 << order) - 1
    below = _rows_below(random, gfn, level)["gfn"]
    some = below[:: 1 + len(below) // 16].tolist()
    return [first, last, gfn, *random.rng.integers(first, last + 1, size=4).tolist(), *some]


def forget_marks(random: RandomP2M, levels: int) -> None:
    """Clear accessed and dirty bits here and there; a P2M sets all beforehand, so no walk would change anything.

    Parameters
    ----------
    levels : of the tables that the oracle walks; a root above stays as it is
    """
    words, root = random.p2m.format.shape, random.entries[random.p2m.root].copy()
    entries = random.entries[TABLE_MFNS.start :]
    for mark in (shape.ACCESSED, shape.DIRTY):
        chosen = (entries & entries.dtype.type(words[shape.PRESENT]) != 0) & (random.rng.random(entries.shape) < 0.7)
        entries[chosen] &= entries.dtype.type(~int(words[mark]) & np.iinfo(entries.dtype).max)
    if random.p2m.geometry.levels > levels:
        random.entries[random.p2m.root] = root
