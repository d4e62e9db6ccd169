"""What a listener can know of a P2M: a dict of leaves, kept up from its changes alone, and a TLB that obeys flushes.

`Mirror` is the listener, `RandomChanges` the random life of a P2M that it is held to.
"""

from random import Random

import numpy as np

from kinds import FORMATS
from twofold import kernels
from twofold.domain import DomainOptions, Machine
from twofold.errors import TwofoldError
from twofold.formats.p2m_types import PLACE_TYPES
from twofold.machine import Origin, Use, Zones
from twofold.p2m import ChangeKind, P2MType
from twofold.units import INVALID_MFN

OWN = [P2MType.RAM_RW, P2MType.RAM_RW, P2MType.RAM_RW, P2MType.RAM_RO, P2MType.RAM_LOGDIRTY, P2MType.IOREQ_SERVER]
PLACES = sorted(PLACE_TYPES)
ACCESSES = ["rwx", "rwx", "rwx", "rx", "rw", "x"]


def leaves_of(runs) -> dict[int, tuple[int, int, int, int]]:
    """Return runs of leaves as {gfn: (mfn, order, type, access)}."""
    leaves = {}
    for gfn, mfn, frames, order, type_, access in zip(*(column.tolist() for column in runs), strict=True):
        assert not (gfn | frames) & ((1 << order) - 1), "a run is made of whole leaves"
        for offset in range(0, frames, 1 << order):
            assert gfn + offset not in leaves, "nothing is told twice"
            leaves[gfn + offset] = (mfn if mfn == INVALID_MFN else mfn + offset, order, type_, access)
    return leaves


def leaves_there(p2m) -> dict[int, tuple[int, int, int, int]]:
    """Return what the tables of a P2M hold, likewise."""
    rows = p2m.leaf_array()
    columns = (rows[name].tolist() for name in ("gfn", "mfn", "order", "type", "access"))
    return {gfn: tuple(leaf) for gfn, *leaf in zip(*columns, strict=True)}


def joined(ranges) -> list[tuple[int, int]]:
    """Return ranges as (first, frames), ascending and apart."""
    found: list[tuple[int, int]] = []
    for first, frames in sorted(ranges):
        if found and first <= sum(found[-1]):
            found[-1] = found[-1][0], max(sum(found[-1]), first + frames) - found[-1][0]
        elif frames:
            found.append((first, frames))
    return found


def pairs(gfns, frames) -> list[tuple[int, int]]:
    return list(zip(gfns.tolist(), frames.tolist(), strict=True))


class Mirror:
    """Listens to one P2M."""

    def __init__(self, p2m, *, before: bool = True) -> None:
        self.p2m = p2m
        self.leaves = leaves_there(p2m)
        self.changes, self.flushes = [], []
        self.owed: list[tuple[int, int]] = []  # what the next flush has to cover, and nothing else
        self.is_exact = True  # whether that is known to the frame
        self.wants_before = before
        p2m.on_change(self.change, before=before)
        p2m.on_flush(self.flush)

    def close(self) -> None:
        self.p2m.off_change(self.change)
        self.p2m.off_flush(self.flush)

    def change(self, change) -> None:
        """Do to the dict what was told, and see that it fits what is there."""
        runs = pairs(change.gfns, change.frames)
        assert sum(frames for _, frames in joined(runs)) == sum(frames for _, frames in runs), "no frame is told twice"
        gone = self.taken_out(runs)
        come = leaves_of(change.after)
        if self.wants_before:
            assert leaves_of(change.before) == gone
        else:
            assert change.before is None
        ends = {gfn: gfn + (1 << leaf[1]) for gfn, leaf in come.items()}
        where = joined(runs)
        assert all(any(first <= gfn and end <= first + frames for first, frames in where) for gfn, end in ends.items())
        for (first, frames), same in zip(runs, change.same.tolist(), strict=True):
            if same:
                assert translations(gone, first, frames) == translations(come, first, frames)
        assert change.changes_translation is (change.kind not in {ChangeKind.SPLIT, ChangeKind.MERGE})
        self.leaves.update(come)
        self.note_owed(change.kind, gone, come)
        self.changes.append(change)

    def taken_out(self, runs) -> dict[int, tuple[int, int, int, int]]:
        """Take the leaves of some runs out of the dict; none may be cut by an end of them."""
        gone = {}
        where = joined(runs)
        for gfn, leaf in list(self.leaves.items()):
            end = gfn + (1 << leaf[1])
            touched = [(first, frames) for first, frames in where if gfn < first + frames and first < end]
            if touched:
                first, frames = touched[0]
                assert first <= gfn, "a leaf that is cut is told whole"
                assert end <= first + frames
                gone[gfn] = self.leaves.pop(gfn)
        return gone

    def note_owed(self, kind, gone, come) -> None:
        """Work out what the flush after this has to cover: whatever was present, and where a table made way."""
        present = [(gfn, 1 << order) for gfn, (mfn, order, _, _) in gone.items() if mfn != INVALID_MFN]
        self.owed += present
        gone_at = joined((gfn, 1 << leaf[1]) for gfn, leaf in gone.items())
        for gfn, (_, order, _, _) in come.items():
            if order and kind != ChangeKind.SPLIT:
                below = [r for r in gone_at if r[0] < gfn + (1 << order) and gfn < sum(r)]
                smaller = [g for g in gone if gfn <= g < gfn + (1 << order) and gone[g][1] < order]
                if below and smaller:
                    self.owed.append((gfn, 1 << order))
        if len(present) < len(gone) or self.p2m._hardware.behaviour.keeps_empty_tables:
            self.is_exact = False  # a table that held places only is an entry that was present, too

    def flush(self, flush) -> None:
        """See that a flush covers what it has to."""
        told, owed = pairs(*flush), joined(self.owed)
        assert told == joined(told), "the ranges of a flush are apart"
        if self.is_exact:
            assert told == owed
        else:
            assert joined([*told, *owed]) == told, "the flush covers what was replaced"
        self.owed.clear()
        self.is_exact = True
        self.flushes.append(flush)

    def check(self) -> None:
        """See that the dict is what the tables hold."""
        assert self.leaves == leaves_there(self.p2m)
        assert self.owed == [], "what was replaced has been flushed"
        assert self.p2m.counters.flushes_done == self.p2m.counters.flushes_owed


