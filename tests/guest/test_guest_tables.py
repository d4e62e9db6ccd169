"""Guest page tables: their bits, how long walks on them are, where they stand, and what Unicorn's own walker says."""

import numpy as np
import pytest
from unicorn import UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL, Uc
from unicorn.x86_const import UC_X86_REG_CR0, UC_X86_REG_CR3, UC_X86_REG_CR4, UC_X86_REG_RAX, UC_X86_REG_RSI

from twofold.domain import DomainOptions, Exact, Machine, build
from twofold.errors import AddressError, GuestError, SizeError, UnknownNameError
from twofold.formats.status import NOT_PRESENT, OK
from twofold.guest import Guest
from twofold.guest.placement import aligned_blocks, place_area
from twofold.trace import AREA_BASE
from twofold.units import INVALID_MFN, parse_order

PAGE, GIB, MIB = 4096, 1 << 30, 1 << 20
HOST_SIZES = ("4K", "4K,2M", None)
GUEST_PAGES = ("4K", "2M", "1G")
FOOTPRINTS = {"4K": 16 * MIB, "2M": 64 * MIB, "1G": GIB}
# (guest levels + 1) * (host levels + 1) - 1 table reads: AMD APM vol. 2, "Nested Paging".
STEPS = dict(
    zip(
        [(guest, host) for guest in GUEST_PAGES for host in HOST_SIZES],
        [24, 19, 14, 19, 15, 11, 14, 11, 8],
        strict=True,
    )
)
TABLE_FLAGS = 0x27  # present, writable, user, accessed
LEAF_FLAGS = {0: 0x67, 1: 0xE7, 2: 0xE7}  # with dirty; and with the large bit


def make_domain(machine, size="4GiB", layout="flat", design="toolstack", **options):
    domain = machine.create_domain(size, options=DomainOptions(layout=layout, **options))
    build(domain, design)
    return domain


@pytest.fixture(scope="module")
def domains():
    """One 4 GiB guest for each size of host leaf."""
    with Machine("20GiB") as machine:
        yield {sizes: make_domain(machine, page_sizes=sizes) for sizes in HOST_SIZES}


@pytest.fixture
def small_domain():
    with Machine("1GiB") as machine:
        yield make_domain(machine, "256MiB", "pvh")


def guest_entries(guest):
    """Return ({page gva: (level, entry)}, gfns of the tables), read by gfn and index as a guest's own kernel would."""
    leaves, tables = {}, []

    def read_table(gfn, level, gva):
        tables.append(gfn)
        words = np.frombuffer(guest.domain.read(gfn * PAGE, PAGE), np.uint64)
        for slot in np.flatnonzero(words).tolist():
            entry, here = int(words[slot]), gva + (slot << (12 + 9 * level))
            if level and not entry & 0x80:
                assert entry & 0xFFF0_0000_0000_0FFF == TABLE_FLAGS, f"{entry:#x} in slot {slot} of level {level}"
                read_table(entry >> 12, level - 1, here)
            else:
                leaves[here] = (level, entry)

    read_table(int(guest.tables.root), 3, 0)
    return leaves, tables


@pytest.mark.parametrize("host", HOST_SIZES)
@pytest.mark.parametrize("pages", GUEST_PAGES)
def test_a_walk_takes_as_many_steps_as_the_manual_says(domains, pages, host):
    guest = Guest(domains[host], page_sizes=pages, footprint=FOOTPRINTS[pages])
    for offset in (0, 0x123456, FOOTPRINTS[pages] - 1):
        status, steps, maddr = guest.walk(AREA_BASE + offset)
        assert (status, len(steps)) == (OK, STEPS[pages, host])
        assert maddr % PAGE == offset % PAGE
        assert steps[-1].serves is None
        assert not steps[-1].guest
    assert sum(step.guest for step in steps) == {"4K": 4, "2M": 3, "1G": 2}[pages]


@pytest.mark.parametrize("pages", GUEST_PAGES)
def test_tables_hold_one_right_leaf_a_page_and_nothing_else(domains, pages):
    guest = Guest(domains["4K,2M"], page_sizes=pages, footprint=FOOTPRINTS[pages])
    leaves, tables = guest_entries(guest)
    level, bytes_ = GUEST_PAGES.index(pages), PAGE << parse_order(pages)
    assert sorted(leaves) == list(range(AREA_BASE, AREA_BASE + FOOTPRINTS[pages], bytes_))
    assert {entry & 0xFFF0_0000_0000_0FFF for _, entry in leaves.values()} == {LEAF_FLAGS[level]}
    assert {found for found, _ in leaves.values()} == {level}
    starts = [entry >> 12 for _, entry in leaves.values()]
    assert len(set(starts)) == len(starts)
    assert not any(gfn % (1 << parse_order(pages)) for gfn in starts), "large pages are aligned in guest memory"
    assert len(tables) == len(set(tables)) == guest.tables.count


