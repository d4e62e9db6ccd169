"""Programs in guests: right answers on every design and page size, and how a run ends when it does not end well."""

import time
from itertools import product

import numpy as np
import pytest
from tiny_elf import ENTRY, HALT, LOAD_RDI, SPIN, code, elf, finish_with_rax, jump_to, load_from

from twofold.domain import DomainOptions, Machine, build
from twofold.errors import DomainError, FormatError, GuestError, SizeError, UnknownNameError
from twofold.freemaps import FreeMap
from twofold.guest import Guest, Program, check_answer, run
from twofold.trace import AREA_BASE, WORKLOADS

DESIGNS = ("small", "toolstack", "opportunistic")
FOOTPRINTS = {"4K": 16 << 20, "2M": 64 << 20, "1G": 1 << 30}
STEPS, SEED = 300, 11


@pytest.fixture(scope="module")
def domains():
    """A 3 GiB guest of each design, on one fragmented host; 1G pages of the guest's own fit into it."""
    free = FreeMap.synthetic("8GiB", free_share=0.9, fragmentation=0.3, seed=3)
    machines = {design: Machine(free=free) for design in DESIGNS}
    built = {}
    for design, machine in machines.items():
        built[design] = machine.create_domain("3GiB", design)
        build(built[design], design)
    yield built
    for machine in machines.values():
        machine.close()


@pytest.fixture
def guest():
    with Machine("256MiB") as machine:
        domain = machine.create_domain("64MiB")
        build(domain)
        yield Guest(domain, footprint="4MiB")


def program_of(elf_bytes, **kwargs):
    return Program("tiny", elf_bytes, **kwargs)


# -- right answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("design", "pages"),
    [
        pytest.param(*case, marks=[pytest.mark.medium] * (case != ("opportunistic", "2M")), id="-".join(case))
        for case in product(DESIGNS, FOOTPRINTS)
    ],
)
def test_every_workload_is_right_on_every_design_and_page_size(domains, design, pages):
    guest = Guest(domains[design], page_sizes=pages, footprint=FOOTPRINTS[pages])
    for name, workload in WORKLOADS.items():
        program = Program.workload(name, steps=STEPS, seed=SEED)
        result = run(guest, program)
        check_answer(result, workload.answer(SEED, AREA_BASE, guest.footprint, STEPS), program)
        expected = workload.addresses(SEED, AREA_BASE, guest.footprint, STEPS)
        np.testing.assert_array_equal(result.trace["gva"], expected)
        assert result.trace["write"].tolist() == list(workload.kinds) * STEPS
        assert set(result.trace["bytes"].tolist()) == {8}
        assert result.exit_code == 0
        assert not result.faults
    assert guest.domain.p2m.audit().clean


@pytest.mark.medium
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_second_run_gives_the_same_result(guest, name):
    program = Program.workload(name, steps=500, seed=5)
    first, second = run(guest, program), run(guest, program)
    assert (first.output, first.accesses, first.fills) == (second.output, second.accesses, second.fills)
    np.testing.assert_array_equal(first.trace, second.trace)


def test_the_seed_is_the_machines_unless_the_program_has_one(guest):
    gups = WORKLOADS["gups"]
    guest.domain.machine.seed = 77
    assert run(guest, Program.workload("gups", steps=50)).output == gups.answer(77, AREA_BASE, 4 << 20, 50)
    assert run(guest, Program.workload("gups", steps=50, seed=78)).output == gups.answer(78, AREA_BASE, 4 << 20, 50)


def test_a_program_may_use_a_part_of_the_area(guest):
    result = run(guest, Program.workload("stream", footprint="64KiB", steps=3000, seed=1))
    assert result.output == WORKLOADS["stream"].answer(1, AREA_BASE, 64 << 10, 3000)
    assert result.trace["gva"].max() < AREA_BASE + (64 << 10)


