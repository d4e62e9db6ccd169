"""Tables of KVM, of Xen and of nobody in particular: what the audit says, what look-ups and hardware make of them."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import GOLDEN, lived, raw

import twofold as tf
from twofold.dumps import audit_file
from twofold.errors import FormatError, ReadingError, UnknownNameError
from twofold.formats import findings

SVE = 1 << 63
MMIO_GFN, RAM_GFN = 0xFFC12, 0x99
EPT_LEAF = {  # what each kernel adds to a frame, W and R and X
    "6.16": 0x600000000000877 | SVE,
    "6.1": 0x600000000000B77,
    "5.12 without A and D": 0x610000000000877,
    "5.8": 0xF77,
    "4.18 without A and D": 1 << 62 | 0xC77,
}
EPT_TABLE = {"6.16": 0x907 | SVE, "6.1": 0x907, "5.12 without A and D": 0x10000000000807 | 1 << 52, "5.8": 0x107}
NPT_LEAF = {"6.1": 0xE67 | SVE, "5.8": 0xC67}


def kvm_ept(folder, leaf, table, *, mmio=MMIO_GFN << 12 | 6, more=(), shift=0):
    """Write a P2M of a 4K leaf, a 2M leaf without X, and MMIO."""
    low = {RAM_GFN: 0x5099 << 12 | leaf, RAM_GFN + 1: 0x509A << 12 | leaf}
    pages = {
        0x10: (4, {0: 0x11 << 12 | table}),
        0x11: (3, {0: 0x12 << 12 | table, 3: 0x13 << 12 | table, 5: 0x5A0, 6: SVE, 7: SVE | 0x5A0}),
        0x12: (2, {0: 0x14 << 12 | table, 0x12: 0x400 << 21 | (leaf | 0x80) & ~4, 0x13: 0x5A0, 0x14: SVE | 0x5A0}),
        0x13: (2, {0x1FE: 0x15 << 12 | table}),
        0x14: (1, low | {0: SVE, 1: 0x5A0, 2: SVE | 0x5A0}),
        0x15: (1, {0x12: mmio}),
    }
    for mfn, slot, entry in more:
        pages[mfn][1][slot] = entry
    return raw(folder, pages)


@pytest.mark.parametrize("kernel", EPT_LEAF)
@pytest.mark.parametrize("generation", [0, 1, 0x2AAAA, 0x7FFFF])
def test_a_healthy_ept_of_kvm_has_no_finding_and_its_leaves_have_the_rights_of_hardware(tmp_path, kernel, generation):
    table = EPT_TABLE.get(kernel, 0x007)
    bits = (generation & 0xFF) << 3 | (generation >> 8 & 0x7FF) << 52
    path = kvm_ept(tmp_path, EPT_LEAF[kernel], table, mmio=MMIO_GFN << 12 | 6 | bits)
    for width in (None, 39, 46, 52):
        with tf.open_tables(path, table_format="ept", dialect="kvm", address_bits=width) as tables:
            report = tables.audit()
            assert report.clean, report.findings
            assert (report.leaves, report.places, report.tables) == (3, 1, 6)
            assert tables.leaves() == {0: 2, 9: 1, 18: 0}
            assert tables.get_entry(RAM_GFN) == tf.Entry(0x5099, 0, tf.P2MType.RAM_RW, "rwx")
            assert tables.get_entry(0x12 << 9 | 5) == tf.Entry(0x400 << 9 | 5, 9, tf.P2MType.RAM_RW, "rw")
            assert tables.get_entry(MMIO_GFN) == tf.Entry(tf.INVALID_MFN, 0, tf.P2MType.MMIO_DM, "n")
            assert tables.walk(MMIO_GFN)[-1].entry == MMIO_GFN << 12 | 6 | bits, "as the file has it"
            assert tables.translate([RAM_GFN, MMIO_GFN, 0]).tolist() == [0x5099, tf.INVALID_MFN, tf.INVALID_MFN]
            assert tables.fault(MMIO_GFN << 12) == tf.Fault("misconfiguration", 0, MMIO_GFN << 12)
            assert tables.fault(RAM_GFN << 12, "write") is None
            assert tables.fault(0x12 << 21, "execute").kind == "violation"
            assert tables.fault(1 << 12).kind == tables.fault(5 << 30).kind == "violation", "being removed"
            assert tables.walk(1)[-1].entry == 0x5A0
            assert tables.walk(MMIO_GFN)[-1].entry == MMIO_GFN << 12 | 6 | bits, "a fault leaves no trace"


@pytest.mark.parametrize("kernel", NPT_LEAF)
@pytest.mark.parametrize(
    ("width", "mask", "reserved"),
    [
        (43, 0, (1 << 52) - (1 << 43)),
        (48, 0, 1 << 51),
        (39, 0, (1 << 52) - (1 << 39)),
        (43, 1 << 47, (1 << 52) - (1 << 43)),
        (43, 1 << 51, (1 << 52) - (1 << 43)),
        (None, 0, 1 << 51),
        (None, 1 << 51, (1 << 52) - (1 << 43)),
    ],
)
def test_a_healthy_npt_of_kvm_has_no_finding_and_its_mmio_faults_as_reserved(tmp_path, kernel, width, mask, reserved):
    table = (0x827 if kernel == "6.1" else 0x27) | mask
    path = raw(
        tmp_path,
        {
            0x10: (4, {0: 0x11 << 12 | table, 9: 0x5A0}),
            0x11: (3, {0: 0x12 << 12 | table, 5: SVE | 0x5A0}),
            0x12: (2, {0: 0x14 << 12 | table, 0x12: 0x400 << 21 | mask | NPT_LEAF[kernel] | 0x80}),
            0x14: (1, {0: SVE, 1: 0x5A0, 7: 0x5007 << 12 | mask | NPT_LEAF[kernel], 8: 8 << 12 | 0x17 | reserved}),
        },
    )
    with tf.open_tables(path, dialect="kvm", address_bits=width, encryption_mask=mask) as tables:
        report = tables.audit()
        assert report.clean, report.findings
        assert (report.leaves, report.places) == (2, 1)
        assert tables.get_entry(7).mfn == 0x5007, "an address without the C bit"
        assert tables.get_entry(0x12 << 9).mfn == 0x400 << 9
        assert tables.get_entry(8).type is tf.P2MType.MMIO_DM
        assert tables.fault(0x8000) == tf.Fault("npf", 0x10000000D, 0x8000)
        marks = [each for each in tables.assumed if each.endswith(": MMIO, as KVM marks it in NPT")]
        assert [each.split()[1] for each in marks] == ([] if width else ["50" if mask else "51"])
        assert tables.fault(0x8000, "write").code == 0x10000000F
        assert tables.fault(0x7000) is None


def test_what_kvm_never_writes_is_found_in_its_tables(tmp_path):
    wrong = [
        (0x14, 9, 0x5009 << 12 | 0x877 & ~0x38 | 2 << 3, findings.BAD_MEMORY_TYPE),
        (0x14, 9, 0x5009 << 12 | 0x872, findings.BAD_RIGHTS),
        (0x12, 9, 0x600 << 21 | 0x8F6, findings.BAD_RIGHTS),
        (0x12, 9, 0x14 << 12 | 0x907, findings.TABLE_TWICE),
        (0x12, 9, 0x9 << 12 | 0x907, findings.TABLE_NOT_OWNED),
        (0x12, 9, 1 << 45 | 0x907, findings.ADDRESS_WIDTH),
        (0x12, 9, 0x600 << 21 | 1 << 13 | 0x8F7, findings.MISALIGNED),
        (0x14, 9, 0x14 << 12 | 0x877, findings.LEAF_ONTO_TABLE),
    ]
    for mfn, slot, entry, code in wrong:
        path = kvm_ept(tmp_path, 0xB77, 0x907, more=[(mfn, slot, entry)])
        with tf.open_tables(path, table_format="ept", dialect="kvm", address_bits=43) as tables:
            assert [each.code for each in tables.audit().findings] == [code], hex(entry)


def test_an_entry_that_points_to_a_table_takes_rights_from_all_below(tmp_path):
    path = kvm_ept(tmp_path, 0xB77, 0x907, more=[(0x11, 0, 0x12 << 12 | 0x905), (0x12, 0, 0x14 << 12 | 0x903)])
    with tf.open_tables(path, table_format="ept", dialect="kvm") as tables:
        assert tables.get_entry(RAM_GFN).access == "r"
        assert tables.get_entry(0x12 << 9).access == "r", "its own rw without the w above"
        rows = {int(row["gfn"]): int(row["access"]) for row in tables.leaf_array() if row["present"]}
        assert rows == {RAM_GFN: 1, RAM_GFN + 1: 1, 0x12 << 9: 1}
        assert tables.fault(RAM_GFN << 12, "write").kind == "violation"
        assert tables.fault(RAM_GFN << 12) is None


# -- address bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [39, 43, 46, 48, 51])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["npt", "ept"])
def test_a_bit_above_the_address_width_is_a_finding_and_a_fault_at_every_level(tmp_path, name, level, width):
    flags, leaf = (0x67, 0x67) if name == "npt" else (0x107, 0x377)
    entries = {each: (0x10 + 4 - each) << 12 | flags for each in (1, 2, 3)} | {0: 0x5000 << 12 | leaf}
    entries[level] |= 1 << width
    path = raw(tmp_path, {0x10 + 3 - each: (each + 1, {0: entry}) for each, entry in entries.items()})
    with tf.open_tables(path, table_format=name, address_bits=width, dialect="bare") as tables:
        (finding,) = tables.audit().findings
        assert (finding.code, finding.level) == (findings.ADDRESS_WIDTH, level)
        assert f"bit {width} ({1 << width:#x}) set above {width} address bits (mfn" in str(finding)
        for access, code in (("read", 0x10000000D), ("write", 0x10000000F), ("execute", 0x10000001D)):
            wanted = ("npf", code) if name == "npt" else ("misconfiguration", 0)
            fault = tables.fault(0x123, access)
            assert (fault.kind, fault.code) == wanted
    with tf.open_tables(path, table_format=name, dialect="bare") as tables:
        assert (tables.audit().found == 0) is (level == 0), "an entry can hold it; no table stands there"
        assert tables.address_bits == 52
        assert "52 address bits: the most that" in tables.assumed[-1]


def test_widths_and_masks_that_cut_off_the_files_own_frames_are_refused(tmp_path):
    path = raw(tmp_path, {1 << 27: (4, {})})
    with pytest.raises(ReadingError, match=r"^address_bits 38 is too few for the file's own frames: .*0x8000000000$"):
        tf.open_tables(path, address_bits=38)
    with pytest.raises(ReadingError, match=r"^encryption_mask 0x4000000000 covers addresses that the file has"):
        tf.open_tables(path, encryption_mask=1 << 38)
    with pytest.raises(ReadingError, match=r"^address_bits 31 is no width"):
        tf.open_tables(path, address_bits=31)
    with pytest.raises(ReadingError, match=r"^root '16' is no number of a frame$"):
        tf.open_tables(path, root="16")
    with pytest.raises(UnknownNameError, match="known are xen, kvm, bare"):
        tf.open_tables(path, dialect="KVM")


@pytest.mark.parametrize(("bit", "levels"), [(47, 4), (51, 5)])
def test_the_shared_bit_of_tdx_is_no_part_of_an_address(tmp_path, bit, levels):
    shared, top = 1 << bit, {level: (0x20 - level) << 12 | 0x907 | 1 << bit for level in range(1, levels)}
    pages = {0x20 - level - 1: (level + 1, {0: entry}) for level, entry in top.items()}
    pages[0x1F] = (1, {3: 0x5003 << 12 | 0xB77 | SVE | shared, 4: SVE, 5: SVE | 0x5A0, 6: 6 << 12 | 0x88})
    path = raw(tmp_path, pages)
    name = "ept" if levels == 4 else "ept-5"
    with tf.open_tables(path, table_format=name, dialect="kvm", address_bits=46, encryption_mask=shared) as tables:
        report = tables.audit()
        assert report.clean, report.findings
        assert (report.leaves, report.places) == (1, 1)
        assert tables.get_entry(3).mfn == 0x5003
        assert tables.get_entry(6).type is tf.P2MType.MMIO_DM
        assert tables.fault(0x3000) is None
        assert tables.fault(0x6000).kind == "violation"
    with tf.open_tables(path, table_format=name, dialect="kvm", address_bits=46) as tables:
        assert tables.audit().findings[0].code == findings.ADDRESS_WIDTH


def test_a_guest_address_may_carry_the_bit_unless_the_tables_map_there_themselves(tmp_path):
    pages = {4 - level: (level + 1, {0: (5 - level) << 12 | 0x827}) for level in (1, 2, 3)} | {4: (1, {3: 0x5003067})}
    path, c_bit = raw(tmp_path, pages), 1 << 51
    with tf.open_tables(path, dialect="kvm", encryption_mask=c_bit) as tables:
        assert tables.get_entry(3 | c_bit >> 12) == tables.get_entry(3)
        assert tables.translate([3 | c_bit >> 12, 3]).tolist() == [0x5003, 0x5003]
        assert tables.fault(c_bit | 0x3000) is None
        assert tables.walk(3 | c_bit >> 12) == tables.walk(3)
    with (
        tf.open_tables(path, dialect="kvm") as tables,
        pytest.raises(tf.AddressError, match="is beyond a 4-level table"),
    ):
        tables.get_entry(3 | c_bit >> 12)
    shared = 1 << 47
    path = raw(tmp_path, pages | {1: (4, {256: 2 << 12 | 0x827})})
    with tf.open_tables(path, dialect="kvm", encryption_mask=shared) as tables:
        assert tables.get_entry(3 | shared >> 12).mfn == 0x5003, "TDX: shared memory has tables that are indexed by it"
        assert tables.get_entry(3).mfn == tf.INVALID_MFN


# -- whose tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [each for each in EPT_LEAF if each in EPT_TABLE])
def test_tables_of_kvm_are_known_by_their_bits_and_that_is_said(tmp_path, kernel):
    path = kvm_ept(tmp_path, EPT_LEAF[kernel], EPT_TABLE[kernel])
    with tf.open_tables(path, table_format="ept") as tables:
        assert tables.dialect == "kvm"
        assert tables.assumed[0].startswith("dialect kvm: KVM sets bit")
        assert tables.audit().clean


@pytest.mark.parametrize("name", ["npt", "npt-pae", "npt-2", "ept"])
def test_tables_as_xen_has_them_are_known_by_their_bits(tmp_path, name):
    paging, table_format = {"npt": ("4-level", "npt"), "npt-pae": ("pae", "npt"), "npt-2": ("2-level", "npt")}.get(
        name, ("4-level", "ept")
    )
    with lived(paging, table_format) as machine:
        machine.save(tmp_path / "m")
        root = machine.domains[1].p2m.root
        expected = machine.domains[1].p2m.leaf_array().tolist()
    with tf.open_tables(tmp_path / "m", domain="one") as tables:
        assert tables.dialect == "xen"
        assert "Twofold saved" in tables.assumed[0]
    with tf.open_tables(tmp_path / "m", root=root, table_format=name) as tables:
        assert tables.dialect == "xen"
        assert tables.assumed[0].startswith("dialect xen: Xen ")
        assert tables.leaf_array().tolist() == expected


def test_tables_with_nobodys_bits_are_read_as_hardware_does_and_that_is_said(tmp_path):
    path = raw(tmp_path, {1: (4, {0: 2 << 12 | 7}), 2: (3, {0: 1 << 30 | 0x85 | SVE, 1: 0x7F << 53})})
    with tf.open_tables(path) as tables:
        assert tables.dialect == "bare"
        assert tables.assumed[0].startswith("dialect bare: no entry")
        assert tables.get_entry(0).access == "r"
        assert tables.get_entry(1 << 18).mfn == tf.INVALID_MFN
        assert tables.audit().places == 0
        assert "format npt: the file says its levels alone, which an EPT has too" in tables.assumed
    with tf.open_tables(path, dialect="bare", address_bits=48, table_format="npt") as tables:
        assert tables.assumed == ()


def test_tables_that_are_read_as_somebody_elses_say_so_in_findings_not_in_silence(tmp_path):
    path = kvm_ept(tmp_path, EPT_LEAF["6.1"], 0x907)
    with tf.open_tables(path, table_format="ept", dialect="xen") as tables:
        assert findings.BAD_TYPE in {each.code for each in tables.audit().findings}
    with tf.open_tables(path, table_format="ept", dialect="bare") as tables:
        (finding,) = tables.audit().findings
        assert (finding.code, finding.gfn) == (findings.BAD_RIGHTS, MMIO_GFN)
    for dialect in ("bare", "kvm"):
        with tf.open_tables(GOLDEN / "xen" / "pvh2048_dec4k", dialect=dialect) as tables:
            assert tables.audit().clean
            assert {int(row["type"]) for row in tables.leaf_array()} == {0}
            assert tables.get_entry(0).access == "rwx"


@pytest.mark.parametrize("dialect", ["bare", "kvm"])
@pytest.mark.parametrize("name", sorted(path.name for path in (GOLDEN / "xen").iterdir()))
def test_recordings_of_xen_have_the_same_leaves_without_their_types(name, dialect):
    with tf.open_tables(GOLDEN / "xen" / name, dialect=dialect) as tables, tf.open_tables(GOLDEN / "xen" / name) as xen:
        assert xen.dialect == "xen"
        assert tables.audit().clean
        rows, typed = tables.leaf_array(), xen.leaf_array()
        typed = typed[typed["present"]]
        assert rows[["gfn", "mfn", "order"]].tolist() == typed[["gfn", "mfn", "order"]].tolist()
        assert set(rows["type"].tolist()) <= {0}


def test_a_saved_machine_without_types_is_not_held_against_its_frame_table(tmp_path):
    with lived("4-level", "npt") as machine:
        machine.domains[1].p2m.set_entry(0x9000, 0x100, 0, tf.P2MType.MMIO_DIRECT)
        machine.save(tmp_path / "m")
    with tf.open_tables(tmp_path / "m", domain="one", dialect="bare") as tables:
        report = tables.audit()
        assert report.clean
        assert report.skipped == ("frame table and M2P: bare has no types",)


def test_a_frame_that_a_device_model_took_over_is_a_hole_of_its_type_and_counted():
    recorded = GOLDEN / "xen" / "pvh2048_memtypes"
    meta = json.loads((recorded / "meta.json").read_text())
    with tf.open_tables(recorded, dialect="xen") as tables:
        report = tables.audit()
        assert report.clean
        assert report.places == meta["leaf_counts"]["4K/mmio_dm/np"] == 512
        assert tables.get_entry(0x44000) == tf.Entry(tf.INVALID_MFN, 0, tf.P2MType.MMIO_DM, "n")
        assert tables.walk(0x44000)[-1].entry == 0x8040000184000000
        assert tables.translate([0x44000, 0x44200]).tolist() == [tf.INVALID_MFN, 0x184200]
        assert tables.fault(0x44000 << 12) == tf.Fault("npf", 0x100000004, 0x44000 << 12)


@pytest.mark.parametrize("type_", [tf.P2MType.MMIO_DM, tf.P2MType.POPULATE_ON_DEMAND])
def test_an_ept_of_xen_holds_places_whatever_memory_type_they_have(tmp_path, type_):
    place = 0x5008 << 12 | type_ << 52 | 7 << 59 | SVE | 1 << 6 | 6 << 3
    table, leaf = 0x107 | 7 << 59 | SVE, 0x377 | 7 << 59 | SVE
    pages = {4 - level: (level + 1, {0: (5 - level) << 12 | table}) for level in (1, 2, 3)}
    path = raw(tmp_path, pages | {4: (1, {7: 0x5007 << 12 | leaf, 8: place})})
    with tf.open_tables(path, table_format="ept") as tables:
        assert tables.dialect == "xen"
        report = tables.audit()
        assert report.clean, report.findings
        assert (report.leaves, report.places) == (1, 1)
        assert tables.get_entry(8) == tf.Entry(tf.INVALID_MFN, 0, type_, "n")
        assert tables.walk(8)[-1].entry == place
        assert tables.fault(0x8000).kind == "violation"


def test_every_domain_of_a_file_says_whose_tables_it_has(tmp_path):
    with lived("4-level", "npt") as machine:
        machine.save(tmp_path / "m")
    for each in audit_file(tmp_path / "m"):
        assert each.report.clean
        assert each.as_dict()["dialect"] == "xen"


# -- the recordings of others -----------------------------------------------------------------------------------


def test_the_samples_of_other_hypervisors_come_to_what_was_said_of_them():
    folder = GOLDEN / "tables"
    with tf.open_tables(folder / "kvm_ept_healthy.npz", table_format="ept", dialect="kvm") as tables:
        assert tables.audit().clean
        assert tables.leaves() == {0: 2, 9: 2, 18: 0}
        assert (tables.get_entry(0x99).access, tables.get_entry(0x2400).access) == ("rwx", "rw")
    path = folder / "npt_mmio_reserved_43.npz"
    with tf.open_tables(path, table_format="npt", address_bits=43, dialect="bare") as tables:
        (finding,) = tables.audit().findings
        assert "bits 51:43 (0xff80000000000) set above 43 address bits" in str(finding)
        assert tables.fault(0xFFC12000).code == 0x10000000D
    path = folder / "ept_write_without_read.npz"
    with tf.open_tables(path, table_format="ept", dialect="bare") as tables:
        (finding,) = tables.audit().findings
        assert "level 0: rights 110b: write without read (mfn" in str(finding)


# -- arrays of tables -------------------------------------------------------------------------------------------


def one_leaf():
    words = np.zeros((5, 512), np.uint64)
    words[1:4, 0] = [mfn << 12 | 0x67 for mfn in (2, 3, 4)]
    words[4, 5] = 0x5005067
    return words


def assert_one_leaf(path, **options):
    with tf.open_tables(path, root=1, table_format="npt", **options) as tables:
        assert tables.audit().clean
        assert tables.get_entry(5).mfn == 0x5005


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["arr_0", "tables", "memory", "pages", "anything"])
def test_a_plain_array_of_tables_is_memory_from_frame_0_on(tmp_path, monkeypatch, save, name):
    save(tmp_path / "t.npz", **{name: one_leaf()})
    options = {"reader": "table-array"} if name == "anything" else {}
    assert_one_leaf(tmp_path / "t.npz", **options)
    monkeypatch.setattr("twofold.dumps.raw_pages._IN_PLACE", 1)
    assert_one_leaf(tmp_path / "t.npz", **options)
    with pytest.raises(FormatError, match="does not say where its tables begin: name the root"):
        tf.open_tables(tmp_path / "t.npz", **options)
    with pytest.raises(FormatError, match=r"does not say what its tables are: name a format \(npt, "):
        tf.open_tables(tmp_path / "t.npz", root=1, **options)
    with pytest.raises(FormatError, match="has no mfn 0x5 to begin at: it ends at 0x5"):
        tf.open_tables(tmp_path / "t.npz", root=5, **options)


@pytest.mark.parametrize("kind", [np.uint8, np.uint32, np.uint64])
def test_the_same_bytes_are_read_from_an_npy_whatever_its_words(tmp_path, kind):
    np.save(tmp_path / "t.npy", one_leaf().view(kind))
    assert_one_leaf(tmp_path / "t.npy")
    mfn, level = np.arange(1, 5, dtype=np.uint64), np.array([4, 3, 2, 1], np.uint8)
    np.savez(tmp_path / "t.npz", mfn=mfn, level=level, pages=one_leaf()[1:].view(kind))
    with tf.open_tables(tmp_path / "t.npz") as tables:
        assert tables.get_entry(5).mfn == 0x5005
    np.savez(tmp_path / "t.npz", mfn=mfn, pages=one_leaf()[1:].view(kind))
    assert_one_leaf(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((4, 511), np.uint64), r"has an array <u8\(4, 511\): not "),
        (np.zeros(512, np.uint64), "has an array "),
        (np.zeros((4, 512), np.int64), "has no array of ours"),
        (np.zeros((4, 512), ">u8"), "has no array of ours"),
        (np.asfortranarray(np.zeros((4, 512), np.uint64)), "has no array of ours"),
        (np.zeros((0, 512), np.uint64), "one at least"),
    ],
)
def test_an_array_of_anything_else_is_refused(tmp_path, array, problem):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(FormatError, match=problem):
        tf.open_tables(tmp_path / "t.npy", root=0, table_format="npt")


def test_an_npz_of_several_arrays_and_an_npy_that_ends_early_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", one_leaf(), one_leaf())
    with pytest.raises(FormatError, match="holds 2 arrays, arr_0, arr_1: one of tables is read"):
        tf.open_tables(tmp_path / "t.npz", root=1, table_format="npt")
    np.save(tmp_path / "t.npy", one_leaf())
    (tmp_path / "t.npy").write_bytes((tmp_path / "t.npy").read_bytes()[:-1])
    with pytest.raises(FormatError, match="promises 5 rows and holds 20479 bytes"):
        tf.open_tables(tmp_path / "t.npy", root=1, table_format="npt")
    np.savez(tmp_path / "t.npz", mfn=np.zeros(0, np.uint64), pages=np.zeros((0, 4096), np.uint8))
    with pytest.raises(FormatError, match="holds no page"):
        tf.open_tables(tmp_path / "t.npz", root=1, table_format="npt")


@given(st.data())
def test_a_damaged_array_ends_in_an_expected_error_or_in_a_report(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "t"
    with path.open("wb") as file:
        data.draw(st.sampled_from([np.save, np.savez, np.savez_compressed]))(file, one_leaf())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(400, len(content) - 1)))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    with contextlib.suppress(tf.TwofoldError), tf.open_tables(path, root=1, table_format="npt") as tables:
        tables.audit()


# -- anything ---------------------------------------------------------------------------------------------------

WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.builds(
        lambda frame, flags, high: frame << 12 | flags | high,
        st.integers(0, 8),
        st.sampled_from([0x67, 0xE7, 0x827, 0x907, 0xB77, 0x877, 0x107, 6, 0x5A0, 0]),
        st.sampled_from([0, 1 << 43, 1 << 47, 1 << 51, (1 << 52) - (1 << 43), SVE, 4 << 52, 7 << 59 | SVE]),
    ),
)


@given(
    st.sampled_from(["npt", "npt-5", "npt-pae", "ept", "ept-5"]),
    st.sampled_from([None, "xen", "kvm", "bare"]),
    st.sampled_from([None, 39, 43, 48]),
    st.sampled_from([None, 1 << 47, 1 << 51]),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), WORDS), max_size=24),
)
def test_random_tables_end_in_a_report_and_in_answers_in_every_dialect(
    tmp_path_factory, name, dialect, width, mask, made
):
    words = np.zeros((6, 512), np.uint64)
    for table, slot, entry in made:
        words[table, slot] = entry
    path = tmp_path_factory.mktemp("wild") / "t.npy"
    np.save(path, words)
    options = {"dialect": dialect, "address_bits": width, "encryption_mask": mask}
    with tf.open_tables(path, root=0, table_format=name, **options) as tables:
        report, rows = tables.audit(), tables.leaf_array()
        if report.clean:
            assert (report.leaves, report.leaves + report.places) == (int(rows["present"].sum()), len(rows))
        for row in rows[:20]:
            entry = tables.get_entry(int(row["gfn"]))
            assert entry.mfn == row["mfn"]
            assert entry.type == tf.P2MType(int(row["type"])) or int(row["type"]) > 15 or row["recalc"]
            before = tables.walk(int(row["gfn"]))
            tables.fault(int(row["gfn"]) << 12, "write")
            assert tables.walk(int(row["gfn"])) == before
            assert before[-1].entry == int(words[before[-1].table, before[-1].slot])
