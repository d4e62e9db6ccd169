"""The harness around Bochs, on tables made here by hand: what it reports is what the Intel SDM says.

Sources: Intel SDM vol. 3, "EPT Translation Mechanism", "EPT Violations", "EPT Misconfigurations", "Accessed and
Dirty Flags for EPT", "Exit Qualification for EPT Violations"; vol. 3, "Paging", for the one-level formats.
"""

import bochs_cpu
import bochs_ept
import bochs_paging
import numpy as np
import pytest
from bochs_cpu import ACCESSES, EXECUTE, READ, WRITE, made_up_word

pytestmark = pytest.mark.medium

FRAMES = 1024
DATA = range(512, FRAMES)
GIB, MIB, PAGE = 1 << 30, 1 << 20, 1 << 12

# EPT entries. The last table holds one case an entry; other entries reach it by ways of fewer rights.
ROOT, POINTERS, DIRECTORY, TABLE = range(1, 5)
RWX, WRITE_BACK, LARGE = 7, 6 << 3, 1 << 7
EPT_A, EPT_D = 1 << 8, 1 << 9
MISSED = 0x180  # qualification: a linear address was being translated, and this is what it led to
PRESENT, WRITABLE, USER = 1, 2, 4  # of the guest's own entries
RIGHTS = {READ: 1, WRITE: 2, EXECUTE: 4}
DATA_MFN = DATA[7]


def leaf(mfn: int, rights: int = RWX, *, memory_type: int = 6) -> int:
    return mfn << 12 | rights | memory_type << 3


SOUND = {name: leaf(DATA_MFN, rights) for name, rights in [("r--", 1), ("--x", 4), ("rw-", 3), ("r-x", 5), ("rwx", 7)]}
SOUND |= {"none": 0, "absent with an address": DATA_MFN << 12 | WRITE_BACK}
SOUND |= {f"type {kind}": leaf(DATA_MFN, memory_type=kind) for kind in (0, 1, 4, 5, 6)}
SOUND |= {"ignored bits": leaf(DATA_MFN) | 0xFFF << 52 | 0xE00 | LARGE, "outside": leaf(0x1234567)}
MALFORMED = {"-w-": leaf(DATA_MFN, 2), "-wx": leaf(DATA_MFN, 6), "bit 51": leaf(DATA_MFN) | 1 << 51}
MALFORMED |= {f"type {kind}": leaf(DATA_MFN, memory_type=kind) for kind in (2, 3, 7)}
MALFORMED |= {"bit 40, above this CPU's addresses": leaf(DATA_MFN) | 1 << 40}
PLACES = {name: index for index, name in enumerate(["sound", *SOUND, "malformed", *MALFORMED])}
WAYS = {"r--": 3, "r-x": 4, "--x": 5, "rw-": 6}  # rights of a directory entry, and its index
TABLE_MEMORY_TYPE, TABLE_WRITE_ONLY, SECOND_TABLE = 7, 8, 9


def ept_memory() -> np.ndarray:
    memory = np.zeros((FRAMES, 512), np.uint64)
    bochs_cpu.fill(memory, DATA)
    memory[ROOT, 0] = memory[ROOT, 1] = POINTERS << 12 | RWX
    memory[POINTERS, :3] = DIRECTORY << 12 | RWX, 7 * GIB | WRITE_BACK | LARGE | RWX, 1 << 29 | LARGE | RWX
    memory[DIRECTORY, :2] = TABLE << 12 | RWX, 2 * MIB | WRITE_BACK | LARGE | RWX
    for name, index in WAYS.items():
        memory[DIRECTORY, index] = TABLE << 12 | int(SOUND[name]) & RWX
    memory[DIRECTORY, TABLE_MEMORY_TYPE] = TABLE << 12 | RWX | WRITE_BACK
    memory[DIRECTORY, TABLE_WRITE_ONLY] = TABLE << 12 | 2
    memory[DIRECTORY, SECOND_TABLE] = TABLE + 1 << 12 | RWX
    memory[TABLE + 1, :3] = leaf(DATA[1]), leaf(DATA[2]), leaf(DATA[3])
    for cases, first in ((SOUND, PLACES["sound"] + 1), (MALFORMED, PLACES["malformed"] + 1)):
        for offset, entry in enumerate(cases.values()):
            memory[TABLE, first + offset] = entry
    return memory


