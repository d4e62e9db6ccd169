"""Nested paging behind its questions: what is walked, which marks that leaves, what a fault means, who resolves it."""

import numpy as np
import pytest

from kinds import FORMATS
from twofold.domain import DomainOptions, Machine, build
from twofold.errors import AccessRefusedError, PoolExhaustedError, UnknownNameError
from twofold.formats import ept, npt, shape, x86
from twofold.formats.p2m_types import P2MType
from twofold.formats.status import FORBIDDEN, NOT_PRESENT, OK, RESERVED
from twofold.formats.walk_state import EXECUTE, MAX_STEPS, READ, STEP_COLUMNS, WRITE
from twofold.guest import Guest
from twofold.paging import AccessFault, Hap, get_paging, paging_names
from twofold.trace import AREA_BASE
from twofold.units import FRAME_SHIFT

ACCESSES = {"read": READ, "write": WRITE, "execute": EXECUTE}
GUESTS = [("npt", "4-level"), ("npt-5", "4-level"), ("npt-pae", "pae"), ("npt-2", "2-level"), ("ept", "4-level")]


def made(name="npt", mode="4-level", accessed_dirty="preset", page_sizes="4K"):
    """Return a machine, and a guest of 1 MiB in a domain of 16 MiB that is in 4K leaves."""
    paging, table_format = FORMATS[name]
    machine = Machine("64MiB", paging=paging)
    options = DomainOptions(table_format=table_format, accessed_dirty=accessed_dirty)
    domain = machine.create_domain("16MiB", options=options)
    build(domain, "small" if page_sizes == "4K" else "toolstack")
    return machine, Guest(domain, mode, footprint="1MiB", accessed_dirty=accessed_dirty)


def rows():
    return np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)


def gfn_of(guest, gva):
    """Return the guest frame that a gva is mapped to by the guest's own 4K leaf."""
    return next(step for step in reversed(guest.walk(gva)[1]) if step.guest).entry >> 12 & 0xFFFFF


def entries_on(guest, gva):
    """Return {(dimension, table, slot): entry as it is now} of what a walk of a gva reads."""
    machine, found = guest.domain.machine, {}
    for step in guest.walk(gva)[1]:
        words = guest.tables.memory if step.guest else machine.arena.tables_of(guest.domain.p2m.format.entry_dtype)
        found[step.guest, step.table, step.slot] = int(words[step.table, step.slot])
    return found


# -- what is walked -------------------------------------------------------------------------------------------------


def test_hap_is_known_by_name_and_anything_else_is_refused():
    assert paging_names()[0] == "hap"
    assert get_paging("hap") is Hap
    with pytest.raises(UnknownNameError, match=r"unknown paging mode 'paravirt'; known are hap"):
        get_paging("paravirt")
    with pytest.raises(UnknownNameError, match="paging mode 'paravirt'"):
        DomainOptions(paging="paravirt")


def test_the_hardware_walks_the_guests_tables_and_the_p2m():
    machine, guest = made()
    paging, p2m = guest.domain.paging, guest.domain.p2m
    with machine:
        assert (paging.root, paging.format) == (p2m.root, p2m.format)
        roots = paging.roots(guest.tables)
        assert (roots.guest_root, roots.p2m_root) == (guest.tables.root, p2m.root)
        assert roots.shapes == (guest.tables.shape, p2m.format.shape)


def test_a_guest_that_does_not_page_is_translated_by_the_p2m_alone():
    machine, guest = made()
    with machine:
        for access in ACCESSES.values():
            status, count, maddr, writable = guest.domain.paging.translate(None, 0x5123, access, rows())
            assert (status, count, writable) == (OK, 4, 1)
            assert maddr == int(guest.domain.p2m.translate([5])[0]) << FRAME_SHIFT | 0x123


