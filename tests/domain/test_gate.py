"""What is dying, closed or in the middle of something does nothing that others ask of it."""

import gc
from collections import UserList
from pathlib import Path

import numpy as np
import pytest

from snapshots import assert_every_frame_is_accounted_for, snapshot
from twofold.domain import DomainOptions, Machine, Mem, Reason, build, replay
from twofold.dumps import open_tables
from twofold.errors import ClosedError, DomainError, ListenerError, SizeError, TwofoldError, WriteRefusedError
from twofold.guest import Guest, Session
from twofold.guest.engine import Start
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN

OPTIONS = DomainOptions(layout="flat", table_pool=60)


def made(machine, size="4MiB"):
    """Return a domain with all of its memory."""
    domain = machine.create_domain(size, options=OPTIONS)
    build(domain, "small")
    return domain


@pytest.fixture
def machine():
    with Machine("64MiB") as machine:
        yield machine


@pytest.fixture
def domain(machine):
    return made(machine)


@pytest.fixture
def other(machine):
    return made(machine)


# Each operation, by name, on a domain and what callers may have kept of it.
OPERATIONS = {
    "P2M.set_entry": lambda d: d.p2m.set_entry(0, 5, 0),
    "P2M.set_entry of a hole": lambda d: d.p2m.set_entry(0, INVALID_MFN, 0, P2MType.INVALID),
    "P2M.set_entries": lambda d: d.p2m.set_entries([0], [5]),
    "P2M.remove_entries": lambda d: d.p2m.remove_entries([0]),
    "P2M.unmap": lambda d: d.p2m.unmap(0, 1),
    "P2M.split": lambda d: d.p2m.split(0, 0),
    "P2M.split_all": lambda d: d.p2m.split_all(),
    "P2M.merge": lambda d: d.p2m.merge(0, 9),
    "P2M.merge_all": lambda d: d.p2m.merge_all(),
    "P2M.change_type": lambda d: d.p2m.change_type(0, 1, P2MType.RAM_RO),
    "P2M.move": lambda d: d.p2m.move(0, 5),
    "P2M.fault": lambda d: d.p2m.fault(0),
    "P2M.linear": lambda d: d.p2m.linear,
    "P2M.gfn_to_mfn_current": lambda d: d.p2m.gfn_to_mfn_current(0),
    "P2M.page_sizes": lambda d: setattr(d.p2m, "page_sizes", (0,)),
    "Domain.write": lambda d: d.write(0, b"x"),
    "Domain.wipe": lambda d: d.wipe(),
    "Domain.set_page_sizes": lambda d: d.set_page_sizes("4K"),
    "Domain.pause": lambda d: d.pause(),
    "WriteDoor.zero_frames": lambda d: d.door.zero_frames(np.zeros(1, np.uint64)),
    "WriteDoor.wipe": lambda d: d.door.wipe(np.zeros(1, np.uint64), np.ones(1, np.uint64)),
    "MemoryOperations.release_all": lambda d: d.memory.release_all(),
    "build": build,
}
LOOKS = {
    "P2M.get_entry": lambda d: d.p2m.get_entry(0),
    "P2M.translate": lambda d: d.p2m.translate([0]),
    "P2M.translate in bulk": lambda d: d.p2m.translate(range(5000)),
    "P2M.walk": lambda d: d.p2m.walk(0),
    "P2M.runs": lambda d: d.p2m.runs(0, 10),
    "P2M.leaf_array": lambda d: d.p2m.leaf_array(),
    "P2M.leaves": lambda d: d.p2m.leaves(),
    "P2M.clear_frames": lambda d: d.p2m.clear_frames(0, 5),
    "P2M.audit": lambda d: d.p2m.audit(),
    "Domain.read": lambda d: d.read(0, 5),
    "Hap.allows": lambda d: d.paging.allows(0),
}
ANSWERS = {
    "populate": lambda m: m.populate_physmap([0x2000], 0),
    "decrease": lambda m: m.decrease_reservation([0], 0),
    "increase": lambda m: m.increase_reservation(1, 0),
    "exchange": lambda m: m.exchange([0], 0, [0], 0),
    "add": lambda m: m.add_to_physmap("shared_info", 0, 0x2000),
    "range": lambda m: m.add_to_physmap_range(0, 0x2000, 1),
    "remove": lambda m: m.remove_from_physmap(0),
    "claim": lambda m: m.claim(1 << 13),
}