def test_a_load_across_two_pages_joins_what_two_frames_hold(guest):
    gva = AREA_BASE + 4096 * 511 + 4092  # the next page lies in another block of the area
    data = bytes(range(1, 9))
    store = b"".join(
        b"\x48\xb8" + (gva + place).to_bytes(8, "little") + bytes([0xC6, 0x00, byte]) for place, byte in enumerate(data)
    )  # mov rax, gva; mov byte [rax], value
    result = run(guest, program_of(code(store, load_from(gva), finish_with_rax())))
    assert result.exit_code == 0
    assert result.output.to_bytes(8, "little") == data
    assert gva in result.trace["gva"].tolist()


# -- changes of the P2M -----------------------------------------------------------------------------------------


def test_splitting_a_leaf_between_two_runs_changes_no_answer():
    with Machine("256MiB") as machine:
        domain = machine.create_domain("64MiB", options=DomainOptions(layout="flat"))
        build(domain)
        guest = Guest(domain, footprint="16MiB")
        program = Program.workload("chase", steps=400, seed=2)
        before = run(guest, program)
        for gfn in range(0, domain.frames, 512):
            domain.p2m.split(gfn, 0)
        after = run(guest, program)
        assert domain.p2m.leaves() == {0: domain.frames, 9: 0, 18: 0}
        assert after.output == before.output
        np.testing.assert_array_equal(after.trace, before.trace)


def test_a_frame_that_moves_under_a_running_program_is_found_after_the_flush():
    """At its 12th translation every page of the area that the program has touched gets another frame."""
    with Machine("256MiB") as machine:
        domain = machine.create_domain("64MiB")
        build(domain, "small")
        guest = Guest(domain, footprint="64KiB")
        program = Program.workload("gups", steps=4000, seed=9)
        undisturbed = run(guest, program)
        translate, calls, moved = guest.translate, [], []

        def move_all_at_the_twelfth(gva, access, steps):
            calls.append(gva)
            if len(calls) == 12:
                for offset in range(0, 64 << 10, 4096):
                    gfn = guest.walk(AREA_BASE + offset)[1][-5].entry >> 12  # the guest's leaf
                    moved.append(move(domain, gfn))
            return translate(gva, access, steps)

        guest.translate = move_all_at_the_twelfth
        disturbed = run(guest, program)
        assert len(moved) == 16
        assert domain.p2m.counters.flushes_done == domain.p2m.counters.flushes_owed >= 16
        assert disturbed.output == undisturbed.output == WORKLOADS["gups"].answer(9, AREA_BASE, 64 << 10, 4000)
        np.testing.assert_array_equal(disturbed.trace, undisturbed.trace)
        assert disturbed.fills > undisturbed.fills, "the engine had to ask again"


def move(domain, gfn):
    """Give a gfn another frame with the same contents, and fill the old one with what nobody wrote."""
    machine = domain.machine
    old, new = int(domain.p2m.translate([gfn])[0]), int(machine.heap.alloc(0))
    machine.arena.write(new << 12, machine.arena.read(old << 12, 4096))
    domain.p2m.set_entry(gfn, new, 0)
    machine.arena.write(old << 12, b"\xee" * 4096)
    return new


def test_a_run_leaves_no_listener_behind(guest):
    run(guest, program_of(code(load_from(0xDEAD0000))))
    run(guest, Program.workload("gups", steps=10))
    assert not guest.domain.p2m._feed.is_watched


# -- runs that do not end well ----------------------------------------------------------------------------------


def faulted(guest, elf_bytes, seconds=60.0):
    """Run what has to fault; return its one sentence."""
    result = run(guest, program_of(elf_bytes), seconds=seconds)
    assert result.exit_code == 1
    (sentence,) = result.faults
    assert "\n" not in sentence
    return sentence


def test_a_load_from_an_unmapped_page_is_a_fault(guest):
    assert faulted(guest, code(load_from(0xDEAD0000), HALT)) == (
        "it read gva 0xdead0000, which is not mapped (in the guest's tables)"
    )


def test_a_store_is_said_to_be_one(guest):
    sentence = faulted(guest, code(b"\x48\xa3" + (0xDEAD0000).to_bytes(8, "little"), HALT))
    assert sentence.startswith("it wrote gva 0xdead0000, which is not mapped")


def test_executing_an_unmapped_page_is_a_fault(guest):
    assert faulted(guest, code(jump_to(0xDEAD0000))).startswith("it executed gva 0xdead0000, which is not mapped")
    assert faulted(guest, elf((ENTRY, HALT), entry=0x700000)).startswith("it executed gva 0x700000")


