"""Sessions: executing in parts comes to what one run does; faults, pauses, flushes, engines from elsewhere."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_elf import ENTRY, HALT, SPIN, code, finish_with_rax, load_from

from twofold.domain import DomainOptions, Machine, build
from twofold.errors import AccessRefusedError, DomainError, GuestError, UnknownNameError
from twofold.formats import shape
from twofold.formats.p2m_types import P2MType
from twofold.formats.status import FORBIDDEN, NOT_PRESENT
from twofold.guest import EngineSession, Guest, Program, Session, Start, engine_names, load_program, run
from twofold.guest.unicorn_engine import UnicornSession
from twofold.trace import AREA_BASE, WORKLOADS
from twofold.units import ORDER_2M

FOOTPRINT = 64 << 10
WORK = Program.workload("gups", steps=60, seed=3)
ANSWER = WORKLOADS["gups"].answer(3, AREA_BASE, FOOTPRINT, 60)


def make_guest(machine, design="small", accessed_dirty="preset", **options):
    domain = machine.create_domain("16MiB", options=DomainOptions(accessed_dirty=accessed_dirty, **options))
    build(domain, design)
    return Guest(domain, footprint=FOOTPRINT, accessed_dirty=accessed_dirty)


@pytest.fixture(scope="module")
def shared():
    """A guest that no test changes."""
    with Machine("64MiB") as machine:
        yield make_guest(machine)


@pytest.fixture
def guest():
    with Machine("64MiB") as machine:
        yield make_guest(machine)


def started(guest, program=WORK, engine="unicorn"):
    session = Session(guest, engine)
    session.start(load_program(guest, program))
    return session


def result_of(guest):
    """Return the answer that the last program has left in its parameter block."""
    gpa = int(guest.program_pages(0x200000, 1)[0]) << 12
    return int.from_bytes(guest.domain.read(gpa + 40, 8), "little")


def at_once(guest, program=WORK):
    """Return (registers, accesses, result, steps) of a run that nothing stops before its end."""
    with started(guest, program) as session:
        stop = session.run(steps=10**6)
        assert stop.reason == "halted"
        return session.registers, session.accesses.tolist(), result_of(guest), stop.steps


def data_gfns(guest):
    """Return the gfn of each page of the area, in the order of its addresses."""
    return [
        next(step for step in reversed(guest.walk(AREA_BASE + offset)[1]) if step.guest).entry >> 12 & 0xFFFFF
        for offset in range(0, FOOTPRINT, 4096)
    ]


# -- parts ----------------------------------------------------------------------------------------------------------


PORTIONS = st.lists(st.one_of(st.integers(1, 9), st.integers(1, 700), st.none()), max_size=12)


@settings(max_examples=15)
@given(portions=PORTIONS)
def test_any_portions_come_to_what_one_run_does(shared, portions):
    """A portion is a number of steps; None is a pause, of a run that counts and of one that does not."""
    registers, accesses, result, steps = at_once(shared)
    done = 0
    with started(shared) as session:
        for portion in (*portions, steps):
            if portion is None:
                for limit in (5, None):
                    session.pause()
                    assert session.run(steps=limit).reason == "paused"
                continue
            stop = session.run(steps=portion)
            done += stop.steps
            if done == steps:
                break
            assert (stop.reason, stop.steps) == ("steps", portion)
        assert (stop.reason, done) == ("halted", steps)
        assert session.registers == registers
        assert session.accesses.tolist() == accesses
    assert result_of(shared) == result == ANSWER


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_a_run_that_its_faults_pause_goes_on_where_it_stood(every):
    """Every so many populated pages the resolver pauses the session, which counts no steps."""
    with Machine("64MiB") as machine:
        guest = make_guest(machine)
        registers, accesses, *_ = at_once(guest)
        domain, found = guest.domain, []
        with started(guest) as session:
            assert domain.memory.decrease_reservation(data_gfns(guest), 0).complete

            def populate(fault):
                found.append(fault.gpa >> 12)
                if len(found) % every == 0:
                    session.pause()
                return domain.memory.populate_physmap([fault.gpa >> 12], 0).complete

            domain.paging.on_fault(populate)
            reasons = []
            while not reasons or reasons[-1] == "paused":
                reasons.append(session.run().reason)
            assert reasons == ["paused"] * (len(found) // every) + ["halted"]
            assert session.registers == registers
            assert session.accesses.tolist() == accesses
        assert result_of(guest) == ANSWER
        assert sorted(found) == sorted(set(found)), "no page twice"


def test_another_thread_pauses_a_program_that_never_ends(guest):
    with started(guest, Program("spin", code(SPIN))) as session:
        timer = threading.Timer(0.1, session.pause)
        timer.start()
        stop = session.run(seconds=60)
        timer.join()
        assert (stop.reason, stop.gva, stop.steps) == ("paused", ENTRY, None)
        assert session.run(steps=1000).reason == "steps"
        assert session.run(seconds=0.1).reason == "time"
        assert session.registers["rip"] == ENTRY


def test_run_is_a_session_run_to_its_end(guest):
    result = run(guest, WORK)
    with started(guest) as session:
        stop = session.run_to_end()
        assert (stop.reason, stop.problem, stop.steps) == ("halted", "", None)
        assert (result.accesses, result.fills, result.output) == (len(session.accesses), session.fills, ANSWER)


def test_a_step_is_an_instruction_and_one_that_repeats_is_a_step_each_time(guest):
    body = bytes.fromhex("b903000000 31c0 f3aa 90")  # mov ecx, 3; xor eax, eax; rep stosb; nop
    with started(guest, Program("rep", code(b"\x48\xbf" + AREA_BASE.to_bytes(8, "little"), body, HALT))) as session:
        assert session.run(steps=3).gva == ENTRY + 17
        left = []
        while session.registers["rip"] == ENTRY + 17:
            session.run(steps=1)
            left.append(session.registers["rcx"])
        assert left[0] == 2
        assert left[-1] == 0
        assert session.run(steps=1).gva == ENTRY + 20
        stop = session.run(steps=5)
        assert (stop.reason, stop.steps) == ("halted", 1)


# -- registers ------------------------------------------------------------------------------------------------------


def test_registers_are_read_and_written_between_parts(guest):
    body = bytes.fromhex("4801d8 4801d8")  # add rax, rbx; twice
    with started(guest, Program("add", code(body, HALT))) as session:
        assert {"rax", "rsp", "r8", "r15", "rip", "rflags"} < set(session.registers)
        session.set_registers({"rax": 1, "rbx": 2})
        session.run(steps=1)
        assert session.registers["rax"] == 3
        session.set_registers({"rbx": 10})
        session.run(steps=1)
        assert (session.registers["rax"], session.registers["rip"]) == (13, ENTRY + 6)
        session.set_registers({"rip": ENTRY})
        assert session.run().reason == "halted"
        assert session.registers["rax"] == 33
        with pytest.raises(UnknownNameError, match="register 'eax'"):
            session.set_registers({"eax": 1})


# -- faults ---------------------------------------------------------------------------------------------------------


def test_a_fault_that_nobody_resolves_is_delivered_with_its_fields_and_can_be_mended_outside(guest):
    (gfn, *_) = data_gfns(guest)
    with started(guest, Program("load", code(load_from(AREA_BASE + 8), finish_with_rax()))) as session:
        assert guest.domain.memory.decrease_reservation([gfn], 0).complete
        stop = session.run(steps=100)
        assert (stop.reason, stop.gva, stop.steps) == ("fault", ENTRY, 0)
        fault = stop.fault
        assert (fault.access, fault.gva, fault.gpa) == ("read", AREA_BASE, gfn << 12), "Unicorn tells the page"
        assert (fault.status, fault.kind) == (NOT_PRESENT, "npf")
        assert stop.problem == str(fault) == f"it read gva {AREA_BASE:#x}, which is not mapped (in the P2M)"
        assert guest.domain.memory.populate_physmap([gfn], 0).complete
        guest.domain.write(gfn << 12 | 8, b"\x21" * 8)
        assert session.run().reason == "halted"
        assert result_of(guest) == 0x2121212121212121


def test_a_refusal_stops_the_session_with_the_reason(guest):
    (gfn, *_) = data_gfns(guest)

    def frozen(fault):
        raise AccessRefusedError(f"gfn {fault.gpa >> 12:#x} is frozen")

    guest.domain.p2m.change_type(gfn, 1, P2MType.RAM_LOGDIRTY)
    guest.domain.paging.on_fault(frozen)
    store = b"\x48\xa3" + AREA_BASE.to_bytes(8, "little")  # mov [AREA_BASE], rax
    with started(guest, Program("store", code(store, HALT))) as session:
        stop = session.run()
        assert (stop.reason, stop.fault.status, stop.fault.reason) == ("fault", FORBIDDEN, f"gfn {gfn:#x} is frozen")
        assert stop.problem.endswith(f"which is forbidden (in the P2M): gfn {gfn:#x} is frozen")
    result = run(guest, Program("store", code(store, HALT)))
    assert result.faults == (stop.problem,)


def test_a_resolver_splits_a_leaf_and_marks_the_page_dirty(guest):
    """Dirty logging on a large leaf: the first store splits it, and gives the page that it is to its right back."""
    with Machine("64MiB") as machine:
        guest = make_guest(machine, "toolstack", layout="flat")
        expected = at_once(guest)
        domain = guest.domain
        assert domain.p2m.leaves()[ORDER_2M] == 8
        session = started(guest)
        tables = set(guest.tables._tables.values())
        domain.p2m.change_type(0, domain.frames, P2MType.RAM_LOGDIRTY)
        dirty, split = set(), []

        def log(fault):
            gfn = fault.gpa >> 12
            if fault.status != FORBIDDEN:
                return False
            if domain.p2m.get_entry(gfn).order:
                split.append(gfn)
                domain.p2m.split(gfn, 0)
                return True  # and it is asked about the page at once
            dirty.add(gfn)
            return domain.p2m.change_type(gfn, 1, P2MType.RAM_RW) == 1

        domain.paging.on_fault(log)
        with session:
            assert session.run().reason == "halted"
            assert session.accesses.tolist() == expected[1]
            accesses = session.accesses
        pages = np.unique(accesses["gva"][accesses["write"]] >> np.uint64(12)).tolist()
        stored = {next(s for s in reversed(guest.walk(p << 12)[1]) if s.guest).entry >> 12 & 0xFFFFF for p in pages}
        read_only = {gfn for gfn in range(domain.frames) if domain.p2m.get_entry(gfn).type == P2MType.RAM_LOGDIRTY}
        assert dirty == set(range(domain.frames)) - read_only
        assert stored <= dirty <= stored | tables, "the read of a guest table is a write to the P2M"
        assert dirty & tables
        assert split
        assert result_of(guest) == ANSWER


# -- A and D --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table_format", ["npt", "ept"])
def test_after_a_run_on_clear_tables_exactly_the_pages_that_were_stored_to_are_dirty(table_format):
    with Machine("64MiB") as machine:
        guest = make_guest(machine, accessed_dirty="clear", table_format=table_format)
        preset = make_guest(machine, table_format=table_format)
        program = Program.workload("sort", steps=40, seed=3)
        first, second = run(guest, program), run(preset, program)
        assert (first.output, first.trace.tolist()) == (second.output, second.trace.tolist())
        with started(guest, program) as session:
            session.run_to_end()
            accesses = session.accesses
        words = guest.domain.p2m.format.shape
        touched = np.unique(accesses["gva"] >> np.uint64(12)).tolist()
        stored = set(np.unique(accesses["gva"][accesses["write"]] >> np.uint64(12)).tolist())
        for page in touched:
            steps = guest.walk(page << 12)[1]
            own, host = next(step for step in reversed(steps) if step.guest), steps[-1]
            for step, form in ((own, guest.tables.shape), (host, words)):
                assert step.entry & int(form[shape.ACCESSED])
                assert bool(step.entry & int(form[shape.DIRTY])) == (page in stored), hex(page)


def test_the_first_store_to_a_page_that_was_read_walks_again(shared):
    store = b"\x48\xa3" + AREA_BASE.to_bytes(8, "little")
    program = Program("both", code(load_from(AREA_BASE), store, store, load_from(AREA_BASE), finish_with_rax()))
    with Machine("64MiB") as machine:
        clear = make_guest(machine, accessed_dirty="clear")
        assert [run(guest, program).fills for guest in (shared, clear)] == [3, 4]


# -- flushes --------------------------------------------------------------------------------------------------------


class Deaf(UnicornSession):
    """An engine that forgets nothing."""

    def flush(self, gfns=None, frames=None):
        pass


def move_everything(domain, gfns):
    """Give gfns other frames with the same contents, and fill the old ones with what nobody wrote."""
    machine = domain.machine
    for gfn in gfns:
        old, new = int(domain.p2m.translate([gfn])[0]), int(machine.heap.alloc(0))
        domain.p2m.move(gfn, new)
        machine.arena.write(old << 12, b"\xee" * 4096)


@pytest.mark.parametrize("what", ["the area", "the guest's tables"])
@pytest.mark.parametrize("flushes", [True, False])
def test_frames_that_move_while_a_session_is_paused_are_found_only_after_a_flush(guest, what, flushes, monkeypatch):
    expected = at_once(guest)
    gfns = data_gfns(guest) if what == "the area" else sorted(guest.tables._tables.values())
    if not flushes:
        monkeypatch.setattr(UnicornSession, "flush", Deaf.flush)
    with started(guest) as session:
        assert session.run(steps=expected[3] // 2).reason == "steps"
        move_everything(guest.domain, gfns)
        session.run()
        right = session.accesses.tolist() == expected[1] and result_of(guest) == ANSWER
    assert right is (flushes or what == "the guest's tables"), "tables with the same contents lead to the same place"


def test_a_flush_drops_what_came_through_its_gfns_and_a_flush_of_others_nothing(guest):
    loop = code(load_from(AREA_BASE), b"\xeb\xf4")  # and back to the load
    with started(guest, Program("loop", loop)) as session:
        session.run(steps=10)
        used = set(data_gfns(guest)) | set(guest.tables._tables.values()) | set(guest._pages.values())
        unused = next(gfn for gfn in range(guest.domain.frames) if gfn not in used)

        def refills(gfns):
            session.flush(gfns)
            before = session.fills
            assert session.run(steps=10).reason == "steps"
            return session.fills - before

        assert refills(range(0)) == 0
        assert refills(range(unused, unused + 1)) == 0
        assert refills(None) == 2
        for gfns in (range(guest.tables.root, guest.tables.root + 1), range(guest.domain.frames)):
            assert refills(gfns) == 2


# -- guests that do not page ----------------------------------------------------------------------------------------


def test_a_domain_runs_code_that_does_not_page_and_gets_its_memory_as_it_touches_it():
    body = bytes.fromhex("b800400000 c70007000000 8b18 81c300000001 f4")
    # mov eax, 0x4000; mov dword [eax], 7; mov ebx, [eax]; add ebx, 0x1000000; hlt
    with Machine("64MiB") as machine:
        domain = machine.create_domain("16MiB")
        domain.memory.populate_physmap([1], 0)
        domain.write(0x1000, body)
        asked = []

        def populate(fault):
            asked.append((fault.access, fault.gva, fault.gpa))
            return domain.memory.populate_physmap([fault.gpa >> 12], 0).complete

        domain.paging.on_fault(populate)
        with Session(domain) as session:
            session.start(Start(0x1000, {"esp": 0x8000}))
            stop = session.run()
            assert (stop.reason, stop.gva) == ("halted", 0x1000 + len(body))
            assert session.registers["ebx"] == 0x1000007
            assert session.registers["esp"] == 0x8000
            assert session.accesses["gva"].tolist() == [0x4000, 0x4000]
        assert asked == [("write", None, 0x4000)]
        assert domain.read(0x4000, 4) == b"\x07\0\0\0"


# -- its life -------------------------------------------------------------------------------------------------------


def test_a_session_is_started_once_and_is_nothing_after_its_end(guest):
    with Session(guest) as session:
        with pytest.raises(GuestError, match="is not started"):
            session.run()
        session.start(load_program(guest, WORK))
        with pytest.raises(GuestError, match="is started already"):
            session.start(load_program(guest, WORK))
        for steps in (0, -1):
            with pytest.raises(GuestError, match="1 at least"):
                session.run(steps=steps)
        with pytest.raises(GuestError, match="seconds"):
            session.run(seconds=0)
        session.run(steps=10)
        recorded = session.accesses.tolist()
    for method in (session.run, session.run_to_end, session.flush, lambda: session.registers):
        with pytest.raises(GuestError, match="the session is stopped"):
            method()
    session.stop()
    assert session.accesses.tolist() == recorded
    assert not guest.domain.p2m._feed.is_watched


def test_a_session_does_not_go_on_while_its_domain_is_paused_or_dying(guest):
    with started(guest) as session:
        session.run(steps=10)
        guest.domain.pause()
        with pytest.raises(DomainError, match="is paused"):
            session.run()
        guest.domain.unpause()
        assert session.run().reason == "halted"
        guest.domain.destroy()
        with pytest.raises(DomainError, match="being destroyed"):
            session.run()


# -- engines from elsewhere -----------------------------------------------------------------------------------------

COUNTING = """
from twofold.guest.unicorn_engine import UnicornSession

counts = []

class Counting(UnicornSession):
    def fill(self, *arguments):
        counts.append(arguments[1])
        return super().fill(*arguments)
"""


def test_an_engine_that_somebody_registers_is_used_by_name(guest, tmp_path, monkeypatch):
    (tmp_path / "counting_engine.py").write_text(COUNTING)
    info = tmp_path / "counting_engine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-engine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[twofold.engines]\ncounting = counting_engine:Counting\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert engine_names() == ("unicorn", "counting")
    result = run(guest, WORK, engine="counting")
    import counting_engine

    assert result.output == ANSWER
    assert len(counting_engine.counts) == result.fills > 0
    with pytest.raises(UnknownNameError, match="known are unicorn, counting"):
        Session(guest, "bochs")


def test_the_embedded_engine_is_what_an_engine_has_to_be(guest):
    session: EngineSession = UnicornSession(guest)
    session.write_registers({"rip": ENTRY})
    assert session.read_registers()["rip"] == ENTRY
    session.close()


def test_built_in_engines_and_paging_modes_are_those_that_the_package_registers():
    import tomllib
    from pathlib import Path

    from twofold.guest import engine
    from twofold.paging import modes

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    for each in (engine, modes):
        assert project[each.GROUP] == each.BUILT_IN