def test_slots_are_the_bits_of_the_address(small_domain):
    guest = Guest(small_domain, footprint=16 * MIB)
    gva = AREA_BASE + 0xABC123
    own = [step for step in guest.walk(gva)[1] if step.guest]
    assert [step.slot for step in own] == [gva >> shift & 511 for shift in (39, 30, 21, 12)]
    assert [step.level for step in own] == [3, 2, 1, 0]
    assert own[0].meaning.startswith("table, gfn ")
    assert own[-1].meaning.startswith("4K leaf, gfn ")


@pytest.mark.parametrize("pages", GUEST_PAGES)
def test_area_tables_and_program_share_no_frame(domains, pages):
    guest = Guest(domains["4K,2M"], page_sizes=pages, footprint=FOOTPRINTS[pages])
    program = guest.program_pages(0x400000, 40).tolist()
    leaves, tables = guest_entries(guest)
    area = np.concatenate(
        [
            np.arange(entry >> 12, (entry >> 12) + (1 << 9 * level))
            for gva, (level, entry) in leaves.items()
            if gva >= AREA_BASE
        ]
    )
    used = [*area.tolist(), *tables, *program]
    assert len(area) == FOOTPRINTS[pages] // PAGE
    assert len(set(used)) == len(used)
    assert max(used) < guest.domain.frames
    assert INVALID_MFN not in guest.domain.p2m.translate(used)


