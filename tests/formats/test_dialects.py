"""Whose bits: entries as several kernels, Xen and hardware write and read them, and what cannot be asked for."""

import numpy as np
import pytest

from twofold.errors import ReadingError, UnknownNameError
from twofold.formats import shape
from twofold.formats.dialects import Reading, in_dialect, marked
from twofold.formats.p2m_types import P2MType
from twofold.formats.table_formats import EPT, NPT, NPT_2, NPT_PAE, P2M_FORMATS

SVE = 1 << 63
MMIO = P2MType.MMIO_DM << 52
GFN = 0xFFC12 << 12


def read(table_format, name, entry, level=0, reading=None):
    """Return what is read in the place of an entry."""
    markers = in_dialect(table_format, name, reading or Reading()).markers
    return int(marked(markers, np.array([entry], np.uint64), level)[0])


@pytest.mark.parametrize("generation", [0, 1, 0x55, 0x3FF, 0x2AAAA, 0x7FFFF])
@pytest.mark.parametrize("low", [9, 10, 11], ids=["4.17", "5.12", "5.1"])
def test_an_mmio_entry_of_kvm_is_one_at_every_generation(generation, low):
    bits = (generation << 3 & (2 << low) - 8) | (generation >> (low - 2) & 0x3FF) << 52
    assert read(EPT, "kvm", GFN | 6 | bits) == MMIO
    assert read(EPT, "kvm", GFN | 6 | bits | 1 << 62) == MMIO, "4.17: bit 62 beside"
    for first in (39, 43, 46, 48, 51):
        reserved = (1 << 52) - (1 << first)
        assert read(NPT, "kvm", GFN | 7 | bits | reserved, reading=Reading(None, first)) == MMIO
        assert read(NPT, "kvm", GFN | 7 | bits | reserved) == MMIO, "bit 51 is always among them"


def test_bit_51_is_an_address_bit_where_the_cpu_has_52():
    assert read(NPT, "kvm", GFN | 7 | 1 << 51, reading=Reading(None, 52)) == GFN | 7 | 1 << 51


@pytest.mark.parametrize(("bit", "high"), [(51, 50), (47, 51)])
def test_an_mmio_entry_is_told_from_an_encrypted_one(bit, high):
    reading = Reading(None, 43, 1 << bit)
    assert read(NPT, "kvm", GFN | 7 | 1 << bit, reading=reading) == GFN | 7 | 1 << bit
    assert read(NPT, "kvm", GFN | 7 | (1 << 52) - (1 << 43), reading=reading) == MMIO
    assert read(NPT, "kvm", GFN | 7 | 1 << high, reading=reading) == MMIO


@pytest.mark.parametrize("entry", [0, SVE, 0x5A0, SVE | 0x5A0, SVE | 0x498, 1 << 59])
@pytest.mark.parametrize("table_format", [EPT, NPT, NPT_PAE], ids=lambda each: each.name)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_an_empty_slot_and_one_that_is_being_removed_are_holes_at_every_level(table_format, entry, level):
    words = in_dialect(table_format, "kvm", Reading()).table_format.shape
    assert shape.is_empty(words, read(table_format, "kvm", entry, level))


def test_what_is_read_in_the_place_of_a_marker_is_read_again_as_it_is():
    for table_format, mmio in ((EPT, GFN | 6), (NPT, GFN | 7 | 1 << 51)):
        once = read(table_format, "kvm", mmio)
        assert read(table_format, "kvm", once) == once == MMIO
    place = GFN | P2MType.PAGED << 52 | 6 << 3
    assert read(EPT, "xen", read(EPT, "xen", place)) == read(EPT, "xen", place) != place


def test_mmio_of_tdx_is_not_present_and_does_not_suppress_ve():
    assert read(EPT, "kvm", GFN | 0x88 | 3 << 52) == MMIO


def test_marks_of_mmio_stand_at_the_last_level_alone():
    for level in (1, 2, 3):
        assert read(EPT, "kvm", 0x1000 | 6, level) == 0x1006
        assert read(NPT, "kvm", 0x1007 | 1 << 51, level, Reading(None, 43)) == 0x1007 | 1 << 51


def test_an_entry_whose_accesses_are_tracked_keeps_its_frame_and_has_no_rights():
    kvm = in_dialect(EPT, "kvm", Reading()).table_format
    tracked = 0x1000 | 1 << 11 | 6 << 3 | 1 << 52 | 5 << 54
    assert read(EPT, "kvm", tracked) == tracked
    assert shape.is_present(kvm.shape, tracked)
    assert not shape.is_usable(kvm.shape, tracked)
    assert (kvm.type_of(tracked), kvm.access_of(tracked)) == (P2MType.RAM_RW, "n")


