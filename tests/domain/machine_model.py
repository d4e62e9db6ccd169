"""A machine and its domains against the simplest model: who holds each frame, and which frame each gfn has.

Every operation of every domain, in every table format and both behaviours, on a machine that is short of memory, tables
or quota. After each step every frame of the machine is accounted for, every domain maps what the model says and nobody
else's but what it was shown on purpose, audits find nothing, and the bytes that a guest wrote are where it wrote them.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from journals import JournaledMachine
from snapshots import assert_heap_is_canonical
from twofold.domain import Domain, DomainOptions, Machine, Mem, Reason
from twofold.errors import BuildError, EncodingError, HeapExhaustedError, PoolExhaustedError
from twofold.machine import Origin, Use
from twofold.units import INVALID_MFN

FRAMES = 6 << 10  # 24 MiB: six leaves of 4M
FAR = 1 << 18
LOW, HIGH = 4 << 10, 1 << 10  # gfns that are tracked: from 0 on, and from FAR on
GFNS = np.concatenate((np.arange(LOW), np.arange(FAR, FAR + HIGH))).astype(np.uint64)
FORMATS = {"4-level": ["npt", "ept", "ept-5"], "5-level": ["npt", "ept"], "pae": ["npt"], "2-level": ["npt"]}
FLAGS = st.sampled_from(
    [Mem.NONE, Mem.EXACT, Mem.FALLBACK, Mem.COALESCE, Mem.FALLBACK | Mem.NEAR, Mem.COALESCE | Mem.NEAR]
)
BASES = st.sampled_from([0, 512, 1024, 1536, 2048, 3072, FAR, FAR + 512])
STARTS = st.builds(lambda base, offset: base + offset, BASES, st.sampled_from([0, 0, 0, 1, 255, 511]))
ORDERS = st.sampled_from([0, 0, 3, 9, 9, 10])
SPACES = st.sampled_from([("shared_info", 0), ("grant_table", 0), ("grant_table", 7)])
PATTERNS = st.sampled_from([None, None, None, [True], [False, True], [True, False, False]])
OWN, SPECIAL, FOREIGN = range(3)  # whose frame a gfn has
SHORT = (PoolExhaustedError, EncodingError, HeapExhaustedError)


def place_of(gfns) -> np.ndarray:
    """Return where gfns stand in the model's arrays."""
    gfns = np.asarray(gfns, np.int64)
    return np.where(gfns >= FAR, gfns - FAR + LOW, gfns)


def tracked(gfn: int, frames: int) -> bool:
    return gfn + frames <= LOW or FAR <= gfn <= FAR + HIGH - frames


def frames_of(gfns, order: int) -> np.ndarray:
    return (np.asarray(gfns, np.uint64)[:, None] + np.arange(1 << order, dtype=np.uint64)).reshape(-1)


def in_parts(operation, pattern):
    """Do an operation that is preempted by a pattern, until it ends by itself; None for one that runs through."""
    if pattern is None:
        return operation()
    asked = iter(pattern * 2000)
    answer = operation(preempt=lambda: next(asked))
    while answer.reason is Reason.PREEMPTED:
        answer = operation(start=answer.done, preempt=lambda: next(asked))
    return answer


@dataclass
class Life:
    """What the model knows of one domain."""

    domain: Domain
    mfns: np.ndarray = field(default_factory=lambda: np.full(len(GFNS), INVALID_MFN, np.uint64))
    kinds: np.ndarray = field(default_factory=lambda: np.full(len(GFNS), OWN, np.uint8))
    orphans: set[int] = field(default_factory=set)
    special: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def is_own(self) -> np.ndarray:
        """Where gfns have memory of the domain's own."""
        return (self.mfns != INVALID_MFN) & (self.kinds == OWN)

    @property
    def held(self) -> list[int]:
        """Every frame of memory that the domain owns."""
        return [*self.mfns[self.is_own].tolist(), *self.orphans]

    @property
    def foreign(self) -> list[int]:
        """Every frame of another domain that a gfn has."""
        return self.mfns[(self.mfns != INVALID_MFN) & (self.kinds == FOREIGN)].tolist()