# -- A and D --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mode"), GUESTS)
def test_a_walk_sets_a_in_all_that_it_uses_and_d_where_hardware_writes(name, mode):
    machine, guest = made(name, mode, "clear")
    with machine:
        paging, gva = guest.domain.paging, guest.area_base
        shapes = {True: guest.tables.shape, False: guest.domain.p2m.format.shape}

        def marks(mark, entries):
            return {key for key, entry in entries.items() if entry & int(shapes[key[0]][mark])}

        assert not marks(shape.ACCESSED, entries_on(guest, gva))
        assert not marks(shape.DIRTY, entries_on(guest, gva))
        status, _, _, writable = paging.translate(guest.tables, gva, READ, rows())
        assert (status, writable) == (OK, 0), "a clean page may not be stored to without another walk"
        steps = guest.walk(gva)[1]
        exempt = {
            (step.guest, step.table, step.slot)
            for step in steps
            if int(shapes[step.guest][shape.ROOT_EXEMPT]) and step.level == int(shapes[step.guest][shape.LEVELS]) - 1
        }
        assert marks(shape.ACCESSED, entries_on(guest, gva)) == entries_on(guest, gva).keys() - exempt
        under_tables = {
            (step.guest, step.table, step.slot)
            for step in steps
            if not step.guest and step.serves is not None and step.level == 0
        }
        assert marks(shape.DIRTY, entries_on(guest, gva)) == under_tables
        status, _, _, writable = paging.translate(guest.tables, gva, WRITE, rows())
        assert (status, writable) == (OK, 1)
        leaves = {(step.guest, step.table, step.slot) for step in steps[-int(shapes[False][shape.LEVELS]) - 1 :]}
        leaves = {key for key in leaves if key[0]} | {(False, steps[-1].table, steps[-1].slot)}
        assert marks(shape.DIRTY, entries_on(guest, gva)) == under_tables | leaves
        assert paging.translate(guest.tables, gva, READ, rows())[3] == 1, "now it is dirty"


@pytest.mark.parametrize("access", ACCESSES.values())
def test_a_walk_that_fails_sets_nothing(access):
    machine, guest = made("npt", "4-level", "clear")
    with machine:
        guest.domain.p2m.unmap(gfn_of(guest, AREA_BASE), 1)
        pool = guest.domain.p2m.format, machine.arena.tables
        before = pool[1].copy()
        status = guest.translate(AREA_BASE, access, rows())[0]
        assert status == NOT_PRESENT
        assert guest.translate(0x7000, access, rows())[0] == NOT_PRESENT
        assert np.array_equal(before, machine.arena.tables)


@pytest.mark.medium
@pytest.mark.parametrize(("name", "mode"), GUESTS)
def test_with_marks_preset_a_walk_changes_nothing_and_every_page_is_writable_at_once(name, mode):
    machine, guest = made(name, mode)
    with machine:
        before = machine.arena.tables.copy()
        for access in ACCESSES.values():
            status, _, _, writable = guest.translate(guest.area_base, access, rows())
            assert (status, writable) == (OK, 1)
        assert np.array_equal(before, machine.arena.tables)


def test_looking_at_a_walk_touches_nothing():
    machine, guest = made("npt", "4-level", "clear")
    with machine:
        before = machine.arena.tables.copy()
        assert guest.walk(AREA_BASE, "write")[0] == OK
        assert guest.domain.paging.allows(0x3000, "write")
        assert np.array_equal(before, machine.arena.tables)


@pytest.mark.parametrize("name", FORMATS)
def test_new_entries_of_a_clear_p2m_have_no_marks_whatever_made_them(name):
    paging, table_format = FORMATS[name]
    with Machine("64MiB", paging=paging) as machine:
        options = DomainOptions(table_format=table_format, accessed_dirty="clear", layout="flat")
        domain = machine.create_domain("16MiB", options=options)
        build(domain, "toolstack")
        domain.p2m.split(0, 0)
        domain.p2m.change_type(1 << 10, 5, P2MType.RAM_LOGDIRTY)
        words = domain.p2m.format.shape
        marks = int(words[shape.ACCESSED]) | int(words[shape.DIRTY])
        seen = [step.entry for gfn in (0, 5, 1 << 10, (1 << 10) + 7, 3000) for step in domain.p2m.walk(gfn)]
        assert not any(entry & marks for entry in seen)
        assert domain.p2m.fault(0x1000, "write") is None
        assert domain.p2m.walk(1)[-1].entry & marks == marks
        leaves = domain.p2m.leaves()
        assert domain.p2m.merge(0, domain.p2m.geometry.leaf_orders[1]), "leaves that differ in marks alone are merged"
        assert domain.p2m.walk(0)[-1].entry & marks == marks, "and what any of them had, the large one has"
        assert domain.p2m.leaves() != leaves
        assert domain.p2m.audit().clean


@pytest.mark.parametrize("type_", [P2MType.RAM_RW, P2MType.MMIO_DIRECT])
def test_an_ept_leaf_without_rights_stays_a_leaf(type_):
    with Machine("64MiB") as machine:
        options = DomainOptions(table_format="ept", accessed_dirty="clear")
        p2m = machine.create_domain("16MiB", options=options).p2m
        p2m.set_entry(7, 0x1000, 0, type_, "n")
        entry = p2m.get_entry(7)
        assert (entry.mfn, entry.type, entry.access) == (0x1000, type_, "n")
        assert p2m.walk(7)[-1].entry & ept.ACCESSED


