"""What an engine's program stores into watched frames: seen at the first write to each, and refused if need be."""

import struct

import pytest
from tiny_elf import HALT, code, load_from

from twofold.domain import DomainOptions, Machine, build
from twofold.errors import WriteRefusedError
from twofold.guest import Guest, Program, run
from twofold.trace import AREA_BASE, WORKLOADS

PAGE = 4096


@pytest.fixture(params=["small", "toolstack"])
def guest(request):
    with Machine("256MiB") as machine:
        domain = machine.create_domain("64MiB", options=DomainOptions(layout="flat"))
        build(domain, request.param)
        yield Guest(domain, footprint="4MiB")


def store_to(gva: int, value: int) -> bytes:
    """Return code that stores one byte."""
    return b"\x48\xb8" + struct.pack("<Q", gva) + bytes([0xC6, 0x00, value])


def gfn_of(guest, gva: int) -> int:
    """Return the guest frame of a gva, from the guest's own leaf."""
    step = [each for each in guest.walk(gva)[1] if each.guest][-1]
    return (step.entry >> 12) & ((1 << 40) - 1)


def rows(store):
    return store.gfns.tolist(), store.bytes_.tolist(), store.by


def test_the_first_write_to_a_watched_frame_is_told_before_it_happens(guest):
    domain, gva = guest.domain, AREA_BASE + 5 * PAGE
    gfn, told = gfn_of(guest, gva), []
    domain.on_write(lambda store: told.append((*rows(store), domain.read(gfn << 12, 1))), range(gfn, gfn + 1))
    wiped = len(told)
    stores = [store_to(gva, 7), store_to(gva + 8, 8), store_to(AREA_BASE, 9)]
    result = run(guest, Program("tiny", code(load_from(gva), *stores, load_from(gva), HALT)))
    assert result.faults == ("it halted before it had finished",)
    assert told[wiped + 1 :] == [([gfn], [PAGE], "unicorn", b"\0")], "once, although it was read first"
    assert told[wiped][2] == "wipe"
    assert domain.read(gfn << 12, 9) == b"\x07" + bytes(7) + b"\x08"


def test_a_program_that_writes_everywhere_is_told_once_a_frame(guest):
    domain, told = guest.domain, []
    gfns = {gfn_of(guest, AREA_BASE + offset) for offset in range(0, 64 << 10, PAGE)}
    domain.on_write(told.append)
    result = run(guest, Program.workload("gups", footprint="64KiB", steps=4000, seed=9))
    assert result.output == WORKLOADS["gups"].answer(9, AREA_BASE, 64 << 10, 4000)
    written = [gfn for store in told if store.by == "unicorn" for gfn in store.gfns.tolist()]
    assert len(written) == len(set(written))
    assert gfns < set(written), "its parameters and stack too"
    assert {store.by for store in told} == {"wipe", "guest tables", "loader", "unicorn"}


def test_a_frame_that_nobody_watches_is_not_told(guest):
    domain, told = guest.domain, []
    gfn = gfn_of(guest, AREA_BASE)
    domain.on_write(told.append, range(gfn, gfn + 1))
    run(guest, Program("tiny", code(store_to(AREA_BASE + PAGE, 1), load_from(AREA_BASE), HALT)))
    assert [store.by for store in told] == ["wipe"]


def test_a_refused_write_is_a_fault_and_changes_nothing(guest):
    domain, gva = guest.domain, AREA_BASE + 3 * PAGE
    gfn = gfn_of(guest, gva)

    def refuse(store):
        if store.by == "unicorn":
            raise WriteRefusedError(int(store.gfns[0]), store.by, "it is being sent")

    domain.on_write(refuse, range(gfn, gfn + 1))
    result = run(guest, Program("tiny", code(store_to(gva - PAGE, 3), store_to(gva, 4), HALT)))
    assert result.exit_code == 1
    assert result.faults == (
        f"it wrote gva {gva:#x}, and a store into gfn {gfn:#x} by unicorn is refused: it is being sent",
    )
    assert domain.read(gfn << 12, 1) == b"\0"
    assert domain.read(gfn_of(guest, gva - PAGE) << 12, 1) == b"\x03", "what came before is done"


def test_a_failure_of_the_listener_itself_ends_the_run(guest):
    def fail(store):
        if store.by == "unicorn":
            raise ZeroDivisionError

    guest.domain.on_write(fail)
    with pytest.raises(ZeroDivisionError):
        run(guest, Program("tiny", code(store_to(AREA_BASE, 3), HALT)))
    assert not guest.domain.p2m._feed.is_watched


def test_a_frame_is_watched_from_the_middle_of_a_run_on(guest):
    """The engine holds it as writable by then, and has to forget that."""
    domain, told, translate, calls = guest.domain, [], guest.translate, []
    gva = AREA_BASE + PAGE
    gfn = gfn_of(guest, gva)

    def watch_at_the_last(address, access, steps):
        calls.append(address)
        if address >> 12 == (gva + 5 * PAGE) >> 12 and len(told) == 0:
            domain.on_write(lambda store: told.append(rows(store)), range(gfn, gfn + 1))
        return translate(address, access, steps)

    guest.translate = watch_at_the_last
    run(guest, Program("tiny", code(store_to(gva, 3), load_from(gva + 5 * PAGE), store_to(gva, 4), HALT)))
    assert told == [([gfn], [PAGE], "unicorn")]
    assert domain.read(gfn << 12, 1) == b"\x04"


def test_after_a_flush_a_write_is_told_again(guest):
    domain, told, translate = guest.domain, [], guest.translate
    gva = AREA_BASE + PAGE
    gfn = gfn_of(guest, gva)

    def change_type_at_the_last(address, access, steps):
        if address >> 12 == (gva + 5 * PAGE) >> 12:
            domain.p2m.change_type(gfn, 1, domain.p2m.get_entry(gfn).type)
        return translate(address, access, steps)

    guest.translate = change_type_at_the_last
    domain.on_write(lambda store: told.append(store.by), range(gfn, gfn + 1))
    run(guest, Program("tiny", code(store_to(gva, 3), load_from(gva + 5 * PAGE), store_to(gva, 4), HALT)))
    assert told == ["wipe", "unicorn", "unicorn"]


def test_a_watch_costs_a_run_nothing_where_it_does_not_write(guest):
    program = Program.workload("lookup", steps=200, seed=3)
    before = run(guest, program)
    guest.domain.on_write(lambda _: None, range(1 << 14, 1 << 15))
    after = run(guest, program)
    assert (after.output, after.fills) == (before.output, before.fills)
