"""EPT entries bit by bit: the vectors of Xen's own encoding, types beside accesses, the exit qualification."""

import pytest

from twofold.errors import FormatError, P2MTypeError
from twofold.formats import ept, shape
from twofold.formats.p2m_types import ACCESS_NAMES, PLACE_TYPES, PRESENT_TYPES, P2MType

SVE = 1 << 63


def test_plain_ram_is_write_back_with_all_rights_and_a_and_d_set():
    # R W X, EMT 6, IPAT, A D, access 7 in bits 62..59, suppress-#VE.
    assert ept.encode_leaf(0x12345, 0) == 0x12345000 | 7 | 0x30 | 0x40 | 0x300 | 7 << 59 | SVE
    assert ept.encode_leaf(0x40000, 1) == 0x40000000 | 7 | 0x30 | 0x40 | 0x80 | 0x300 | 7 << 59 | SVE


@pytest.mark.parametrize(
    ("type_", "rights"),
    [
        (P2MType.RAM_RW, 7),
        (P2MType.RAM_LOGDIRTY, 5),
        (P2MType.RAM_RO, 5),
        (P2MType.RAM_SHARED, 5),
        (P2MType.MMIO_DIRECT, 7),
        (P2MType.GRANT_MAP_RW, 3),
        (P2MType.GRANT_MAP_RO, 1),
        (P2MType.MAP_FOREIGN, 3),
        (P2MType.IOREQ_SERVER, 3),
    ],
)
def test_each_type_has_its_rights_and_stands_in_bits_57_to_52(type_, rights):
    entry = ept.encode_leaf(5, 0, type_)
    assert entry & 7 == rights
    assert entry >> 52 & 0x3F == type_
    assert ept.type_of(entry) is type_
    assert bool(entry & ept.DIRTY) is bool(rights & 2), "D beforehand in what may be written"
    assert entry >> 3 & 7 == (0 if type_ == P2MType.MMIO_DIRECT else 6)


@pytest.mark.parametrize("access", ACCESS_NAMES)
def test_an_access_takes_rights_away_and_is_kept_beside_them(access):
    for type_ in PRESENT_TYPES:
        entry = ept.encode_leaf(5, 0, type_, access)
        assert ept.access_of(entry) == access
        assert entry & 7 not in {2, 6}, "W without R is a misconfiguration"
        assert shape.malformed(ept.FOUR_LEVEL_SHAPE, entry, 0) == 0
        assert shape.is_present(ept.FOUR_LEVEL_SHAPE, entry), "without any right it still has its frame"
        assert shape.is_usable(ept.FOUR_LEVEL_SHAPE, entry) is bool(entry & 7)
    assert bool(ept.encode_leaf(5, 0, P2MType.RAM_RW, access) & ept.PAGING_WRITE) is (access == "r_pw")


def test_execute_only_is_a_right_of_its_own():
    assert ept.encode_leaf(5, 0, P2MType.RAM_RW, "x") & 7 == 4


def test_an_empty_slot_suppresses_ve_and_a_place_maps_nothing():
    words = ept.FOUR_LEVEL_SHAPE
    assert int(words[shape.EMPTY]) == SVE
    for type_ in PLACE_TYPES:
        entry = ept.leaf_flags(type_, 0) | shape.invalid_frame(words, 0)
        assert not shape.is_present(words, entry)
        assert not shape.is_empty(words, entry)
        assert ept.type_of(entry) is type_


@pytest.mark.parametrize("bad", [2, 3, 7])
def test_memory_types_that_hardware_refuses_are_malformed_and_seven_is_the_mark(bad):
    words, entry = ept.FOUR_LEVEL_SHAPE, ept.encode_leaf(5, 0) & ~0x38 | bad << 3
    assert shape.malformed(words, entry, 0)
    assert shape.needs_recalc(words, entry, 0) is (bad == 7)


def test_what_cannot_be_said_is_refused():
    with pytest.raises(FormatError, match="knows no access"):
        ept.flags_of(P2MType.RAM_RW, "rwxs")
    with pytest.raises(P2MTypeError, match="has no entry"):
        ept.flags_of(P2MType.INVALID)


def test_the_exit_qualification_has_access_rights_and_address_bits():
    assert ept.qualification(0, 0) == 0x181
    assert ept.qualification(1, 5) == 0x1AA
    assert ept.qualification(2, 3, final=False) == 0x9C