# -- what is dying, and what is dead --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", {**OPERATIONS, **LOOKS})
def test_a_dying_domain_does_nothing_from_the_first_step_to_the_last(machine, domain, other, name):
    steps = 0
    while not domain.destroy(lambda: True):
        before = snapshot(other), machine.heap.free_frames
        with pytest.raises(TwofoldError, match="being destroyed"):
            {**OPERATIONS, **LOOKS}[name](domain)
        assert (snapshot(other), machine.heap.free_frames) == before
        steps += 1
    assert steps > 2
    with pytest.raises(TwofoldError, match="destroyed"):
        {**OPERATIONS, **LOOKS}[name](domain)
    assert_every_frame_is_accounted_for(machine)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_memory_operation_answers_that_its_domain_is_dying_and_is_refused_when_it_is_gone(domain, name):
    memory = domain.memory
    while not domain.destroy(lambda: True):
        assert ANSWERS[name](memory).reason is Reason.DYING
    with pytest.raises(DomainError, match="is destroyed"):
        ANSWERS[name](memory)


def test_handles_that_somebody_kept_are_dead_when_the_domain_is(machine, domain):
    guest, linear = Guest(domain, footprint="1MiB"), domain.p2m.linear
    session = Session(guest)
    domain.destroy()
    for deed in (
        lambda: linear.read(0, 0),
        lambda: linear.address(0, 0),
        linear.release,
        lambda: guest.walk(0),
        lambda: guest.program_pages(0, 1),
        guest.wipe_area,
        lambda: guest.tables.map(0, np.zeros(1, np.uint64), 0),
        lambda: session.start(Start(0, {})),
        domain.check_runnable,
    ):
        with pytest.raises(DomainError, match="destroyed"):
            deed()
    session.stop()
    assert machine.heap.free_frames == machine.frames


def test_a_root_that_is_somebody_elses_memory_is_never_walked():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("4MiB", options=DomainOptions(layout="flat", table_pool=3000))
        root = int(domain.p2m.root)
        thief = machine.create_domain("16MiB", options=DomainOptions(layout="flat", table_pool=600))
        domain.destroy(lambda: int(machine.frame_table.owner[root]) == 0)
        taken = 0
        while machine.m2p[root] == (1 << 64) - 1:
            thief.memory.populate_physmap(range(taken, taken + 200), 0)
            taken += 200
        thief.write(machine.m2p[root] << 12, np.full(512, 0xFFFFFFFFF067, np.uint64).tobytes())
        for deed in (*OPERATIONS.values(), *LOOKS.values()):
            with pytest.raises(TwofoldError, match="being destroyed"):
                deed(domain)
        while not domain.destroy():
            pass
        assert thief.p2m.audit().clean


def test_teardown_never_frees_what_was_given_away_meanwhile():
    """Whoever goes past the operations gives a dying domain's memory away between two steps."""
    with Machine("64MiB") as machine:
        domain = machine.create_domain("4MiB", options=OPTIONS)
        other = machine.create_domain("4MiB", options=OPTIONS)
        domain.memory.increase_reservation(5000, 0)
        domain.destroy(lambda: True)
        with pytest.raises(DomainError, match="release_all"):
            domain.memory.release_all()
        other.memory.populate_physmap(range(9000), 0)
        while not domain.destroy(lambda: False):
            pass
        assert other.p2m.audit().clean
        third = machine.create_domain("1MiB", options=OPTIONS)
        third.memory.populate_physmap(range(2000), 0)
        mine, its = (set(each.p2m.translate(range(2000)).tolist()) - {INVALID_MFN} for each in (other, third))
        assert not mine & its
        assert_every_frame_is_accounted_for(machine)


def test_a_journal_of_what_was_refused_replays(tmp_path):
    path = tmp_path / "refused.journal"
    with Machine("64MiB", journal=path) as machine:
        domain, other = made(machine), made(machine)
        while not domain.destroy(lambda: True):
            with pytest.raises(DomainError):
                domain.p2m.set_entry(0, 5, 0)
            assert domain.memory.populate_physmap([0], 0).reason is Reason.DYING
        with pytest.raises(DomainError):
            domain.p2m.set_entry(0, 5, 0)
        assert domain.destroy()
        other.write(0, b"it goes on")
        digest = machine.digest()
    again = replay(path)
    assert again.digest == digest
    again.machine.close()


# -- what is closed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", {**OPERATIONS, **LOOKS})
def test_nothing_of_a_closed_machine_does_anything(domain, machine, name):
    machine.close()
    with pytest.raises(ClosedError, match="is closed"):
        {**OPERATIONS, **LOOKS}[name](domain)


