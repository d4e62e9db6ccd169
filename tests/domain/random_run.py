"""Random operations on a machine with several domains: what a journal has to hold, failures too."""

import numpy as np

from kinds import FORMATS
from twofold.domain import DomainOptions, Machine, Mem
from twofold.errors import TwofoldError
from twofold.machine import Origin, Zones
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN

MACHINE = "384MiB"
MOST_DOMAINS = 4
SPACE = 24 << 10  # gfns that operations are about: 96 MiB
ORDERS = (0, 0, 0, 1, 3, 9, 9, 10)
TYPES = (P2MType.RAM_RW, P2MType.RAM_RO, P2MType.RAM_LOGDIRTY)
PAGE_SIZES = (None, "4K", "4K,2M")


class RandomRun:
    """Does random operations on one machine.

    Parameters
    ----------
    machine : the machine; its paging decides which table formats there are
    seed : of what is done
    """

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine = machine
        self.random = np.random.default_rng(seed)
        self.formats = [kind for paging, kind in FORMATS.values() if paging == machine.paging]
        self.held: list[tuple[int, int]] = []
        self.failed = 0
        self.rules = [getattr(self, name) for name in dir(self) if name.startswith("do_")]

    def steps(self, count: int) -> None:
        """Do so many operations; what is refused counts."""
        for number in self.random.integers(0, len(self.rules), count).tolist():
            try:
                self.rules[number]()
            except TwofoldError:
                self.failed += 1

    def finish(self) -> None:
        """End the destructions that are half-way: there is no digest of those."""
        for domain in tuple(self.machine.domains.values()):
            if domain.is_dying:
                domain.destroy()

    # -- what is drawn ------------------------------------------------------------------------------------------

    def number(self, end: int) -> int:
        return int(self.random.integers(0, end))

    def pick(self, things):
        return things[self.number(len(things))]

    def domain(self):
        if not self.machine.domains:
            self.do_create_domain()
        return self.pick(list(self.machine.domains.values()))

    def gfn(self, order: int = 0) -> int:
        return self.number(SPACE) >> order << order

    def gfns(self, order: int):
        """Return gfns in one of the forms that operations take."""
        first, count = self.gfn(order), 1 + self.number(64 if order < 9 else 3)
        gfns = range(first, first + (count << order), 1 << order)
        return self.pick((gfns, list(gfns)[::-1], tuple(gfns), np.array(gfns, np.uint64)))

    # -- the machine, its domains, its heap ---------------------------------------------------------------------

    def do_create_domain(self):
        if len(self.machine.domains) < MOST_DOMAINS:
            self.machine.create_domain(
                "96MiB",
                f"guest{self.number(100)}",
                DomainOptions(
                    page_sizes=self.pick(PAGE_SIZES) if self.machine.paging == "4-level" else None,
                    table_format=self.pick(self.formats),
                    table_pool=self.pick((None, 6, 40)),
                    max_pages=self.pick((None, None, 10_000)),
                ),
            )

    def do_destroy(self):
        if self.number(20) == 0:
            self.domain().destroy(self.pick((None, lambda: self.number(50) == 0)))

    def do_pause(self):
        self.domain().pause()

    def do_unpause(self):
        self.domain().unpause()

    def do_machine_page_sizes(self):
        self.machine.set_page_sizes(self.pick(PAGE_SIZES))

    def do_page_sizes(self):
        self.domain().set_page_sizes(self.pick((None, "4K")))

    def do_alloc(self):
        if len(self.held) < 200:
            order = self.pick(ORDERS)
            self.held.append((self.machine.heap.alloc(order, Origin(self.pick(list(Zones)))), order))

    def do_alloc_runs(self):
        if len(self.held) < 200:
            order = self.pick(ORDERS)
            mfns, extents = self.machine.heap.alloc_runs(order, 1 + self.number(3))
            for mfn, count in zip(mfns.tolist(), extents.tolist(), strict=True):
                self.held += [(mfn + (each << order), order) for each in range(count)]

    def do_free(self):
        if self.held:
            self.machine.heap.free(*self.held.pop(self.number(len(self.held))))

    def do_free_runs(self):
        given, self.held = self.held[:3], self.held[3:]
        mfns, orders = (np.array([block[part] for block in given], np.uint64) for part in (0, 1))
        self.machine.heap.free_runs(mfns, np.uint64(1) << orders)

    def do_free_what_is_free(self):
        block = next(iter(self.machine.heap.blocks()), None)
        if block is not None:
            self.machine.heap.free(*block)

    # -- memory operations --------------------------------------------------------------------------------------

    def do_populate(self):
        order = self.pick(ORDERS)
        flags = self.pick((Mem.NONE, Mem.FALLBACK, Mem.COALESCE, Mem.EXACT, Mem.FALLBACK | Mem.EXACT))
        self.domain().memory.populate_physmap(self.gfns(order), order, flags, self.pick(("toolstack", "guest")))

    def do_populate_somewhere(self):
        self.domain().memory.populate_physmap(
            self.gfns(0), 0, origin=Origin(node=0, address_bits=self.pick((None, 28)))
        )

    def do_decrease(self):
        order = self.pick(ORDERS)
        self.domain().memory.decrease_reservation(self.gfns(order), order)

    def do_increase(self):
        self.domain().memory.increase_reservation(1 + self.number(4), self.pick(ORDERS))

    def do_remove(self):
        self.domain().memory.remove_from_physmap(self.gfn())

    def do_add(self):
        self.domain().memory.add_to_physmap("gmfn", self.gfn(), self.gfn())

    def do_add_special(self):
        space, index = self.pick((("shared_info", 0), ("grant_table", self.number(70)), ("nothing", 0)))
        self.domain().memory.add_to_physmap(space, index, self.gfn())

    def do_add_foreign(self):
        self.domain().memory.add_to_physmap("gmfn_foreign", self.gfn(), self.gfn(), foreign=self.domain().domid)

    def do_preempted(self):
        gfns, memory = self.gfns(0), self.domain().memory
        preempt = lambda: self.number(4) == 0  # noqa: E731
        first = memory.populate_physmap(gfns, 0, Mem.COALESCE, preempt=preempt)
        memory.populate_physmap(gfns, 0, Mem.COALESCE, start=first.done)
        memory.decrease_reservation(gfns, 0, preempt=preempt)

    def do_add_batch(self):
        count = 1 + self.number(5)
        gfns = [self.gfn() for _ in range(2 * count)]
        self.domain().memory.add_to_physmap_batch("gmfn", gfns[:count], gfns[count:])

    def do_add_range(self):
        gfn = self.gfn()
        self.domain().memory.add_to_physmap_range(gfn, gfn + self.number(20) - 10, 1 + self.number(20))

    def do_exchange(self):
        ins, outs = self.pick(((0, 9), (9, 0), (3, 3), (0, 0)))
        gfn, frames = self.gfn(max(ins, outs)), 1 << max(ins, outs)
        self.domain().memory.exchange(
            range(gfn, gfn + frames, 1 << ins), ins, range(gfn, gfn + frames, 1 << outs), outs
        )

    def do_claim(self):
        self.domain().memory.claim(self.pick((0, 0, 5000, 30_000)))

    # -- the P2M ------------------------------------------------------------------------------------------------

    def do_set_place(self):
        order = self.pick(ORDERS)
        self.domain().p2m.set_entry(
            self.gfn(order), INVALID_MFN, order, self.pick((P2MType.POPULATE_ON_DEMAND, P2MType.MMIO_DM))
        )

    def do_set_device(self):
        order = self.pick(ORDERS)
        mfn = (1 << 30) + self.number(1 << 20) >> order << order
        self.domain().p2m.set_entry(self.gfn(order), mfn, order, P2MType.MMIO_DIRECT)

    def do_set_entries_of_memory_held(self):
        if self.held:
            mfn, order = self.pick(self.held)
            gfns = self.gfn() + np.arange(1 << order, dtype=np.uint64)
            self.domain().p2m.set_entries(gfns, mfn + np.arange(1 << order), P2MType.GRANT_MAP_RO)
            self.held.remove((mfn, order))  # a guest may keep it for ever

    def do_remove_entries_of_nothing(self):
        self.domain().p2m.remove_entries(SPACE + self.random.permutation(50).astype(np.uint64))

    def do_split(self):
        self.domain().p2m.split(self.gfn(), self.pick((0, 9)), move_below=bool(self.number(2)))

    def do_split_all(self):
        first = self.gfn()
        self.domain().p2m.split_all(range(first, first + self.number(2000)), progress=lambda _done, _total: None)

    def do_merge(self):
        self.domain().p2m.merge(self.gfn(), self.pick((9, 10)))

    def do_merge_all(self):
        self.domain().p2m.merge_all()

    def do_move(self):
        if self.held:
            mfn, order = self.pick(self.held)
            self.domain().p2m.move(self.gfn(order), mfn, order)
            self.held.remove((mfn, order))

    def do_change_type(self):
        self.domain().p2m.change_type(self.gfn(), 1 + self.number(600), self.pick(TYPES))

    def do_sizes_of_the_p2m(self):
        p2m = self.domain().p2m
        p2m.page_sizes = self.pick((p2m.geometry.leaf_orders, p2m.geometry.leaf_orders[:1]))

    def do_linear(self):
        self.domain().p2m.gfn_to_mfn_current(self.gfn())

    def do_window(self):
        linear = self.domain().p2m.linear
        if linear.exists:
            linear.read(self.number(2), self.gfn())

    def do_release_linear(self):
        self.domain().p2m.release_linear()

    def do_fault(self):
        self.domain().p2m.fault(self.gfn() << 12, self.pick(("read", "write", "execute")))

    # -- contents -----------------------------------------------------------------------------------------------

    def do_write(self):
        self.domain().write((self.gfn() << 12) + self.number(4096), self.random.bytes(1 + self.number(5000)))

    def do_write_into_the_machine(self):
        if self.held:
            self.machine.arena.write((self.pick(self.held)[0] << 12) + self.number(4000), self.random.bytes(90))

    def do_wipe(self):
        if self.number(30) == 0:
            self.domain().wipe()