# -- what a fault means ---------------------------------------------------------------------------------------------


def fault_of(guest, gva, access):
    """Return the fault of an access, which has to be one."""
    found = guest.access(gva, ACCESSES[access], rows())
    assert isinstance(found, AccessFault)
    return found


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("name", "mode"), GUESTS)
def test_a_hole_under_the_page_is_reported_as_hardware_does(name, mode, access):
    machine, guest = made(name, mode)
    with machine:
        p2m, gva = guest.domain.p2m, guest.area_base + 0x5678
        gfn = gfn_of(guest, gva)
        p2m.unmap(gfn, 1)
        fault = fault_of(guest, gva, access)
        hardware = p2m.fault(gfn << 12 | 0x678, access)
        assert (fault.kind, fault.code, fault.gpa) == (hardware.kind, hardware.code, hardware.gpa)
        assert (fault.access, fault.gva, fault.status, fault.in_walk) == (access, gva, NOT_PRESENT, False)
        assert not fault.is_guests
        same = guest.domain.paging.fault_at(fault.gpa, access)
        assert (same.kind, same.code, same.gpa, same.gva) == (fault.kind, fault.code, fault.gpa, None)
        assert str(fault).endswith(f"gva {gva:#x}, which is not mapped (in the P2M)")


@pytest.mark.parametrize(("name", "mode"), GUESTS)
def test_a_read_only_leaf_under_a_guest_table_refuses_even_a_read(name, mode):
    machine, guest = made(name, mode)
    with machine:
        p2m, root = guest.domain.p2m, int(guest.tables.root)
        p2m.change_type(root, 1, P2MType.RAM_RO)
        fault = fault_of(guest, guest.area_base, "read")
        assert (fault.status, fault.in_walk, fault.gpa >> 12) == (FORBIDDEN, True, root)
        words = guest.tables.shape
        slot = guest.area_base >> 12 >> int(words[shape.BITS]) * (int(words[shape.LEVELS]) - 1)
        assert fault.gpa & 0xFFF == slot << int(words[shape.ENTRY_SHIFT])
        if name == "ept":
            assert (fault.kind, fault.code) == ("violation", 0x80 | 5 << 3 | 3), "a read and a write, of rx"
        else:
            assert (fault.kind, fault.code) == ("npf", npt.FAULT_IN_WALK | 7), "a user write of what is present"


def test_the_guests_own_faults_are_its_own():
    machine, guest = made()
    with machine:
        asked = []
        guest.domain.paging.on_fault(lambda fault: bool(asked.append(fault)))
        absent = fault_of(guest, 0x7123, "write")
        assert (absent.kind, absent.code, absent.gpa, absent.status) == (
            "page fault",
            npt.FAULT_WRITE,
            None,
            NOT_PRESENT,
        )
        step = next(step for step in reversed(guest.walk(AREA_BASE)[1]) if step.guest)
        guest.tables.memory[step.table, step.slot] &= np.uint64(~x86.WRITABLE & 2**64 - 1)
        forbidden = fault_of(guest, AREA_BASE, "write")
        assert (forbidden.code, forbidden.status, forbidden.entry) == (3, FORBIDDEN, step.entry & ~x86.WRITABLE)
        upper = next(step for step in guest.walk(AREA_BASE)[1] if step.guest)
        guest.tables.memory[upper.table, upper.slot] |= np.uint64(x86.LARGE)
        malformed = fault_of(guest, AREA_BASE, "execute")
        assert (malformed.code, malformed.status, malformed.level) == (0x19, RESERVED, 3)
        assert absent.is_guests
        assert not asked, "the hypervisor never sees them"


def test_a_guest_entry_beyond_the_p2m_is_a_hole_of_the_p2m():
    machine, guest = made()
    with machine:
        step = next(step for step in reversed(guest.walk(AREA_BASE)[1]) if step.guest)
        guest.tables.memory[step.table, step.slot] = np.uint64(step.entry | 1 << 51)
        fault = fault_of(guest, AREA_BASE + 8, "read")
        assert (fault.status, fault.kind) == (NOT_PRESENT, "npf")
        assert fault.gpa == (step.entry & x86.FRAME_MASK) | 1 << 51 | 8