@pytest.mark.parametrize("name", ANSWERS)
def test_no_memory_operation_is_done_on_a_closed_machine(domain, machine, name):
    machine.close()
    with pytest.raises(ClosedError, match="is closed"):
        ANSWERS[name](domain.memory)


def test_a_closed_machine_itself_refuses_everything_and_is_closed_again_in_peace(machine, domain):
    arena, heap = machine.arena, machine.heap
    machine.close()
    machine.close()
    for deed in (
        lambda: machine.create_domain("1MiB"),
        lambda: machine.set_page_sizes("4K"),
        lambda: machine.save("never"),
        machine.digest,
        machine.frames_by_use,
        lambda: heap.alloc(0),
        lambda: heap.free(0, 0),
        lambda: heap.free_frames,
        lambda: arena.read(0, 1),
        lambda: arena.write(0, b"x"),
        domain.destroy,
    ):
        with pytest.raises(ClosedError, match="is closed"):
            deed()


def test_closed_tables_of_a_file_answer_nothing(machine, domain, tmp_path):
    machine.save(tmp_path / "saved")
    tables = open_tables(tmp_path / "saved", reader="machine")
    assert tables.get_entry(0).mfn == domain.p2m.get_entry(0).mfn
    tables.close()
    tables.close()
    for deed in (
        lambda: tables.get_entry(0),
        lambda: tables.translate([0]),
        lambda: tables.walk(0),
        lambda: tables.fault(0),
        tables.audit,
        tables.leaf_array,
        lambda: tables.runs(0, 5),
    ):
        with pytest.raises(ClosedError, match="is closed"):
            deed()