def place(name: str, *, malformed: bool = False, way: int = 0) -> int:
    """Return the gpa of a case, through one of the directory's entries."""
    index = PLACES["malformed"] + 1 + [*MALFORMED].index(name) if malformed else PLACES[name]
    return way * 2 * MIB + index * PAGE


@pytest.fixture(scope="module", autouse=True)
def _oracle():
    bochs_cpu.require()


@pytest.fixture(scope="module")
def ept():
    """What each access to each case of the EPT comes to: one run for all."""
    gpas = [place(name) for name in SOUND] + [place(name, malformed=True) for name in MALFORMED]
    gpas += [place(name, way=way) for name in ("rwx", "none") for way in WAYS.values()]
    gpas += [way * 2 * MIB for way in (TABLE_MEMORY_TYPE, TABLE_WRITE_ONLY)]
    gpas += [GIB + 0x1234568, 2 * MIB + 0x12340, 2 * GIB, 3 * GIB, (1 << 39) + place("r--")]
    probes = [(gpa, access) for access in ACCESSES for gpa in gpas]  # loads before stores
    results, _ = bochs_ept.probe_ept(ept_memory(), ROOT, probes)
    return dict(zip(probes, results, strict=True))


def end(gpa: int, access: str) -> int:
    """Return the address that an exit reports: a fetch is of the last byte of its page."""
    return gpa | 0xFFF if access == EXECUTE else gpa


@pytest.mark.parametrize(
    ("gpa", "maddr"),
    [
        (place("rwx"), DATA_MFN * PAGE),
        (place("outside"), 0x1234567000),
        (2 * MIB + 0x12340, 2 * MIB + 0x12340),
        (GIB + 0x1234568, 7 * GIB + 0x1234568),
        ((1 << 39) + place("r--"), DATA_MFN * PAGE),
    ],
    ids=["4K", "4K outside of memory", "2M", "1G", "above 512G"],
)
def test_an_ept_leaf_of_each_size_leads_where_it_says(ept, gpa, maddr):
    assert ept[gpa, READ] == (bochs_ept.DONE, 0, 0, made_up_word(maddr))


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("name", SOUND)
def test_an_ept_leaf_allows_what_its_rights_say(ept, name, access):
    rights, gpa = SOUND[name] & RWX, place(name)
    result = ept[gpa, access]
    if rights & RIGHTS[access]:
        assert result[:3] == (bochs_ept.DONE, 0, 0)
    else:
        assert result == (bochs_ept.VIOLATION, MISSED | RIGHTS[access] | rights << 3, end(gpa, access), 0)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_ept_leaf_is_a_misconfiguration_for_every_access(ept, name, access):
    gpa = place(name, malformed=True)
    assert ept[gpa, access] == (bochs_ept.MISCONFIGURATION, 0, end(gpa, access), 0)


@pytest.mark.parametrize("gpa", [way * 2 * MIB for way in (TABLE_MEMORY_TYPE, TABLE_WRITE_ONLY)] + [2 * GIB])
def test_a_malformed_ept_entry_above_the_leaf_is_a_misconfiguration_too(ept, gpa):
    assert {ept[gpa, access].reason for access in ACCESSES} == {bochs_ept.MISCONFIGURATION}


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("way", WAYS)
def test_an_ept_violation_reports_the_rights_of_the_whole_path(ept, way, access):
    rights, gpa = SOUND[way] & RWX, place("rwx", way=WAYS[way])
    if rights & RIGHTS[access]:
        assert ept[gpa, access].reason == bochs_ept.DONE
    else:
        assert ept[gpa, access] == (bochs_ept.VIOLATION, MISSED | RIGHTS[access] | rights << 3, end(gpa, access), 0)
    hole = place("none", way=WAYS[way])
    assert ept[hole, access][:2] == (bochs_ept.VIOLATION, MISSED | RIGHTS[access])