@pytest.mark.parametrize("rest", [0, 6 << 3, 1 << 6, 1 << 6 | 6 << 3 | 1 << 7, 1 << 8 | 1 << 9])
@pytest.mark.parametrize("type_", [P2MType.POPULATE_ON_DEMAND, P2MType.PAGED, P2MType.MMIO_DM])
def test_an_ept_entry_of_xen_without_rights_is_what_its_type_says(type_, rest):
    entry = GFN | type_ << 52 | rest | 7 << 59 | SVE
    xen = in_dialect(EPT, "xen", Reading()).table_format
    stored = read(EPT, "xen", entry)
    assert not shape.is_present(xen.shape, stored)
    assert xen.type_of(stored) is type_
    assert read(EPT, "xen", entry | 1) == entry | 1, "a right is a right"
    assert shape.is_empty(xen.shape, read(EPT, "xen", GFN | rest | P2MType.INVALID << 52))


@pytest.mark.parametrize(
    ("table_format", "entry", "access"),
    [
        (NPT, 0x1007, "rwx"),
        (NPT, 0x1005, "rx"),
        (NPT, 0x1007 | SVE, "rw"),
        (NPT, 0x1005 | SVE, "r"),
        (NPT, 0x1003, "n"),
        (NPT_2, 0x1007, "rwx"),
        (NPT_2, 0x1001, "n"),
        (EPT, 0x1004, "x"),
        (EPT, 0x1003 | 9 << 59, "rw"),
        (EPT, 0x1000, "n"),
    ],
)
def test_without_a_dialect_a_leaf_has_the_rights_of_hardware_and_no_type(table_format, entry, access):
    bare = in_dialect(table_format, "bare", Reading()).table_format
    assert (
        bare.access_of(entry | 0x1F << 52) == access if table_format is not NPT_2 else bare.access_of(entry) == access
    )
    assert not int(bare.shape[shape.TYPE_MASK])
    assert not shape.needs_recalc(bare.shape, entry, 0)


@pytest.mark.parametrize("table_format", P2M_FORMATS.values(), ids=P2M_FORMATS)
def test_without_a_dialect_what_hardware_does_not_follow_is_a_hole(table_format):
    bare = in_dialect(table_format, "bare", Reading()).table_format
    most = (1 << 8 * np.dtype(bare.entry_dtype).itemsize) - 1
    assert shape.is_empty(bare.shape, most & ~int(bare.shape[shape.HARDWARE]))
    assert int(bare.shape[shape.EMPTY]) <= most


def test_xen_without_more_is_the_format_itself():
    for table_format in P2M_FORMATS.values():
        assert in_dialect(table_format, "xen", Reading()).table_format is table_format


@pytest.mark.parametrize(("bit", "width"), [(47, None), (47, 43), (51, 43), (47, 48), (51, 52), (43, 43)])
@pytest.mark.parametrize("table_format", [EPT, NPT], ids=lambda each: each.name)
def test_a_bit_of_memory_encryption_is_no_address_and_no_reserved_bit(table_format, bit, width):
    words = in_dialect(table_format, "bare", Reading(None, width, 1 << bit)).table_format.shape
    flags = 0x37 if table_format is EPT else 7
    for level, large in ((0, 0), (1, 1 << 7), (2, 1 << 7), (3, 0)):
        entry = 0x40000000 | 1 << bit | (flags if level < 3 else 7) | large
        assert shape.malformed(words, entry, level) == 0
        assert shape.frame_of(words, entry) == 0x40000


@pytest.mark.parametrize(
    ("table_format", "mask", "may"),
    [
        (NPT, 1 << 11, "bits 51:32"),
        (NPT, 1 << 52, "bits 51:32"),
        (NPT, 1 << 63, "bits 51:32"),
        (EPT, 1 << 47 | 1, "bits 51:32"),
        (EPT, 1 << 31, "bits 51:32"),
        (EPT, 1 << 64, "bits 51:32"),
        (EPT, -1, "bits 51:32"),
        (NPT_2, 1 << 47, "no bit"),
        (EPT, "1", "bits 51:32"),
        (EPT, 1.0, "bits 51:32"),
        (EPT, True, "bits 51:32"),
    ],
)
def test_a_mask_over_other_bits_is_refused_with_those_that_it_may_have(table_format, mask, may):
    with pytest.raises(ReadingError, match=f"^encryption_mask .* overlaps what .* needs: .*{may}") as told:
        in_dialect(table_format, "bare", Reading(None, None, mask))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("table_format", "most"), [(NPT, 52), (EPT, 52), (NPT_PAE, 52), (NPT_2, 40)])
@pytest.mark.parametrize("bits", [-1, 0, 31, 53, 64, 1 << 70, True, "43", 43.0])
def test_a_width_that_no_cpu_has_is_refused_with_the_range(table_format, most, bits):
    with pytest.raises(ReadingError, match=f"^address_bits .* is no width of addresses in .* tables: 32 to {most}$"):
        in_dialect(table_format, "bare", Reading(None, bits))
    in_dialect(table_format, "bare", Reading(None, most))


def test_a_dialect_that_nobody_speaks_is_refused_with_those_there_are():
    with pytest.raises(UnknownNameError, match="unknown dialect 'hyper-v'; known are xen, kvm, bare"):
        in_dialect(NPT, "hyper-v", Reading())