def test_a_hole_in_the_p2m_is_told_apart(guest):
    gfn = guest.walk(AREA_BASE)[1][-4].entry >> 12
    assert not guest.walk(AREA_BASE)[1][-3].guest
    mfn = guest.domain.p2m.translate([gfn])
    assert guest.domain.memory.decrease_reservation([gfn], 0).complete, f"gfn {gfn:#x} at {mfn}"
    program = program_of(code(load_from(AREA_BASE), HALT))
    result = run(guest, program, seconds=60)
    assert result.faults == (f"it read gva {AREA_BASE:#x}, which is not mapped (in the P2M)",)


@pytest.mark.parametrize("gva", [1 << 60 | AREA_BASE, 1 << 47, 0xFFFF << 47])
def test_an_address_that_no_processor_takes_is_a_fault(guest, gva):
    assert "is no address of 48 bits" in faulted(guest, code(load_from(gva), HALT))


def test_the_upper_half_of_the_address_space_is_merely_not_mapped(guest):
    assert "not mapped" in faulted(guest, code(load_from(0xFFFF_8000_0000_0000), HALT))


@pytest.mark.parametrize("bytes_", ["cc", "cd80", "0f0b", "31c9f7f1", "0f05", "50f4"])
def test_an_exception_ends_the_run_with_a_sentence(guest, bytes_):
    assert faulted(guest, code(bytes.fromhex(bytes_)))


def test_halting_before_the_end_is_a_fault(guest):
    assert faulted(guest, code(HALT)) == "it halted before it had finished"


@pytest.mark.medium
@pytest.mark.parametrize("body", [SPIN, bytes.fromhex("488907ebfb")], ids=["spins", "stores for ever"])
def test_an_endless_loop_is_stopped(guest, body):
    start = time.monotonic()
    assert faulted(guest, code(body), seconds=0.3) == "it did not end within 0.3 seconds"
    assert time.monotonic() - start < 3


def test_a_guest_can_run_again_after_a_fault(guest):
    faulted(guest, code(load_from(0xDEAD0000)))
    result = run(guest, Program.workload("lookup", steps=100, seed=0))
    assert result.output == WORKLOADS["lookup"].answer(0, AREA_BASE, 4 << 20, 100)


def test_a_wrong_answer_or_a_fault_is_an_error_where_an_answer_is_needed(guest):
    program = Program.workload("gups", steps=10, seed=0)
    with pytest.raises(GuestError, match=r"answered 0x.* instead of 0x1$"):
        check_answer(run(guest, program), 1, program)
    broken = program_of(code(HALT))
    with pytest.raises(GuestError, match="tiny: it halted"):
        check_answer(run(guest, broken), 0, broken)


# -- what is refused before anything runs -----------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e30])
def test_a_time_that_cannot_be_kept_is_refused(guest, seconds):
    with pytest.raises(GuestError, match="seconds"):
        run(guest, Program.workload("gups"), seconds=seconds)


def test_a_guest_does_not_run_while_its_domain_is_paused_or_dying(make_machine):
    domain = make_machine("64MiB").create_domain("16MiB")
    build(domain)
    guest, program = Guest(domain, footprint="4MiB"), Program.workload("gups", steps=10)
    domain.pause()
    with pytest.raises(DomainError, match="paused"):
        run(guest, program)
    domain.unpause()
    assert not run(guest, program).faults
    domain.destroy(lambda: True)
    with pytest.raises(DomainError, match="being destroyed"):
        run(guest, program)


@pytest.mark.parametrize("steps", [-1, 1 << 64])
def test_steps_that_do_not_fit_the_parameter_block_are_refused(guest, steps):
    with pytest.raises(GuestError, match="64 bits"):
        run(guest, Program.workload("gups", steps=steps))


@pytest.mark.parametrize("footprint", [0, "3MiB", "32KiB", "8MiB", -1])
def test_a_programs_footprint_has_to_fit(guest, footprint):
    with pytest.raises(SizeError):
        run(guest, Program.workload("gups", footprint=footprint))