# -- who resolves it ------------------------------------------------------------------------------------------------


@pytest.fixture
def holey():
    """A guest with a hole of the P2M under the first page of its area; the gfn of the hole."""
    machine, guest = made()
    with machine:
        gfn = gfn_of(guest, AREA_BASE)
        assert guest.domain.memory.decrease_reservation([gfn], 0).complete
        yield guest, gfn


def populating(guest):
    def resolver(fault):
        return fault.status == NOT_PRESENT and guest.domain.memory.populate_physmap([fault.gpa >> 12], 0).complete

    return resolver


def test_a_resolver_that_populates_lets_the_access_go_on(holey):
    guest, gfn = holey
    guest.domain.paging.on_fault(populating(guest))
    _, maddr, writable = guest.access(AREA_BASE + 5, READ, rows())
    assert maddr == int(guest.domain.p2m.translate([gfn])[0]) << 12 | 5
    assert writable


def test_resolvers_are_asked_in_order_and_the_first_that_resolves_wins(holey):
    guest, _ = holey
    asked = []

    def not_mine(fault):
        asked.append("not mine")
        return False

    def last(fault):
        asked.append("last")
        return False

    paging = guest.domain.paging
    for resolver in (not_mine, populating(guest), last):
        paging.on_fault(resolver)
    assert not isinstance(guest.access(AREA_BASE, READ, rows()), AccessFault)
    assert asked == ["not mine"]
    paging.off_fault(not_mine)
    guest.domain.p2m.unmap(int(guest.tables.root), 1)
    guest.domain.p2m.change_type(0, 1, P2MType.RAM_RO)
    assert paging.resolve(paging.fault_at(0, "write")) is not None
    assert asked == ["not mine", "last"]


def test_a_refusal_is_a_fault_with_a_reason_and_nobody_else_is_asked(holey):
    guest, _ = holey

    def refusing(fault):
        raise AccessRefusedError("memory is frozen")

    guest.domain.paging.on_fault(refusing)
    guest.domain.paging.on_fault(populating(guest))
    fault = fault_of(guest, AREA_BASE, "read")
    assert fault.reason == "memory is frozen"
    assert str(fault) == f"it read gva {AREA_BASE:#x}, which is not mapped (in the P2M): memory is frozen"


def test_what_a_resolver_fails_at_is_the_reason(holey):
    guest, _ = holey

    def failing(fault):
        raise PoolExhaustedError(0, 10)

    guest.domain.paging.on_fault(failing)
    assert fault_of(guest, AREA_BASE, "read").reason.startswith("the table pool is too small")


def test_a_resolver_that_mends_nothing_is_asked_so_often_and_no_more(holey):
    guest, _ = holey
    asked = []
    guest.domain.paging.on_fault(lambda fault: not asked.append(fault))
    fault = fault_of(guest, AREA_BASE, "read")
    assert len(asked) == 2 * MAX_STEPS
    assert fault.reason == f"it was resolved {2 * MAX_STEPS} times and is refused still"


def test_an_error_that_is_no_answer_of_a_resolver_is_not_hidden(holey):
    guest, _ = holey
    guest.domain.paging.on_fault(lambda fault: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        guest.access(AREA_BASE, READ, rows())


# -- modes from elsewhere -------------------------------------------------------------------------------------------

READ_ONLY = """
from twofold.formats.status import FORBIDDEN
from twofold.paging import Hap

class ReadOnly(Hap):
    name = "read-only"

    def translate(self, space, address, access, out_steps):
        status, count, maddr, _ = super().translate(space, address, access, out_steps)
        return (FORBIDDEN if access == 1 and not status else status), count, maddr, 0
"""


def test_a_mode_that_somebody_registers_is_used_by_name(tmp_path, monkeypatch):
    (tmp_path / "read_only_paging.py").write_text(READ_ONLY)
    info = tmp_path / "read_only_paging-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: read-only-paging\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[twofold.paging]\nread-only = read_only_paging:ReadOnly\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert paging_names() == ("hap", "read-only")
    with Machine("64MiB") as machine:
        domain = machine.create_domain("16MiB", options=DomainOptions(paging="read-only"))
        build(domain)
        guest = Guest(domain, footprint="1MiB")
        assert guest.access(AREA_BASE, READ, rows())[2] == 0
        fault = fault_of(guest, AREA_BASE, "write")
        assert (fault.status, fault.kind) == (FORBIDDEN, "npf")
        assert fault.gpa >> 12 == gfn_of(guest, AREA_BASE)