class MachineModel(JournaledMachine):
    """Up to four domains on one small machine."""

    @initialize(
        paging=st.sampled_from([*FORMATS, "4-level"]),
        behaviour=st.sampled_from(["twofold", "twofold", "xen-4.17"]),
        nodes=st.sampled_from([1, 1, 2]),
    )
    def start(self, paging, behaviour, nodes):
        self.machine = Machine(FRAMES << 12, paging=paging, behaviour=behaviour, nodes=nodes, journal=self.journal)
        self.is_xen = behaviour != "twofold"
        self.lives: list[Life] = []
        self.kept: list[tuple[int, int]] = []  # blocks that somebody else took
        self.stamps: dict[int, int] = {}  # what a guest wrote at the start of a frame
        self.referenced: dict[int, int] = {}  # given back while another domain had them: whose
        self.serial = 0

    def teardown(self):
        if hasattr(self, "machine"):
            self.end_journal()
            for life in self.lives:
                life.domain.destroy()
            for mfn, order in self.kept:
                self.machine.heap.free(mfn, order)
            assert self.machine.heap.free_frames == FRAMES, "everything came back"
            assert not self.machine.frame_table.owner.any()
            assert not self.machine.m2p.complement.any()
            self.machine.close()

    # -- lives ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.lives) < 4)
    @rule(data=st.data(), pool=st.sampled_from([6, 8, 12, 40]), quota=st.sampled_from([None, None, 700, 2000]))
    def create(self, data, pool, quota):
        options = DomainOptions(
            layout="flat",
            table_format=data.draw(st.sampled_from(FORMATS[self.machine.paging])),
            table_pool=pool,
            max_pages=quota,
            page_sizes=data.draw(st.sampled_from([None, None, "4K"])),
            node=data.draw(st.sampled_from([None, self.machine.nodes - 1])),
        )
        free = self.machine.heap.free_frames
        try:
            life = Life(self.machine.create_domain("1MiB", options=options))
        except BuildError:
            assert free - sum(self.machine.ledger.claims.values()) < pool
            return
        self.lives.append(life)
        gfns = data.draw(st.sampled_from([range(0), range(0, 1536, 512), range(512, 2048, 512)]))
        answer = life.domain.memory.populate_physmap(gfns, 9, Mem.FALLBACK)
        if answer.done:
            self.gain(life, frames_of(gfns[: answer.done], 9), was_free=False)
        if answer.reason in {Reason.NO_TABLES, Reason.UNENCODABLE} and self.is_xen:
            self.gain_in_part(life, frames_of(gfns[answer.done : answer.done + 1], 9))

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def destroy(self, data):
        life = data.draw(st.sampled_from(self.lives))
        preempt = (lambda: True) if data.draw(st.booleans()) else None
        while not life.domain.destroy(preempt):
            assert life.domain.memory.populate_physmap([5], 0).reason is Reason.DYING
        self.lives.remove(life)
        self.forget(life, life.held)
        for mfn in life.foreign:
            self.let_go(mfn)

    def pick(self, data) -> Life:
        return data.draw(st.sampled_from(self.lives))

    def somewhere(self, data, life: Life, order: int = 0) -> int:
        """Return a gfn: mostly one that has memory, mostly aligned to an order."""
        mapped = np.flatnonzero(life.mfns != INVALID_MFN)
        if not len(mapped) or data.draw(st.integers(0, 3)) == 0:
            return data.draw(STARTS)
        gfn = int(GFNS[mapped[data.draw(st.integers(0, len(GFNS) - 1)) % len(mapped)]])
        return gfn if data.draw(st.integers(0, 3)) == 0 else gfn >> order << order

    # -- what the model keeps -------------------------------------------------------------------------------------

    @property
    def references(self) -> Counter[int]:
        """How many gfns have each frame of another domain."""
        return Counter(mfn for life in self.lives for mfn in life.foreign)

    def forget(self, life: Life, mfns) -> None:
        """Frames went back to the machine: what was in them is gone, unless another domain still has them."""
        references = self.references
        for mfn in map(int, mfns):
            if references[mfn]:
                self.referenced[mfn] = life.domain.domid
            else:
                self.stamps.pop(mfn, None)

    def let_go(self, mfn: int) -> None:
        """A gfn has a frame of another domain no more."""
        if not self.references[mfn] and self.referenced.pop(mfn, None):
            self.stamps.pop(mfn, None)

    def gain(self, life: Life, gfns: np.ndarray, *, was_free: bool = True) -> None:
        """Enter gfns that were populated: with frames that were free, and that read as zero."""
        mfns = life.domain.p2m.translate(gfns)
        assert self.free[mfns].all() or not was_free
        assert len(np.unique(mfns)) == len(mfns)
        for mfn in (mfns[:1].tolist() + mfns[-1:].tolist())[:2]:
            assert not any(self.machine.arena.read(mfn << 12, 4096)), "a domain sees nobody else's bytes"
        here = place_of(gfns)
        assert (life.kinds[here] != FOREIGN).all()
        assert self.is_xen or (life.mfns[here] == INVALID_MFN).all()
        life.orphans |= set(life.mfns[here][life.is_own[here]].tolist())
        life.mfns[here], life.kinds[here] = mfns, OWN
        self.stamp(mfns[:1].tolist() + mfns[-1:].tolist())

    def stamp(self, mfns) -> None:
        """Write a number that no other frame has."""
        for mfn in mfns:
            self.serial += 1
            self.stamps[mfn] = self.serial
            self.machine.arena.write(mfn << 12, self.serial.to_bytes(8, "little"))

    def lose(self, life: Life, gfns: np.ndarray) -> None:
        """Enter gfns whose memory went back to the machine."""
        here = place_of(gfns)
        assert life.is_own[here].all()
        mfns = life.mfns[here].copy()
        life.mfns[here] = INVALID_MFN
        self.forget(life, mfns)

    def put(self, life: Life, gfn: int, mfn: int, kind: int) -> None:
        """Enter a frame that was added at a gfn: memory there went back, a special page was unhooked."""
        here = place_of(gfn)
        assert life.mfns[here] == INVALID_MFN or life.kinds[here] != FOREIGN
        if life.is_own[here]:
            self.lose(life, np.array([gfn]))
        life.mfns[here], life.kinds[here] = mfn, kind

    def clear(self, life: Life, gfn: int) -> None:
        """Enter that a gfn has nothing any more."""
        life.mfns[place_of(gfn)], life.kinds[place_of(gfn)] = INVALID_MFN, OWN

    def check_stop(self, answer) -> None:
        assert answer.complete is (answer.reason is Reason.NONE)
        assert 0 <= answer.done <= answer.asked

    # -- memory operations ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), gfn=STARTS, order=ORDERS, flags=FLAGS, node=st.sampled_from([None, 0]), exact=st.booleans())
    def populate(self, data, gfn, order, flags, node, exact):
        life, extents = self.pick(data), data.draw(st.integers(1, 600 if order == 0 else 3))
        gfns = [start for start in range(gfn, gfn + (extents << order), 1 << order) if tracked(start, 1 << order)]
        origin = Origin(node=node, exact_node=exact and node is not None)
        answer = in_parts(
            partial(life.domain.memory.populate_physmap, gfns, order, flags, origin=origin), data.draw(PATTERNS)
        )
        self.check_stop(answer)
        if answer.done:
            self.gain(life, frames_of(gfns[: answer.done], order))
        if answer.reason in {Reason.NO_TABLES, Reason.UNENCODABLE} and self.is_xen:
            self.gain_in_part(life, frames_of(gfns[answer.done : answer.done + 1], order))

    def gain_in_part(self, life: Life, gfns: np.ndarray) -> None:
        """Enter an extent of which Xen mapped what there were tables for: all of it is the domain's."""
        table = self.machine.frame_table
        new = np.flatnonzero((table.owner == life.domain.domid) & (table.use == Use.RAM) & self.free)
        new = set(new.tolist()) - set(life.held)
        assert len(new) == len(gfns)
        mfns = life.domain.p2m.translate(gfns)
        mapped = gfns[np.isin(mfns, np.array(sorted(new), np.uint64))]
        if len(mapped):
            self.gain(life, mapped)
        life.orphans |= new - set(life.mfns.tolist())

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), order=ORDERS, extents=st.integers(1, 3))
    def decrease(self, data, order, extents):
        life = self.pick(data)
        gfn = self.somewhere(data, life, order)
        gfns = [start for start in range(gfn, gfn + (extents << order), 1 << order) if tracked(start, 1 << order)]
        answer = in_parts(partial(life.domain.memory.decrease_reservation, gfns, order), data.draw(PATTERNS))
        self.check_stop(answer)
        self.lose(life, frames_of(gfns[: answer.done], order))
        if not answer.complete and self.is_xen:
            rest = frames_of(gfns[answer.done : answer.done + 1], order)
            had = life.mfns[place_of(rest)] != INVALID_MFN
            has = life.domain.p2m.translate(rest) != INVALID_MFN
            gone = int(np.argmin(had & ~has))
            assert not (had & ~has)[gone:].any(), "what is gone is its beginning"
            self.lose(life, rest[:gone])

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), order=st.sampled_from([0, 3, 9]), count=st.integers(1, 3))
    def increase(self, data, order, count):
        life = self.pick(data)
        answer = in_parts(partial(life.domain.memory.increase_reservation, count, order), data.draw(PATTERNS))
        self.check_stop(answer)
        table = self.machine.frame_table
        new = np.flatnonzero((table.owner == life.domain.domid) & (table.use == Use.RAM) & self.free)
        assert len(new) == answer.done << order
        life.orphans |= set(new.tolist())

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def remove(self, data):
        life = self.pick(data)
        gfn = self.somewhere(data, life)
        answer = life.domain.memory.remove_from_physmap(gfn)
        self.check_stop(answer)
        if answer.complete:
            mfn, kind = int(life.mfns[place_of(gfn)]), life.kinds[place_of(gfn)]
            self.clear(life, gfn)
            if kind == OWN:
                life.orphans.add(mfn)
            elif kind == FOREIGN:
                self.let_go(mfn)

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), space=SPACES)
    def add_special(self, data, space):
        life = self.pick(data)
        gfn = self.somewhere(data, life)
        answer = life.domain.memory.add_to_physmap(*space, gfn)
        self.check_stop(answer)
        if not answer.complete:
            return
        mfn = life.domain.p2m.get_entry(gfn).mfn
        if space in life.special:
            assert life.special[space] == mfn
            for old in GFNS[(life.mfns == mfn) & (life.kinds == SPECIAL)].tolist():
                self.clear(life, old)
        else:
            assert self.free[mfn] or life.mfns[place_of(gfn)] == mfn
            assert not any(self.machine.arena.read(mfn << 12, 4096))
            life.special[space] = mfn
        self.put(life, gfn, mfn, SPECIAL)
        self.stamps.pop(mfn, None)

    @precondition(lambda self: len(self.lives) > 1)
    @rule(data=st.data())
    def add_foreign(self, data):
        life, other = self.pick(data), self.pick(data)
        index, gfn = self.somewhere(data, other), self.somewhere(data, life)
        domid = other.domain.domid
        answer = life.domain.memory.add_to_physmap("gmfn_foreign", index, gfn, foreign=domid)
        self.check_stop(answer)
        if answer.complete:
            assert life is not other
            assert other.is_own[place_of(index)]
            self.put(life, gfn, int(other.mfns[place_of(index)]), FOREIGN)

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def move_gfn(self, data):
        life = self.pick(data)
        index, gfn = self.somewhere(data, life), self.somewhere(data, life)
        answer = life.domain.memory.add_to_physmap("gmfn", index, gfn)
        self.check_stop(answer)
        if answer.complete:
            self.moved(life, index, gfn)

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), distance=st.integers(-40, 40), frames=st.integers(1, 30))
    def move_range(self, data, distance, frames):
        life = self.pick(data)
        index = self.somewhere(data, life)
        gfn = index + distance
        if gfn < 0 or not tracked(index, frames) or not tracked(gfn, frames):
            return
        answer = in_parts(partial(life.domain.memory.add_to_physmap_range, index, gfn, frames), data.draw(PATTERNS))
        self.check_stop(answer)
        backwards = gfn > index and not self.is_xen
        steps = range(frames - 1, -1, -1) if backwards else range(frames)
        for step in steps[: answer.done]:
            self.moved(life, index + step, gfn + step)

    def moved(self, life: Life, index: int, gfn: int) -> None:
        """Enter a frame that changed its gfn; what stood there went back to the machine."""
        if index == gfn:
            return
        assert life.is_own[place_of(index)]
        self.put(life, gfn, int(life.mfns[place_of(index)]), OWN)
        self.clear(life, index)

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), orders=st.sampled_from([(0, 9), (9, 9), (9, 0), (3, 3)]), elsewhere=st.booleans())
    def exchange(self, data, orders, elsewhere):
        life, frames = self.pick(data), 1 << max(orders)
        gfn = self.somewhere(data, life, max(orders))
        target = data.draw(STARTS) if elsewhere else gfn
        if not tracked(gfn, frames) or not tracked(target, frames):
            return
        ins, outs = range(gfn, gfn + frames, 1 << orders[0]), range(target, target + frames, 1 << orders[1])
        answer = life.domain.memory.exchange(ins, orders[0], outs, orders[1])
        self.check_stop(answer)
        if answer.complete:
            self.lose(life, np.arange(gfn, gfn + frames))
            self.gain(life, np.arange(target, target + frames).astype(np.uint64))

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), frames=st.sampled_from([0, 100, 2000, 1 << 20]))
    def claim(self, data, frames):
        life = self.pick(data)
        answer = life.domain.memory.claim(frames)
        if answer.complete and frames:
            claims = self.machine.ledger.claims
            assert sum(claims.values()) <= self.machine.heap.free_frames
            assert claims[life.domain.domid] == frames - life.domain.memory.owned_frames

    # -- what changes no translation ------------------------------------------------------------------------------

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def split(self, data):
        life = self.pick(data)
        p2m, gfn = life.domain.p2m, self.somewhere(data, life)
        try:
            p2m.split(gfn, 0)
        except SHORT:
            assert p2m.get_entry(gfn).order

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def merge_all(self, data):
        self.pick(data).domain.p2m.merge_all()

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), sizes=st.sampled_from([None, "4K"]))
    def set_page_sizes(self, data, sizes):
        self.pick(data).domain.set_page_sizes(sizes)

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def change_frame(self, data):
        """Give a gfn another frame with the same contents."""
        life = self.pick(data)
        gfn = self.somewhere(data, life)
        try:
            mfn = self.machine.heap.alloc(0)
        except HeapExhaustedError:
            return
        old = int(life.mfns[place_of(gfn)])
        if not life.is_own[place_of(gfn)]:
            self.machine.heap.free(mfn, 0)
            return
        try:
            life.domain.p2m.move(gfn, mfn)
        except SHORT:
            self.machine.heap.free(mfn, 0)
            return
        life.mfns[place_of(gfn)] = mfn
        if old in self.stamps:
            self.stamps[mfn] = self.stamps[old]
        self.forget(life, [old])

    # -- shortage -------------------------------------------------------------------------------------------------

    @rule(order=st.sampled_from([0, 9]), left=st.integers(0, 3))
    def squeeze(self, order, left):
        """Somebody takes all large blocks but a few, so that one of the next allocations fails."""
        for each in (10, 9, *([order] if order == 0 else [])):
            mfns, counts = self.machine.heap.alloc_runs(each, FRAMES)
            for start, count in zip(mfns.tolist(), counts.tolist(), strict=True):
                self.kept += [(mfn, each) for mfn in range(start, start + (count << each), 1 << each)]
        for _ in range(left):
            if self.kept:
                self.machine.heap.free(*self.kept.pop())

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def ease(self, data):
        for _ in range(data.draw(st.integers(1, len(self.kept)))):
            self.machine.heap.free(*self.kept.pop(0))

    # -- what must always hold ------------------------------------------------------------------------------------

    @invariant()
    def every_frame_is_accounted_for(self):
        free = np.zeros(FRAMES, np.bool_)
        for mfn, order in self.machine.heap.blocks():
            free[mfn : mfn + (1 << order)] = True
        use, owner, m2p = np.zeros(FRAMES, np.uint8), np.zeros(FRAMES, np.uint16), np.zeros(FRAMES, np.uint64)
        taken = np.zeros(FRAMES, np.int64)
        for mfn, order in self.kept:
            taken[mfn : mfn + (1 << order)] += 1
        for life in self.lives:
            domain = life.domain
            for mfn, length in zip(*(runs.tolist() for runs in domain.pool.runs), strict=True):
                use[mfn : mfn + length], owner[mfn : mfn + length] = Use.TABLES, domain.domid
                taken[mfn : mfn + length] += 1
            held = np.array(life.held, np.int64)
            use[held], owner[held] = Use.RAM, domain.domid
            np.add.at(taken, held, 1)
            special = np.array(list(life.special.values()), np.int64)
            use[special], owner[special] = Use.XEN, domain.domid
            np.add.at(taken, special, 1)
            mapped = (life.mfns != INVALID_MFN) & (life.kinds != FOREIGN)
            m2p[life.mfns[mapped]] = ~GFNS[mapped]
            assert domain.memory.owned_frames == len(held)
        for mfn, domid in self.referenced.items():
            use[mfn], owner[mfn] = Use.REFERENCED, domid
            taken[mfn] += 1
        assert self.machine.ledger.references == self.references
        assert np.array_equal(taken, (~free).astype(np.int64)), "each frame has one holder, or is free"
        assert np.array_equal(self.machine.frame_table.use, use)
        assert np.array_equal(self.machine.frame_table.owner, owner)
        assert np.array_equal(self.machine.m2p.complement, m2p)
        assert_heap_is_canonical(self.machine.heap)
        self.free = free

    @invariant()
    def every_domain_maps_what_the_model_says(self):
        for life in self.lives:
            p2m = life.domain.p2m
            assert np.array_equal(p2m.translate(GFNS), life.mfns)
            assert p2m.runs(0, p2m.max_gfn)[2].sum() == (life.mfns != INVALID_MFN).sum(), "and nothing elsewhere"
            report = p2m.audit()
            assert report.clean, report.findings
            assert report.orphans == len(life.orphans)
            assert self.is_xen or report.empty_tables == 0
            assert p2m.tables == report.tables
            counters = p2m.counters
            assert counters.flushes_owed == counters.flushes_done
            assert counters.tables_allocated - counters.tables_freed == p2m.tables

    @invariant()
    def what_guests_wrote_is_where_they_wrote_it(self):
        for mfn, serial in self.stamps.items():
            assert self.machine.arena.read(mfn << 12, 8) == serial.to_bytes(8, "little")