@pytest.mark.parametrize(("layout", "footprint"), [("flat", 64 * MIB), ("pvh", 128 * MIB), ("hvm", 32 * MIB)])
def test_the_area_is_spread_evenly(layout, footprint):
    with Machine("1GiB") as machine:
        domain = make_domain(machine, "256MiB", layout)
        blocks = (place_area(domain, footprint // PAGE, 0)[::512] // 512).astype(int)
        most = len(aligned_blocks(domain, 9))
        ideal = np.arange(len(blocks)) * most / len(blocks)
        start = int(aligned_blocks(domain, 9)[0]) // 512
        assert np.abs(blocks - start - ideal).max() < 1, "no block is as far as one block from its even place"


def test_an_hvm_guest_keeps_out_of_the_vga_hole():
    with Machine("1GiB") as machine:
        guest = Guest(make_domain(machine, "16MiB", "hvm"), footprint="8MiB")
        gfns = guest.program_pages(0x400000, 800).tolist()
        assert not set(range(0xA0, 0xC0)) & set(gfns)
        assert INVALID_MFN not in guest.domain.p2m.translate(gfns)


@pytest.mark.parametrize("pages", GUEST_PAGES)
def test_unicorns_own_walker_reads_the_same_memory(domains, pages):
    """Guest-physical memory is mapped into a bare processor gfn by gfn; then it walks the guest's tables itself."""
    domain = domains[None]
    guest = Guest(domain, page_sizes=pages, footprint=FOOTPRINTS[pages])
    (code,) = guest.program_pages(0x400000, 1).tolist()
    domain.write(code * PAGE, bytes.fromhex("488b06f4"))  # mov rax, [rsi]; hlt
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    arena = domain.machine.arena
    extents = list(zip(*(column.tolist() for column in domain.p2m.runs(0, domain.p2m.max_gfn)), strict=True))
    assert len(extents) <= 200
    for gfn, mfn, frames in extents:
        uc.mem_map_ptr(gfn * PAGE, frames * PAGE, UC_PROT_ALL, arena.address + mfn * PAGE)
    uc.reg_write(UC_X86_REG_CR4, 0x20)
    uc.msr_write(0xC0000080, 0xD00)
    uc.reg_write(UC_X86_REG_CR3, int(guest.tables.root) * PAGE)
    uc.reg_write(UC_X86_REG_CR0, 0x80010011)
    offsets = np.random.default_rng(1).integers(0, FOOTPRINTS[pages] // 8, 300) * 8
    for number, offset in enumerate(dict.fromkeys([0, FOOTPRINTS[pages] - 8, *offsets.tolist()]), 1):
        status, _, maddr = guest.walk(AREA_BASE + offset)
        assert status == OK
        arena.write(maddr, number.to_bytes(8, "little"))
        uc.reg_write(UC_X86_REG_RSI, AREA_BASE + offset)
        uc.emu_start(0x400000, 0, count=1)
        assert uc.reg_read(UC_X86_REG_RAX) == number, f"at gva {AREA_BASE + offset:#x}"


def test_a_walk_ends_where_nothing_is_mapped(small_domain):
    guest = Guest(small_domain, footprint=16 * MIB)
    status, steps, maddr = guest.walk(AREA_BASE + 16 * MIB)
    assert (status, maddr) == (NOT_PRESENT, 0)
    assert steps[-1].guest
    assert steps[-1].meaning == "not present"


@pytest.mark.parametrize("gva", [-1, 1 << 48, 1 << 64])
def test_an_address_beyond_48_bits_is_refused(small_domain, gva):
    with pytest.raises(AddressError, match="48 bits"):
        Guest(small_domain, footprint=16 * MIB).walk(gva)


def test_an_unknown_access_or_mode_is_named(small_domain):
    with pytest.raises(UnknownNameError, match="read, write, execute"):
        Guest(small_domain, footprint=16 * MIB).walk(AREA_BASE, "fetch")
    with pytest.raises(UnknownNameError, match="guest mode"):
        Guest(small_domain, mode="5-level")


# -- guests that cannot be --------------------------------------------------------------------------------------


def test_a_page_larger_than_the_area_is_refused(small_domain):
    with pytest.raises(GuestError, match="1G page is larger than the area of 64MiB"):
        Guest(small_domain, page_sizes="1G", footprint="64MiB")


def test_too_few_aligned_blocks_are_counted(small_domain):
    with pytest.raises(GuestError, match="needs 1 aligned blocks of 1G, and the guest's memory has 0"):
        Guest(small_domain, page_sizes="1G", footprint="1GiB")
    with pytest.raises(GuestError, match="needs 256 aligned blocks of 2M, and the guest's memory has 128"):
        Guest(small_domain, footprint="512MiB")


@pytest.mark.parametrize("footprint", ["3MiB", 0, 2048, 4097, "96KiB"])
def test_a_footprint_that_is_no_power_of_two_is_refused(small_domain, footprint):
    with pytest.raises(SizeError, match="power of two"):
        Guest(small_domain, footprint=footprint)


@pytest.mark.parametrize("pages", ["4M", "8K", ""])
def test_a_page_size_that_the_guest_lacks_is_refused(small_domain, pages):
    with pytest.raises(SizeError, match="is no page size"):
        Guest(small_domain, page_sizes=pages)


def test_a_domain_that_was_not_built_is_refused():
    with Machine("1GiB") as machine, pytest.raises(GuestError, match="has no memory; build it first"):
        Guest(machine.create_domain("64MiB"))


def test_a_domain_with_a_hole_in_its_ram_is_refused(small_domain):
    assert small_domain.memory.decrease_reservation([0x700], 0).complete
    with pytest.raises(GuestError, match=r"1 frames of the RAM .* are not populated"):
        Guest(small_domain)


def test_tables_need_room_beside_the_area():
    with Machine("64MiB") as machine:
        domain = make_domain(machine, "16MiB", "flat")
        with pytest.raises(GuestError, match="make the area smaller"):
            Guest(domain, footprint="16MiB")


def test_a_second_guest_starts_on_wiped_memory(small_domain):
    first = Guest(small_domain, page_sizes="2M", footprint="64MiB")
    for offset in range(0, 64 * MIB, 999 * 4096):
        small_domain.machine.arena.write(first.walk(AREA_BASE + offset)[2], b"old")
    second = Guest(small_domain, footprint="128MiB")
    _, tables = guest_entries(second)
    ram = small_domain.p2m.translate(np.arange(small_domain.frames)).tolist()
    kept = set(small_domain.p2m.translate(tables).tolist())
    arena = small_domain.machine.arena
    touched = {mfn + i for mfn, frames in arena.data_runs() for i in range(frames)} & set(ram)
    assert not [mfn for mfn in touched - kept if arena.read(mfn * PAGE, PAGE) != bytes(PAGE)]
    assert second.walk(AREA_BASE)[0] == OK
    assert small_domain.p2m.audit().clean


def test_wiping_leaves_other_domains_alone():
    with Machine("1GiB") as machine:
        one, other = make_domain(machine, "64MiB"), make_domain(machine, "64MiB")
        other.write(0x123456, b"mine")
        Guest(one)
        assert other.read(0x123456, 4) == b"mine"


def test_an_exact_range_takes_part_in_walks():
    with Machine("2GiB") as machine:
        domain = machine.create_domain("256MiB", options=DomainOptions(layout="flat"))
        build(domain, "toolstack", exact=[Exact("0", "128MiB", "4K")])
        guest = Guest(domain, page_sizes="2M", footprint="128MiB")
        counts = [len(guest.walk(AREA_BASE + offset)[1]) for offset in range(0, 128 * MIB, 2 * MIB)]
        assert counts == [19] * 32 + [18] * 32, "tables lie in the exact part, half of the area in 2M leaves"
