"""The ledger against the simplest model: who holds each frame for what, which gfn it backs, what a domain may have."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from twofold import kernels, spec
from twofold.errors import OwnershipError
from twofold.freemaps import FreeMap
from twofold.machine import Backing, Hardware, Unmapped, Use
from twofold.units import INVALID_GFN

FRAMES = 256
DOMIDS = st.integers(1, 3)
USES = st.sampled_from([Use.RAM, Use.RAM, Use.TABLES, Use.XEN])


def runs(*pairs):
    table = np.array(pairs, np.uint64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def singles(mfns):
    return np.array(mfns, np.uint64), np.ones(len(mfns), np.uint64)


def unmapped(*rows):
    return Unmapped(*(np.array(column, np.uint64) for column in zip(*rows, strict=True)))


@pytest.fixture
def hardware(engine):
    hardware = Hardware(FreeMap.empty_machine("1MiB"), engine)
    yield hardware
    hardware.close()


# -- what may be freed ------------------------------------------------------------------------------------------------


def test_what_is_unmapped_is_used_once(hardware):
    mfns, extents = hardware.heap.alloc_runs(3, 1)
    hardware.ledger.take(mfns, extents << np.uint64(3), 1, Use.RAM)
    once = Unmapped.never_mapped(mfns, extents << np.uint64(3))
    hardware.ledger.release(once, 1)
    before = hardware.digest()
    for again in (hardware.ledger.unhook, lambda each: hardware.ledger.release(each, 1)):
        with pytest.raises(OwnershipError, match="was given back before"):
            again(once)
    with pytest.raises(OwnershipError, match="was given back before"):
        list(once.parts(1))
    with pytest.raises(OwnershipError, match="was given back before"):
        once.without(mfns)
    assert hardware.digest() == before


def test_parts_of_what_is_unmapped_keep_their_gfns():
    whole = unmapped((0x100, 40, 10), (0x200, 10, 3), (INVALID_GFN, 90, 5))
    parts = [each for part in whole.parts(4) for each in zip(part.gfns, part.mfns, part.frames, strict=True)]
    where = {mfn + k: gfn if gfn == INVALID_GFN else gfn + k for gfn, mfn, frames in parts for k in range(int(frames))}
    assert where == {
        **{40 + k: 0x100 + k for k in range(10)},
        **{10 + k: 0x200 + k for k in range(3)},
        **{90 + k: INVALID_GFN for k in range(5)},
    }
    assert all(1 <= int(frames) <= 4 for *_, frames in parts)
    with pytest.raises(OwnershipError):
        whole.use()


def test_the_rest_of_what_is_unmapped_keeps_its_gfns():
    left = unmapped((0x100, 40, 10), (0x200, 10, 3)).without(np.array([42, 43, 12, 99], np.uint64))
    rows = zip(left.gfns.tolist(), left.mfns.tolist(), left.frames.tolist(), strict=True)
    assert list(rows) == [(0x200, 10, 2), (0x100, 40, 2), (0x104, 44, 6)]
    whole = unmapped((1, 2, 3))
    assert whole.without(np.zeros(0, np.uint64)) is whole


def test_entries_come_before_the_m2p_and_after_the_owner(hardware):
    ledger, seen = hardware.ledger, []
    mfns, _ = hardware.heap.alloc_runs(0, 1)
    mfn = int(mfns[0])

    def store():
        seen.append((int(hardware.frame_table.owner[mfn]), hardware.m2p[mfn]))

    ledger.take(*singles([mfn]), 2, Use.RAM, Backing(np.array([0x77], np.uint64), store))
    assert seen == [(2, INVALID_GFN)]
    assert hardware.m2p[mfn] == 0x77
    ledger.unhook(unmapped((0x77, mfn, 1)))
    assert hardware.m2p[mfn] == INVALID_GFN
    assert hardware.frame_table.owner[mfn] == 2, "an orphan"
    assert ledger.account(2).owned_frames == 1


def test_tables_touch_neither_quota_nor_m2p(hardware):
    ledger = hardware.ledger
    mfns, _ = hardware.heap.alloc_runs(0, 2)
    ledger.take(mfns, np.full(1, 2, np.uint64), 1, Use.TABLES)
    assert ledger.claim(1, 5)
    assert (ledger.account(1).owned_frames, ledger.claims) == (0, {1: 5})
    hardware.m2p.set_runs(mfns, np.array([9], np.uint64), np.full(1, 2, np.uint64))
    ledger.release(Unmapped.never_mapped(mfns, np.full(1, 2, np.uint64)), 1, Use.TABLES)
    assert hardware.m2p[int(mfns[0])] == 9, "not even looked at"


def test_what_takes_the_place_of_other_memory_uses_no_claim(hardware):
    ledger = hardware.ledger
    assert ledger.claim(1, 5)
    old = hardware.heap.alloc_runs(0, 2)
    ledger.take(*old, 1, Use.RAM)
    assert ledger.claims == {1: 3}
    new = hardware.heap.alloc_runs(0, 2)
    ledger.take(*new, 1, Use.RAM, in_place=True)
    ledger.release(Unmapped.never_mapped(*old), 1)
    assert (ledger.claims, ledger.account(1).owned_frames) == ({1: 3}, 2)


# -- a machine of three domains ---------------------------------------------------------------------------------------


class LedgerModel(RuleBasedStateMachine):
    """Frames are given, mapped, unmapped, shown to others and taken away, against dicts."""

    @initialize(engine=st.sampled_from([spec, kernels]))
    def start(self, engine):
        self.hardware = Hardware(FreeMap.empty_machine(FRAMES << 12), engine)
        self.ledger = self.hardware.ledger
        self.held: dict[int, tuple[int, Use]] = {}  # by mfn: whose, for what
        self.gfns: dict[int, int] = {}  # by mfn: what it backs
        self.claims: dict[int, int] = {}
        self.foreign: dict[tuple[int, int], int] = {}  # (domid, gfn): a frame of another
        self.limits: dict[int, int | None] = dict.fromkeys(range(1, 4))
        self.next_gfn = 0x1000

    def teardown(self):
        if hasattr(self, "hardware"):
            self.hardware.close()

    def owned(self, domid):
        return sum(held == (domid, Use.RAM) for held in self.held.values())

    def mine(self, data, domid, use):
        """Return some frames that a domain holds for a use."""
        frames = sorted(mfn for mfn, held in self.held.items() if held == (domid, use))
        return data.draw(st.lists(st.sampled_from(frames), max_size=8, unique=True)) if frames else []

    @rule(domid=DOMIDS, use=USES, order=st.integers(0, 3), extents=st.integers(1, 4), where=st.integers(0, 2))
    def take(self, domid, use, order, extents, where):
        mfns, counts = self.hardware.heap.alloc_runs(order, extents)
        frames = counts << np.uint64(order)
        taken = [
            mfn for first, n in zip(mfns.tolist(), frames.tolist(), strict=True) for mfn in range(first, first + n)
        ]
        backing = None
        if where and use is not Use.TABLES:
            gfns = np.uint64(self.next_gfn) + np.cumsum(frames) - frames
            self.next_gfn += len(taken)
            self.gfns |= {
                mfn + k: gfn + k
                for gfn, mfn, n in zip(gfns.tolist(), mfns.tolist(), frames.tolist(), strict=True)
                for k in range(n)
            }
            backing = Backing(gfns, lambda: None)
        self.ledger.take(mfns, frames, domid, use, backing, in_place=where == 2)
        self.held |= dict.fromkeys(taken, (domid, use))
        if use is Use.RAM and where != 2:
            left = self.claims.pop(domid, 0) - len(taken)
            if left > 0:
                self.claims[domid] = left

    @rule(data=st.data(), domid=DOMIDS, use=USES)
    def release(self, data, domid, use):
        frames = self.mine(data, domid, use)
        gfns = np.array([self.gfns.get(mfn, INVALID_GFN) for mfn in frames], np.uint64)
        self.ledger.release(Unmapped(gfns, *singles(frames)), domid, use)
        for mfn in frames:
            self.gfns.pop(mfn, None)
            if mfn in self.foreign.values():
                self.held[mfn] = domid, Use.REFERENCED
            else:
                del self.held[mfn]

    @rule(data=st.data(), domid=DOMIDS)
    def unhook(self, data, domid):
        frames = self.mine(data, domid, Use.RAM)
        self.ledger.unhook(Unmapped.never_mapped(*singles(frames)))
        for mfn in frames:
            self.gfns.pop(mfn, None)

    @rule(data=st.data(), domid=DOMIDS, other=DOMIDS, gfn=st.integers(0, 3))
    def reference(self, data, domid, other, gfn):
        frames = self.mine(data, other, Use.RAM)[:1]
        if domid == other or not frames:
            return
        self.ledger.reference(domid, gfn, frames[0])
        before = self.foreign.pop((domid, gfn), None)
        self.foreign[domid, gfn] = frames[0]
        self.let_go(before)

    @rule(domid=DOMIDS, gfn=st.integers(0, 3))
    def unreference(self, domid, gfn):
        mfn = self.foreign.pop((domid, gfn), None)
        self.ledger.unreference(domid, unmapped((gfn, mfn or 0, 1)))
        self.let_go(mfn)

    def let_go(self, mfn):
        if mfn is not None and mfn not in self.foreign.values() and self.held[mfn][1] is Use.REFERENCED:
            del self.held[mfn]

    @rule(domid=DOMIDS, frames=st.integers(1, FRAMES))
    def claim(self, domid, frames):
        free = FRAMES - len(self.held) - sum(n for owner, n in self.claims.items() if owner != domid)
        assert self.ledger.claim(domid, frames) is (frames <= free)
        if frames <= free:
            self.claims[domid] = frames

    @rule(domid=DOMIDS)
    def drop_claim(self, domid):
        self.ledger.drop_claim(domid)
        self.claims.pop(domid, None)

    @rule(domid=DOMIDS, limit=st.sampled_from([None, 0, 20, 100]))
    def limit(self, domid, limit):
        self.ledger.account(domid).max_pages = self.limits[domid] = limit

    @invariant()
    def every_frame_is_held_as_the_model_says(self):
        if not hasattr(self, "hardware"):
            return
        table, free = self.hardware.frame_table, np.ones(FRAMES, np.bool_)
        for mfn in range(FRAMES):
            owner, use = self.held.get(mfn, (0, Use.NONE))
            assert (table.owner[mfn], table.use[mfn]) == (owner, use)
            assert self.hardware.m2p[mfn] == self.gfns.get(mfn, INVALID_GFN)
            free[mfn] = mfn not in self.held
        for mfn, order in self.hardware.heap.blocks():
            assert free[mfn : mfn + (1 << order)].all()
        assert self.hardware.heap.free_frames == free.sum()

    @invariant()
    def every_domain_may_have_what_the_model_says(self):
        if not hasattr(self, "hardware"):
            return
        assert self.ledger.claims == self.claims
        assert self.ledger.references == Counter(self.foreign.values())
        for domid, limit in self.limits.items():
            others = sum(frames for owner, frames in self.claims.items() if owner != domid)
            free = max(0, FRAMES - len(self.held) - others)
            assert self.ledger.account(domid).owned_frames == self.owned(domid)
            assert self.ledger.free_for(domid) == free
            for order in (0, 2):
                assert self.ledger.unclaimed(domid, 9, order) == (min(9, free >> order) if self.claims else 9)
                room = 9 if limit is None else max(0, limit - self.owned(domid)) >> order
                assert self.ledger.quota(domid, 9, order) == min(9, room)
            known = {gfn: mfn for (owner, gfn), mfn in self.foreign.items() if owner == domid}
            assert self.ledger.account(domid).foreign == known


TestLedgerModel = LedgerModel.TestCase
