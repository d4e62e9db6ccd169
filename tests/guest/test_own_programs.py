"""What docs/programs.md promises a program of one's own: registers, memory around the block, rights, ways to end."""

import re
import struct
from pathlib import Path

import pytest
from tiny_elf import ENTRY, HALT, code, elf, finish_with_rax, load_from

from twofold.domain import Machine, build
from twofold.guest import Guest, Program, Session, load_program, run
from twofold.guest.program import MAX_FILE_BYTES, MAX_GVA, MAX_IMAGE_BYTES, MAX_SEGMENTS
from twofold.guest.run import PARAMETERS_GVA
from twofold.trace import AREA_BASE, AREA_BASE_32, MIN_FOOTPRINT

PAGE = (Path(__file__).parents[2] / "docs" / "programs.md").read_text(encoding="utf-8")
FOOTPRINT = 1 << 20
STORE_ONE = bytes.fromhex("48c7472001000000")  # mov qword [rdi+32], 1


def guest_of(mode):
    with Machine("128MiB") as machine:
        domain = machine.create_domain("64MiB")
        build(domain)
        yield Guest(domain, mode=mode, footprint=FOOTPRINT)


@pytest.fixture(scope="module")
def guest():
    yield from guest_of("4-level")


@pytest.fixture(scope="module")
def short():
    yield from guest_of("pae")


def result_of(guest, *parts):
    return run(guest, Program("mine", code(*parts), steps=5, seed=7), seconds=5)


def told(row):
    """The cells of a row of the page's tables, without what names it."""
    (line,) = re.findall(rf"^\| {re.escape(row)}[^|]*\|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_the_page_has_the_limits_of_the_loader():
    assert told("the file; all that is loaded") == ["16 MiB each", "16 MiB each"]
    assert MAX_FILE_BYTES == MAX_IMAGE_BYTES == 16 << 20
    assert told("segments") == [str(MAX_SEGMENTS)] * 2
    assert told("addresses of segments") == ["0x1000 to 2**40", "0x1000 to 0x40000000"]
    assert MAX_GVA == {64: 1 << 40, 32: 0x40000000}
    assert told("area") == [f"`footprint` bytes from {base:#x}" for base in (AREA_BASE, AREA_BASE_32)]
    assert MIN_FOOTPRINT == 64 << 10


def test_a_long_program_finds_its_block_and_a_stack(guest):
    with Session(guest) as session:
        session.start(load_program(guest, Program("mine", code(HALT), steps=5, seed=7)))
        registers = session.registers
    assert (registers["rip"], registers["rdi"], registers["rsp"]) == (ENTRY, 0x200000, 0x200FF8)
    assert "`rsp` = 0x200ff8" in told("stack pointer")[0]
    gpa = int(guest.program_pages(PARAMETERS_GVA, 1)[0]) << 12
    assert guest.domain.read(gpa, 4096) == struct.pack("<6Q", AREA_BASE, FOOTPRINT, 5, 7, 0, 0) + bytes(4048)


def test_a_short_program_finds_the_same(short):
    with Session(short) as session:
        session.start(load_program(short, Program.workload("gups", bits=32)))
        registers = session.registers
    assert (registers["eax"], registers["esp"]) == (0x200000, 0x201000)
    assert "`esp` = 0x201000" in told("stack pointer")[1]


def test_a_program_may_push_and_call(guest):
    push_seven_pop = bytes.fromhex("6a0758")  # push 7; pop rax
    assert result_of(guest, push_seven_pop, finish_with_rax()).output == 7


def test_a_segment_may_be_written_whatever_its_flags_say(guest):
    store_to_code = b"\x48\xb8" + struct.pack("<Q", ENTRY + 0x100) + bytes.fromhex("488900")
    assert result_of(guest, store_to_code, finish_with_rax()).exit_code == 0


def test_what_a_segment_has_in_memory_alone_is_zero(guest):
    body = load_from(ENTRY + 0x5000) + finish_with_rax()
    result = run(guest, Program("mine", elf((ENTRY, body, 0x6000))))
    assert (result.exit_code, result.output) == (0, 0)


@pytest.mark.parametrize("gva", [0, PARAMETERS_GVA - 8, PARAMETERS_GVA + 4096, AREA_BASE - 8, AREA_BASE + FOOTPRINT])
def test_beside_program_block_and_area_nothing_is_mapped(guest, gva):
    assert "is not mapped" in result_of(guest, load_from(gva), finish_with_rax()).faults[0]


@pytest.mark.parametrize("parts", [(STORE_ONE, load_from(AREA_BASE)), (load_from(AREA_BASE),)], ids=["marked", "not"])
def test_measured_is_what_follows_the_mark_or_all(guest, parts):
    result = result_of(guest, load_from(AREA_BASE + 8), *parts, finish_with_rax())
    assert result.trace["gva"].tolist() == ([AREA_BASE] if STORE_ONE in parts else [AREA_BASE + 8, AREA_BASE])