def resident() -> int:
    """Return the bytes of this process that are in memory, shared ones too."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closing_gives_memory_and_descriptors_back_at_once():
    gc.collect()
    gc.disable()
    try:
        before, fds = resident(), descriptors()
        for _ in range(4):
            machine = Machine("64MiB")
            domain = machine.create_domain("32MiB", options=OPTIONS)
            build(domain)
            domain.write(0, b"x" * (30 << 20))
            machine.close()
        assert resident() - before < 60 << 20
        assert descriptors() == fds
    finally:
        gc.enable()


@pytest.mark.parametrize("wrong", [{"nodes": 1000}, {"nodes": 0}, {"behaviour": "xen-9"}, {"paging": "6-level"}, {}])
def test_a_machine_that_cannot_be_made_leaves_no_descriptor_behind(wrong, tmp_path):
    fds = descriptors()
    for _ in range(20):
        with pytest.raises(TwofoldError):
            Machine("1MiB", **(wrong or {"journal": tmp_path / "no such folder" / "a.journal"}))
    assert descriptors() == fds


# -- what is called in the middle of an operation ------------------------------------------------------------------

REENTRIES = {
    "Domain.destroy": lambda d, _: d.destroy(),
    "Machine.close": lambda d, _: d.machine.close(),
    "Machine.create_domain": lambda d, _: d.machine.create_domain("1MiB"),
    "MemoryOperations.decrease_reservation": lambda d, _: d.memory.decrease_reservation([1], 0),
    "MemoryOperations.release_all": lambda d, _: d.memory.release_all(),
    "P2M.set_entry": lambda d, _: d.p2m.set_entry(3, 5, 0),
    "P2MTables.unmap": lambda d, _: d.p2m.unmap(3, 1),
    "P2MTables.on_flush": lambda d, _: d.p2m.on_flush(print),
    "Domain.write": lambda _, o: o.write(0, b"x"),
    "Heap.alloc": lambda d, _: d.machine.heap.alloc(0),
    "build": lambda _, o: build(o),
}


class Hostile(UserList):
    """A sequence that does something else whenever it is asked for an element."""

    def __init__(self, gfns, deed):
        super().__init__(gfns)
        self.deed = deed

    def __getitem__(self, index):
        self.deed()
        return self.data[index]


# Each callback: what calls it, given a deed that it does.
CALLED = {
    "preempt of populate": lambda d, _, do: d.memory.populate_physmap([0x2000, 0x2001], 0, preempt=do),
    "preempt of decrease": lambda d, _, do: d.memory.decrease_reservation([0x10, 0x11], 0, preempt=do),
    "preempt of increase": lambda d, _, do: d.memory.increase_reservation(2, 0, preempt=do),
    "preempt of a range": lambda d, _, do: d.memory.add_to_physmap_range(0x10, 0x2000, 2, preempt=do),
    "preempt of a batch": lambda d, o, do: d.memory.add_to_physmap_batch(
        "gmfn_foreign", [5, 6], [0x2000, 0x2001], foreign=o.domid, preempt=do
    ),
    "preempt of exchange": lambda d, _, do: d.memory.exchange([0x10, 0x11], 0, [0x10, 0x11], 0, preempt=do),
    "preempt of destroy": lambda d, _, do: d.destroy(do),
    "gfns of populate": lambda d, _, do: d.memory.populate_physmap(Hostile([0x2000], do), 0),
    "gfns of decrease": lambda d, _, do: d.memory.decrease_reservation(Hostile([0x10], do), 0),
    "progress of split_all": lambda d, _, do: d.p2m.split_all(progress=lambda *_: do()),
    "progress of audit": lambda d, _, do: d.p2m.audit(progress=lambda *_: do()),
}


@pytest.mark.parametrize("deed", REENTRIES)
@pytest.mark.parametrize("called", CALLED)
def test_what_an_operation_calls_can_change_nothing_and_is_told_so_by_name(machine, domain, other, called, deed):
    tried = []

    def do() -> bool:
        before = [snapshot(each) for each in (domain, other) if not each.is_dying]
        with pytest.raises(ListenerError, match=f"{deed}.* is refused while .* is under way") as caught:
            REENTRIES[deed](domain, other)
        assert caught.value.operation == deed
        assert [snapshot(each) for each in (domain, other) if not each.is_dying] == before, "it may look"
        tried.append(1)
        return False

    CALLED[called](domain, other, do)
    assert tried
    while domain.is_dying and not domain.destroy():
        pass
    for each in machine.domains.values():
        assert each.p2m.audit().clean
    assert_every_frame_is_accounted_for(machine)
    other.memory.decrease_reservation([0], 0)  # afterwards everything goes on


LISTENED = {
    "decrease": lambda d, _: d.memory.decrease_reservation([0x10, 0x11], 0),
    "decrease large": lambda d, _: d.memory.decrease_reservation([0x200], 9),
    "exchange": lambda d, _: d.memory.exchange([0x10], 0, [0x10], 0),
    "exchange elsewhere": lambda d, _: d.memory.exchange([0x10], 0, [0x3000], 0),
    "add foreign": lambda d, o: d.memory.add_to_physmap("gmfn_foreign", 5, 0x10, foreign=o.domid),
    "add own": lambda d, _: d.memory.add_to_physmap("gmfn", 0x10, 0x20),
    "add special": lambda d, _: d.memory.add_to_physmap("shared_info", 0, 0x10),
    "remove": lambda d, _: d.memory.remove_from_physmap(0x10),
    "range": lambda d, _: d.memory.add_to_physmap_range(0x10, 0x20, 4),
    "populate": lambda d, _: d.memory.populate_physmap([0x4000], 0),
    "release": lambda d, _: d.memory.release_all(),
    "move": lambda d, _: d.p2m.move(0x10, d.machine.heap.alloc(0)),
    "change_type": lambda d, _: d.p2m.change_type(0x10, 2, P2MType.RAM_LOGDIRTY),
    "destroy": lambda d, _: d.destroy(),
}


@pytest.mark.parametrize("deed", ["fails", "Domain.destroy", "Machine.close", "MemoryOperations.decrease_reservation"])
@pytest.mark.parametrize("kind", ["on_change", "on_flush"])
@pytest.mark.parametrize("name", LISTENED)
def test_an_operation_is_whole_whatever_its_listeners_do(name, kind, deed):
    """The same operation, with a listener that raises or tries what it may not, and without one."""
    ends = []
    for is_heard in (False, True):
        with Machine("64MiB") as machine:
            domain, other = made(machine), made(machine)
            told = []

            def listener(_news, domain=domain, other=other, told=told):
                told.append(1)
                if deed == "fails":
                    raise RuntimeError
                REENTRIES[deed](domain, other)

            if is_heard:
                getattr(domain.p2m, kind)(listener)
            try:
                LISTENED[name](domain, other)
            except (RuntimeError, ListenerError):
                assert told
            else:
                assert not told
            assert_every_frame_is_accounted_for(machine)
            for each in machine.domains.values():
                assert each.p2m.audit().clean
            ends.append([snapshot(other), machine.ledger.references.copy(), machine.heap.free_frames])
            if not domain.is_dying:
                ends[-1].append(snapshot(domain))
    assert ends[0] == ends[1]


def test_what_a_preempt_raises_leaves_what_was_done_and_nothing_of_the_rest(machine, domain):
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        domain.memory.populate_physmap([0x2000, 0x2001, 0x2002], 0, preempt=fail)
    assert domain.p2m.clear_frames(0x2000, 3) == 0
    assert domain.p2m.get_entry(0x2000).mfn != INVALID_MFN
    assert domain.p2m.clear_frames(0x2001, 2) == 2
    with pytest.raises(RuntimeError):
        domain.destroy(fail)
    assert domain.is_dying
    assert not domain.destroy(lambda: True), "it is not done, and does not say so"
    while not domain.destroy(lambda: True):
        pass
    assert machine.heap.free_frames == machine.frames


class Greedy:
    """A design that populates, and does something else."""

    name = "greedy"

    def __init__(self, deed):
        self.deed = deed

    def populate(self, populate, gfns, _layout):
        populate(gfns, 0, Mem.NONE)
        self.deed()


@pytest.mark.parametrize("deed", REENTRIES)
def test_a_design_populates_and_does_nothing_else(machine, other, deed):
    domain = machine.create_domain("4MiB", options=OPTIONS)
    with pytest.raises(ListenerError, match="called by the design greedy, is refused while build is under way"):
        build(domain, Greedy(lambda: REENTRIES[deed](domain, other)))
    assert domain.memory.owned_frames == 0
    assert domain.p2m.is_empty
    build(domain, Greedy(lambda: domain.p2m.get_entry(0)))
    assert domain.memory.owned_frames == 1024
    assert_every_frame_is_accounted_for(machine)


@pytest.mark.parametrize("deed", REENTRIES)
def test_a_watcher_of_stores_may_refuse_and_change_nothing(domain, other, deed):
    def watch(_store):
        with pytest.raises(ListenerError, match=deed):
            REENTRIES[deed](domain, other)
        raise WriteRefusedError(0, "host", "so it is")

    domain.on_write(watch)
    with pytest.raises(WriteRefusedError):
        domain.write(0, b"x")
    domain.off_write(watch)
    domain.write(0, b"x")


@pytest.mark.parametrize("name", ["Domain.destroy", "Machine.close", "Session.stop", "Session.run"])
def test_a_resolver_may_operate_and_neither_end_anything_nor_run_it_again(machine, name):
    domain = machine.create_domain("4MiB", options=OPTIONS)
    domain.memory.populate_physmap([1], 0)
    domain.write(0x1000, bytes.fromhex("c7050040000007000000f4"))  # mov dword [0x4000], 7; hlt
    session, refused = Session(domain), []

    def resolve(fault):
        ends = {"Domain.destroy": domain.destroy, "Machine.close": machine.close}
        ends |= {"Session.stop": session.stop, "Session.run": session.run}
        with pytest.raises(ListenerError, match=f"{name} is refused while the run of a guest"):
            ends[name]()
        refused.append(name)
        return domain.memory.populate_physmap([fault.gpa >> 12], 0).complete

    domain.paging.on_fault(resolve)
    session.start(Start(0x1000, {"esp": 0x8000}))
    assert session.run().reason == "halted"
    assert refused == [name]
    assert domain.read(0x4000, 1) == b"\x07"
    session.stop()


# -- what a domain may have -----------------------------------------------------------------------------------------


def test_an_exchange_does_not_eat_a_claim(domain, machine):
    owned = domain.memory.owned_frames
    assert domain.memory.claim(owned + 100).complete
    for where in (0x10, 0x3000):
        assert domain.memory.exchange([0x10], 0, [where], 0).complete
        assert machine.ledger.claims == {domain.domid: 100}


def test_pages_of_the_hypervisors_own_keep_claims_within_what_is_free(domain, other, machine):
    free = machine.heap.free_frames
    assert domain.memory.claim(domain.memory.owned_frames + free).complete
    assert other.memory.add_to_physmap("grant_table", 0, 0x3000).reason is Reason.NO_MEMORY
    assert domain.memory.add_to_physmap("grant_table", 0, 0x3000).complete
    assert sum(machine.ledger.claims.values()) <= machine.heap.free_frames
    assert domain.p2m.linear.exists
    assert sum(machine.ledger.claims.values()) <= machine.heap.free_frames


def test_a_size_that_no_host_can_map_is_refused():
    with pytest.raises(SizeError):
        Machine(f"{1 << 30}GiB")