def translations(leaves, first: int, frames: int) -> list[tuple[int, int, int, int, int]]:
    """Return what leaves map a range to, whatever their sizes: (gfn, mfn, frames, type, access) of runs."""
    runs: list[list[int]] = []
    for start, (target, order, type_, access) in sorted(leaves.items()):
        gfn, end = max(start, first), min(start + (1 << order), first + frames)
        if gfn >= end:
            continue
        mfn = target if target == INVALID_MFN else target + gfn - start
        at_end = runs and runs[-1][0] + runs[-1][2] == gfn and runs[-1][3:] == [type_, access]
        if at_end and (mfn == INVALID_MFN == runs[-1][1] or mfn == runs[-1][1] + runs[-1][2]):
            runs[-1][2] += end - gfn
        else:
            runs.append([gfn, mfn, end - gfn, type_, access])
    return [tuple(run) for run in runs]


class RandomChanges:
    """A P2M that all sorts of things are done to, one after the other; everything follows from the seed."""

    def __init__(self, name: str, seed: int, *, engine=kernels, behaviour: str = "twofold", pool: int = 30) -> None:
        paging, table_format = FORMATS[name]
        self.random = Random(seed)  # noqa: S311
        self.machine = Machine("3GiB", paging=paging, engine=engine, behaviour=behaviour)
        options = DomainOptions(table_pool=pool, table_format=table_format, layout="flat")
        self.domain = self.machine.create_domain("64MiB", options=options)
        self.p2m = self.domain.p2m
        self.orders = [int(order) for order in self.p2m.geometry.leaf_orders]
        self.block_order = 18 if len(self.orders) == 3 else 12
        self.block = self.machine.heap.alloc(self.block_order, Origin(Zones.LOW_ONLY))
        one = np.array([self.block], np.uint64), np.array([1 << self.block_order], np.uint64)
        self.machine.ledger.take(*one, self.domain.domid, Use.RAM)
        self.refused = 0

    def step(self) -> None:
        """Do one thing, which may be refused."""
        operation = self.random.choice(self.operations())
        try:
            operation()
        except TwofoldError:
            self.refused += 1

    def operations(self):
        return [
            self.set_own, self.set_own, self.set_place, self.set_hole, self.set_device, self.set_many, self.map_pieces,
            self.unmap, self.remove_many, self.split, self.split_all, self.merge, self.merge_all, self.change_type,
            self.move, self.populate, self.decrease, self.switch_sizes,
        ]  # fmt: skip

    def gfn(self, order: int = 0) -> int:
        """Return a gfn near a border of tables, aligned to an order."""
        base = self.random.choice([0, 0, 0, 1 << self.orders[1], 1 << 18, (1 << 18) + (1 << self.orders[1])])
        offset = self.random.choice([0, 0, 1, 3, 511, 512, 513, 1023, 1024, 2048])
        return base + offset >> order << order

    def order(self) -> int:
        return self.random.choice([0, 0, 0, 1, self.orders[1], self.orders[1], self.orders[1] + 1, self.block_order])

    def mfn(self, gfn: int, order: int) -> int:
        inside = (gfn + self.random.choice([0, 0, 0, 1 << self.orders[1], 1])) % (1 << self.block_order)
        return self.block + min(inside, (1 << self.block_order) - (1 << order))

    def set_own(self) -> None:
        order = self.order()
        gfn = self.gfn(order)
        type_, access = self.random.choice(OWN), self.random.choice(ACCESSES)
        order = 0 if type_ == P2MType.IOREQ_SERVER else order
        self.p2m.set_entry(gfn, self.mfn(gfn, order), order, type_, access, move_below=self.random.random() < 0.5)

    def set_place(self) -> None:
        order = self.random.choice([0, 0, 3, self.orders[1]])
        self.p2m.set_entry(self.gfn(order), INVALID_MFN, order, self.random.choice(PLACES))

    def set_hole(self) -> None:
        order = self.order()
        self.p2m.set_entry(self.gfn(order), INVALID_MFN, order, P2MType.MMIO_DM)

    def set_device(self) -> None:
        order = self.random.choice([0, self.orders[1]])
        gfn = (3 << 18) + self.random.choice([0, 1, 1024]) >> order << order  # where nothing else makes RAM of it
        self.p2m.set_entry(gfn, self.machine.frames >> order << order, order, P2MType.MMIO_DIRECT)

    def some(self, most: int):
        """Return some gfns, each once, in any order."""
        base = self.gfn()
        gfns = [base + self.random.randrange(700) for _ in range(self.random.randint(1, most))]
        return np.array(list(dict.fromkeys(gfns)), np.uint64)

    def set_many(self) -> None:
        gfns = self.some(20)
        self.p2m.set_entries(gfns, gfns % np.uint64(1 << self.block_order) + np.uint64(self.block))

    def map_pieces(self) -> None:
        """Map pieces of several lengths in one call, as the builder does."""
        gfn, rows = self.gfn(), []
        for _ in range(self.random.randint(1, 4)):
            frames = self.random.choice([1, 3, 512, 1024, 1536])
            rows.append((gfn, self.block + gfn % 2048, frames))
            gfn += frames + self.random.choice([0, 0, 5])
        gfns, mfns, frames = (np.array(column, np.uint64) for column in zip(*rows, strict=True))
        sizes = self.p2m.level_masks(np.full(len(rows), self.random.choice([0, self.orders[1]]), np.int64))
        if self.p2m.plan(gfns, mfns, frames, sizes, 1) == int(frames.sum()):
            self.p2m.map(gfns, mfns, frames, sizes)

    def unmap(self) -> None:
        self.p2m.unmap(self.gfn(), self.random.choice([1, 1, 2, 511, 512, 513, 1024, 2048, 1 << 18, 1 << 19]))

    def remove_many(self) -> None:
        self.p2m.remove_entries(self.some(12))

    def split(self) -> None:
        self.p2m.split(self.gfn() + self.random.randrange(600), self.random.choice(self.orders[:-1]), move_below=True)

    def split_all(self) -> None:
        gfn = self.gfn()
        self.p2m.split_all(range(gfn, gfn + self.random.choice([1, 300, 1024, 2048])), self.random.choice([0, None]))

    def merge(self) -> None:
        """Merge at a place where there is a large leaf, split before, so that it can be."""
        rows = self.p2m.leaf_array()
        large = rows[rows["present"] & (rows["order"] > 0)]
        if len(large):
            leaf = large[self.random.randrange(len(large))]
            order = int(leaf["order"])
            self.p2m.split(int(leaf["gfn"]), self.orders[self.orders.index(order) - 1])
            self.p2m.merge(int(leaf["gfn"]), order)

    def merge_all(self) -> None:
        self.p2m.merge_all(self.random.choice([None, range(3, 5000)]))

    def change_type(self) -> None:
        frames = self.random.choice([1, 512, 700, 1024, 4096])
        self.p2m.change_type(self.gfn(), frames, self.random.choice(OWN), self.random.choice([None, "rx"]))

    def move(self) -> None:
        order = self.random.choice([0, 0, self.orders[1]])
        mfn = self.machine.heap.alloc(order, Origin(Zones.LOW_ONLY))
        try:
            self.p2m.move(self.gfn(order), mfn, order)
        except TwofoldError:
            self.machine.heap.free(mfn, order)
            raise

    def populate(self) -> None:
        order = self.random.choice([0, self.orders[1]])
        first = self.gfn(order)
        gfns = range(first, first + (3 << order), 1 << order)
        self.domain.memory.populate_physmap(gfns, order)

    def decrease(self) -> None:
        order = self.random.choice([0, 0, self.orders[1]])
        self.domain.memory.decrease_reservation([self.gfn(order) for _ in range(3)], order)

    def switch_sizes(self) -> None:
        self.p2m.page_sizes = [order for order in self.orders if not order or self.random.random() < 0.8]