def test_an_unknown_engine_is_named(guest):
    with pytest.raises(UnknownNameError, match="unicorn"):
        run(guest, Program.workload("gups"), engine="bochs")


# -- loading ----------------------------------------------------------------------------------------------------


def test_two_segments_may_share_a_page(guest):
    second = 0x400900
    text = load_from(second) + finish_with_rax()
    for segments in [(ENTRY, text), (second, b"ABCDEFGH")], [(second, b"ABCDEFGH"), (ENTRY, text)]:
        result = run(guest, program_of(elf(*segments)))
        assert result.output == int.from_bytes(b"ABCDEFGH", "little")
        assert result.exit_code == 0


def test_a_segment_reads_as_zero_behind_its_bytes_and_after_another_program(guest):
    text = load_from(0x500FF8) + finish_with_rax()
    run(guest, program_of(elf((ENTRY, text), (0x500000, b"\xff" * 8192))))
    result = run(guest, program_of(elf((ENTRY, text), (0x500800, b"\xff" * 8, 0x2000))))
    assert (result.exit_code, result.output) == (0, 0)


def test_a_segment_that_starts_and_ends_inside_pages_is_whole(guest):
    data = bytes(i % 251 + 1 for i in range(10_000))
    for inside in (0, 1, 4088, 4095):
        for probe in (0, 4090, 8184, 9992):
            text = load_from(0x600000 + inside + probe) + finish_with_rax()
            result = run(guest, program_of(elf((ENTRY, text), (0x600000 + inside, data))))
            assert result.output.to_bytes(8, "little") == data[probe : probe + 8]


def test_an_empty_segment_is_passed_over(guest):
    result = run(guest, program_of(elf((ENTRY, LOAD_RDI + finish_with_rax()), (0x500000, b""))))
    assert result.output == AREA_BASE, "the parameter block begins with the base of the area"


@pytest.mark.parametrize("gva", [0x200000, 0x1FF000, 0x200FFF])
def test_a_segment_where_the_parameters_go_is_refused(guest, gva):
    with pytest.raises(FormatError, match="where its parameters go, at gva 0x200000"):
        run(guest, program_of(elf((gva, HALT * 4097), entry=gva)))


@pytest.mark.parametrize(
    ("segments", "problem"),
    [
        ([(0, HALT)], "outside what a program may use"),
        ([(AREA_BASE, HALT)], "outside what a program may use"),
        ([(0xFFFF_FFFF_FFFF_F000, HALT)], "outside what a program may use"),
        ([(ENTRY, HALT, 1 << 40)], "outside what a program may use"),
        ([(ENTRY, b"", 0)], "nothing to load"),
        ([(ENTRY, HALT, 9 << 20), (0x2000000, HALT, 9 << 20)], "more than 16 MiB"),
        ([(ENTRY, b"12345678", 4)], "reaches beyond the file"),
        ([(ENTRY + 8192 * i, HALT) for i in range(65)], "more than 64 segments"),
    ],
)
def test_an_image_that_cannot_be_loaded_is_refused(segments, problem):
    with pytest.raises(FormatError, match=problem):
        program_of(elf(*segments)).image()


def test_a_file_is_read_no_further_than_it_may_be_long(tmp_path):
    with (tmp_path / "long.elf").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(FormatError, match="larger than 16MiB"):
        Program.from_file(tmp_path / "long.elf")
    with pytest.raises(FormatError, match="is no regular file"):
        Program.from_file(tmp_path.__class__("/dev/zero"))
    with pytest.raises(FormatError, match="No such file"):
        Program.from_file(tmp_path / "missing.elf")
    with pytest.raises(FormatError, match="directory"):
        Program.from_file(tmp_path)
    (tmp_path / "gups.elf").write_bytes(WORKLOADS["gups"].program())
    program = Program.from_file(tmp_path / "gups.elf", steps=7)
    assert program.image() == Program.workload("gups").image()


def test_a_program_larger_than_the_guest_is_refused():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("4MiB")
        build(domain)
        guest = Guest(domain, footprint="2MiB")
        with pytest.raises(GuestError):
            run(guest, program_of(elf((ENTRY, HALT, 8 << 20))))