def test_bit_12_of_a_large_ept_leaf_passes_though_the_manual_reserves_it():
    memory = ept_memory()
    memory[POINTERS, 1] |= PAGE
    assert bochs_ept.probe_ept(memory, ROOT, [(GIB, READ)])[0] == [(bochs_ept.DONE, 0, 0, made_up_word(7 * GIB))]
    memory[POINTERS, 1] |= 2 * PAGE
    assert bochs_ept.probe_ept(memory, ROOT, [(GIB, READ)])[0][0].reason == bochs_ept.MISCONFIGURATION


def test_a_hole_above_the_leaf_is_an_ept_violation_without_rights(ept):
    assert ept[3 * GIB, WRITE] == (bochs_ept.VIOLATION, MISSED | 2, 3 * GIB, 0)


def test_ept_accessed_and_dirty_bits_appear_where_the_walker_went():
    memory = ept_memory()
    untouched = memory.copy()
    base = SECOND_TABLE * 2 * MIB
    probes = [(base, READ), (base + PAGE, WRITE), (base + 2 * PAGE, EXECUTE), (GIB, READ), (2 * MIB, WRITE)]
    probes += [(place("r--"), WRITE), (place("none"), READ)]
    _, after = bochs_ept.probe_ept(memory, ROOT, probes)
    expected = {(ROOT, 0): EPT_A, (POINTERS, 0): EPT_A, (POINTERS, 1): EPT_A, (DIRECTORY, 1): EPT_A | EPT_D}
    expected |= {(DIRECTORY, SECOND_TABLE): EPT_A, (TABLE + 1, 0): EPT_A}
    expected |= {(TABLE + 1, 1): EPT_A | EPT_D, (TABLE + 1, 2): EPT_A}
    for (table, index), bits in expected.items():
        memory[table, index] |= np.uint64(bits)
    memory[DATA[2], 0] = base + PAGE
    memory[2 * MIB // PAGE, 0] = 2 * MIB
    assert np.array_equal(after, memory)
    # Without bit 6 of the pointer: the two stores, and nothing else.
    _, after = bochs_ept.probe_ept(untouched, ROOT, probes, use_ad=False)
    assert {tuple(place_) for place_ in np.argwhere(after != untouched).tolist()} == {(DATA[2], 0), (512, 0)}


def test_probes_run_in_order_and_leave_the_given_memory_alone():
    memory = ept_memory()
    gpa = place("rwx") + 0x7F8
    before = memory.copy()
    results, after = bochs_ept.probe_ept(memory, ROOT, [(gpa, READ), (gpa, WRITE), (gpa, READ)])
    assert [result.value for result in results] == [made_up_word(DATA_MFN * PAGE + 0x7F8), 0, gpa]
    assert np.array_equal(memory, before)
    assert after[DATA_MFN, 0x7F8 // 8] == gpa


def test_a_fetch_probe_survives_any_content():
    memory = ept_memory()
    memory[DATA] = 0
    for byte in range(256):
        memory[DATA[byte], 511] = byte << 56
        memory[TABLE + 1, byte] = leaf(DATA[byte])
    results, after = bochs_ept.probe_ept(
        memory, ROOT, [(SECOND_TABLE * 2 * MIB + byte * PAGE, EXECUTE) for byte in range(256)], use_ad=False
    )
    assert {result.reason for result in results} == {bochs_ept.DONE}
    assert np.array_equal(after, memory)


def maddrs(walk) -> list[int]:
    return [read.maddr for read in walk]


def test_an_ept_walk_reads_one_entry_a_level():
    walks = bochs_ept.reads_of(ept_memory(), ROOT, [place("rwx"), 2 * MIB, GIB, 3 * GIB, 1 << 39])
    root, pointers, directory, table = (mfn * PAGE for mfn in (ROOT, POINTERS, DIRECTORY, TABLE))
    assert maddrs(walks[0]) == [root, pointers, directory, table + 8 * PLACES["rwx"]]
    assert maddrs(walks[1]) == [root, pointers, directory + 8]
    assert maddrs(walks[2]) == [root, pointers + 8]
    assert maddrs(walks[3]) == [root, pointers + 24]
    assert maddrs(walks[4]) == [root + 8, pointers, directory, table]


@pytest.mark.parametrize(
    ("mode", "offsets", "reads"), [("4-level", [0, 0, 0, 40], 24), ("pae", [0, 0, 40], 14), ("2-level", [0, 20], 14)]
)
def test_a_two_dimensional_walk_reads_both_tables(mode, offsets, reads):
    """The guest's tables are at gfn 256 and up; gfn n is machine frame n + 256. PDPTEs are not read in the walk."""
    memory = np.zeros((FRAMES, 512), np.uint64)
    for above, below in [(ROOT, POINTERS), (POINTERS, DIRECTORY), (DIRECTORY, TABLE)]:
        memory[above, 0] = below << 12 | RWX
    memory[TABLE] = [leaf(gfn + 256) for gfn in range(512)]
    bochs_cpu.fill(memory, DATA)
    gfns = [256 + level for level in range(len(offsets))]
    entry_type = np.uint32 if mode == "2-level" else np.uint64
    for gfn, below, offset in zip(gfns, [*gfns[1:], 300], offsets, strict=True):
        flags = PRESENT if mode == "pae" and gfn == 256 else PRESENT | WRITABLE | USER
        memory[gfn + 256].view(entry_type)[offset // entry_type().itemsize] = below << 12 | flags
    [walk] = bochs_ept.reads_of_nested(memory, ROOT, mode, gfns[0] << 12, [5 * PAGE])

    def nested(gfn: int) -> list[int]:
        return [ROOT * PAGE, POINTERS * PAGE, DIRECTORY * PAGE, TABLE * PAGE + 8 * gfn]

    expected = []
    for gfn, offset in [*zip(gfns, offsets, strict=True)][mode == "pae" :]:
        expected += [*nested(gfn), (gfn + 256) * PAGE + offset]
    assert maddrs(walk) == expected + nested(300)
    assert len(walk) == reads


# One-level tables: three formats over the same data.
PT_A, PT_D, PT_NX = 1 << 5, 1 << 6, 1 << 63
FAULT = {READ: 0, WRITE: 2, EXECUTE: 16}
HIGH_4M = 0x45 << 32 | 0x400000


def paging_memory(mode: str) -> np.ndarray:
    """Entry i of the leaf table leads to DATA[i]; some are special. Large leaves at 4M (and more at 8M)."""
    memory = np.zeros((FRAMES, 512), np.uint64)
    bochs_cpu.fill(memory, DATA)
    full, large = PRESENT | WRITABLE | USER, LARGE | PRESENT | WRITABLE | USER
    if mode == "2-level":
        directory, table = memory[ROOT].view(np.uint32), memory[TABLE].view(np.uint32)
        directory[:4] = TABLE << 12 | full, 0x800000 | large, HIGH_4M & 0xFFFFFFFF | 0x45 << 13 | large, 1 << 21 | large
    else:
        directory, table = memory[DIRECTORY], memory[TABLE]
        memory[ROOT, 0] = POINTERS << 12 | full if mode == "4-level" else DIRECTORY << 12 | PRESENT
        memory[POINTERS, :2] = DIRECTORY << 12 | full, 7 * GIB | large
        directory[:4] = TABLE << 12 | full, 0, 0x800000 | large, 1 << 13 | large
    table[:64] = [mfn << 12 | full for mfn in DATA[:64]]
    table[64] = DATA[0] << 12 | PRESENT | USER
    if mode != "2-level":
        table[65:67] = DATA[0] << 12 | full | PT_NX, DATA[0] << 12 | full | 1 << 45
        table[67] = 0x1234567 << 12 | full
    return memory


@pytest.mark.parametrize("mode", bochs_cpu.MODES)
def test_one_level_leaves_lead_where_they_say(mode):
    places = {5 * PAGE + 0x128: DATA[5] * PAGE + 0x128, 64 * PAGE: DATA[0] * PAGE}
    if mode == "2-level":
        places |= {0x412340: 0x812340, 0x812340: HIGH_4M | 0x12340, 0xBFFFF8: HIGH_4M | 0x3FFFF8}
    else:
        places |= {0x412340: 0x812340, 67 * PAGE: 0x1234567000}
    if mode == "4-level":
        places |= {GIB + 0x1234568: 7 * GIB + 0x1234568}
    results, _ = bochs_paging.probe_paging(paging_memory(mode), ROOT, mode, [(address, READ) for address in places])
    assert results == [(None, 0, made_up_word(maddr)) for maddr in places.values()]


@pytest.mark.parametrize("mode", bochs_cpu.MODES)
def test_page_faults_tell_what_was_wrong(mode):
    """Error code: bit 0 a present entry, 1 a write, 3 a reserved bit, 4 a fetch (where there is NX)."""
    hole, read_only, reserved = 100 * PAGE, 64 * PAGE, (0xC00000 if mode == "2-level" else 0x600000)
    cases = {(hole, access): FAULT[access] for access in ACCESSES}
    cases |= {(read_only, READ): None, (read_only, WRITE): 3, (read_only, EXECUTE): None}
    cases |= {(reserved, access): FAULT[access] | 9 for access in ACCESSES}
    if mode == "2-level":
        cases |= {(hole, EXECUTE): 0, (reserved, EXECUTE): 9}
    else:
        cases |= {(65 * PAGE, READ): None, (65 * PAGE, WRITE): None, (65 * PAGE, EXECUTE): 17}
        cases |= {(66 * PAGE, access): FAULT[access] | 9 for access in ACCESSES}
    results, _ = bochs_paging.probe_paging(paging_memory(mode), ROOT, mode, [*cases])
    assert [result.error_code for result in results] == [*cases.values()]
    faults = [end(address, access) for (address, access), code in cases.items() if code is not None]
    assert [result.cr2 for result in results if result.error_code is not None] == faults


@pytest.mark.parametrize("mode", bochs_cpu.MODES)
def test_one_level_accessed_and_dirty_bits_appear_where_the_walker_went(mode):
    memory = paging_memory(mode)
    probes = [(0, READ), (PAGE, WRITE), (2 * PAGE, EXECUTE), (64 * PAGE, WRITE), (100 * PAGE, READ), (0x400000, WRITE)]
    _, after = bochs_paging.probe_paging(memory, ROOT, mode, probes)
    if mode == "2-level":
        directory, table = memory[ROOT].view(np.uint32), memory[TABLE].view(np.uint32)
        directory[1] |= PT_A | PT_D
    else:
        directory, table = memory[DIRECTORY], memory[TABLE]
        directory[2] |= np.uint64(PT_A | PT_D)
    if mode == "4-level":
        memory[ROOT, 0] |= np.uint64(PT_A)
        memory[POINTERS, 0] |= np.uint64(PT_A)
    for table_, index, bits in [(directory, 0, PT_A), (table, 0, PT_A), (table, 1, PT_A | PT_D), (table, 2, PT_A)]:
        table_[index] |= table_.dtype.type(bits)
    memory[DATA[1], 0] = PAGE
    assert np.array_equal(after, memory)


@pytest.mark.parametrize(("mode", "top"), [("2-level", 0xFFFFF000), ("pae", 0xFFFFF000), ("4-level", 2**64 - PAGE)])
def test_the_part_of_the_address_space_with_the_harness_can_be_probed_too(mode, top):
    memory = paging_memory(mode)
    if mode == "2-level":
        memory[ROOT].view(np.uint32)[1023] = memory[ROOT].view(np.uint32)[0]
        memory[TABLE].view(np.uint32)[1023] = DATA[9] << 12 | 7
    else:
        last = {"pae": [(ROOT, 3)], "4-level": [(ROOT, 511), (POINTERS, 511)]}[mode]
        for table, index in [*last, (DIRECTORY, 511)]:
            memory[table, index] = memory[table, 0]
        memory[TABLE, 511] = DATA[9] << 12 | 7
    probes = [(top, READ), (5 * PAGE, READ), (top, WRITE), (top, READ), (top, EXECUTE)]
    results, after = bochs_paging.probe_paging(memory, ROOT, mode, probes)
    values = [made_up_word(DATA[9] * PAGE), made_up_word(DATA[5] * PAGE), 0, top, 0]
    assert results == [(None, 0, value) for value in values]
    assert after[DATA[9], 0] == top
    [walk] = bochs_paging.reads_of(memory, ROOT, mode, [top])
    assert maddrs(walk)[-1] == TABLE * PAGE + (1023 * 4 if mode == "2-level" else 511 * 8)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("4-level", [ROOT * PAGE, POINTERS * PAGE, DIRECTORY * PAGE, TABLE * PAGE + 5 * 8]),
        ("pae", [DIRECTORY * PAGE, TABLE * PAGE + 5 * 8]),
        ("2-level", [ROOT * PAGE, TABLE * PAGE + 5 * 4]),
    ],
)
def test_a_one_level_walk_reads_one_entry_a_level(mode, expected):
    walk, large = bochs_paging.reads_of(paging_memory(mode), ROOT, mode, [5 * PAGE, 0x400000])
    assert maddrs(walk) == expected
    assert {read.bytes_ for read in walk} == {4 if mode == "2-level" else 8}
    assert len(large) == len(expected) - 1


def test_a_reserved_bit_in_a_pdpte_is_refused():
    memory = paging_memory("pae")
    memory[ROOT, 2] = PRESENT | WRITABLE
    with pytest.raises(ValueError, match="PDPTE"):
        bochs_paging.probe_paging(memory, ROOT, "pae", [(0, READ)])


@pytest.mark.parametrize("count", [2_000, pytest.param(50_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tables", ["ept", *bochs_cpu.MODES])
def test_many_probes_of_random_leaves_come_to_what_their_bits_say(tables, count):
    rng = np.random.default_rng(count)
    memory = ept_memory() if tables == "ept" else paging_memory(tables)
    entries = memory[TABLE].view(np.uint32)[:512] if tables == "2-level" else memory[TABLE]
    mfns = rng.choice(DATA, 512)
    flags = rng.choice([0, 1, 3, 4, 5, 7] if tables == "ept" else [0, 1, 3, 5, 7], 512)
    entries[:] = mfns << 12 | flags | (WRITE_BACK if tables == "ept" else 0)
    picks, words, kinds = rng.integers(512, size=count), rng.integers(512, size=count), rng.integers(3, size=count)
    probes = [
        (pick * PAGE + word * 8, ACCESSES[kind])
        for pick, word, kind in zip(picks.tolist(), words.tolist(), kinds.tolist(), strict=True)
    ]
    if tables == "ept":
        results, _ = bochs_ept.probe_ept(memory, ROOT, probes)
        done = [result.reason == bochs_ept.DONE for result in results]
        allowed = flags[picks] >> kinds & 1 == 1
    else:
        results, _ = bochs_paging.probe_paging(memory, ROOT, tables, probes)
        done = [result.error_code is None for result in results]
        allowed = flags[picks] & np.array([1, 3, 1])[kinds] == np.array([1, 3, 1])[kinds]
    assert done == allowed.tolist()
    # A frame holds what was stored to it last: its own address as a machine or as a probed one.
    contents = {}
    for (address, access), mfn, result, made in zip(probes, mfns[picks].tolist(), results, done, strict=True):
        maddr = mfn * PAGE + address % PAGE
        if made and access == READ:
            assert result.value == contents.get(maddr, made_up_word(maddr))
        if made and access == WRITE:
            contents[maddr] = address


def test_misuse_is_refused():
    memory = ept_memory()
    for probes in ([(1 << 40, READ)], [(0, "fetch")]):
        with pytest.raises(ValueError, match=r"1 TiB|access"):
            bochs_ept.probe_ept(memory, ROOT, probes)
    for mode, address in [("pae", 1 << 32), ("4-level", 1 << 47)]:
        with pytest.raises(ValueError, match="canonical"):
            bochs_paging.probe_paging(memory, ROOT, mode, [(address, READ)])
    with pytest.raises(ValueError, match="uint64"):
        bochs_ept.probe_ept(memory.view(np.uint32), ROOT, [(0, READ)])
