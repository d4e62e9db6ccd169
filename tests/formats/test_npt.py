"""NPT entries, held to the encodings that Xen 4.17 stores."""

import pytest

from twofold.errors import P2MTypeError
from twofold.formats import guest, npt, p2m_types, x86
from twofold.formats.geometry import FOUR_LEVEL
from twofold.formats.npt import P2MType

NX = 1 << 63
FRAME = 0x12345
PRESENT_TYPES = [
    (P2MType.RAM_RW, 0x67),
    (P2MType.RAM_LOGDIRTY, 2 << 52 | 0x65),
    (P2MType.RAM_RO, 3 << 52 | 0x65),
    (P2MType.MMIO_DIRECT, 5 << 52 | 0x77),
    (P2MType.GRANT_MAP_RW, 7 << 52 | NX | 0x67),
    (P2MType.GRANT_MAP_RO, 8 << 52 | NX | 0x65),
    (P2MType.RAM_SHARED, 12 << 52 | 0x65),
    (P2MType.MAP_FOREIGN, 14 << 52 | NX | 0x67),
    (P2MType.IOREQ_SERVER, 15 << 52 | NX | 0x67),
]


@pytest.mark.parametrize(("type_", "flags"), PRESENT_TYPES)
def test_a_4k_leaf_is_encoded_as_xen_does(type_, flags):
    assert npt.encode_leaf(FRAME, 0, type_) == FRAME << 12 | flags


@pytest.mark.parametrize(("type_", "flags"), PRESENT_TYPES)
@pytest.mark.parametrize("level", [1, 2])
def test_a_large_leaf_is_a_4k_leaf_with_bit_7(type_, flags, level):
    mfn = FRAME << 9 * level
    assert npt.encode_leaf(mfn, level, type_) == mfn << 12 | flags | 0x80


def test_a_table_entry_has_all_rights():
    assert npt.encode_table(FRAME) == FRAME << 12 | 0x67


def test_the_numbers_of_xen_are_met_literally():
    assert npt.encode_leaf(0x200, 1) == 0x2000E7
    assert npt.encode_leaf(1, 0, P2MType.RAM_LOGDIRTY) == 0x0020000000001065
    assert npt.encode_leaf(0x200, 1, P2MType.MMIO_DIRECT) == 0x00500000002000F7
    assert npt.encode_leaf(1, 0, P2MType.GRANT_MAP_RW) == 0x8070000000001067


@pytest.mark.parametrize("type_", [P2MType.INVALID, P2MType.MMIO_DM])
def test_a_type_without_a_frame_has_no_leaf(type_):
    with pytest.raises(P2MTypeError) as caught:
        npt.leaf_flags(type_, 0)
    assert caught.value.type_name == type_.name


def test_every_type_either_has_a_leaf_or_is_known_to_have_none():
    present = {type_ for type_, _ in PRESENT_TYPES}
    assert present == p2m_types.PRESENT_TYPES
    assert present | p2m_types.HOLE_TYPES | p2m_types.PLACE_TYPES == set(P2MType)


@pytest.mark.parametrize("type_", [type_ for type_, _ in PRESENT_TYPES])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_type_is_read_back_from_its_leaf(type_, level):
    entry = npt.encode_leaf(FRAME << 9 * level, level, type_)
    assert npt.type_of(entry) is type_
    assert x86.leaf_frame(entry, level) == FRAME << 9 * level
    assert x86.reserved_bits(entry, level) == 0


def test_an_unknown_type_number_reads_as_invalid():
    assert npt.type_of(npt.encode_leaf(FRAME, 0) | 0x55 << 52) is P2MType.INVALID


@pytest.mark.parametrize(
    ("type_", "access"),
    [
        (P2MType.RAM_RW, "rwx"),
        (P2MType.RAM_RO, "rx"),
        (P2MType.RAM_LOGDIRTY, "rx"),
        (P2MType.RAM_SHARED, "rx"),
        (P2MType.MMIO_DIRECT, "rwx"),
        (P2MType.GRANT_MAP_RW, "rw"),
        (P2MType.GRANT_MAP_RO, "r"),
        (P2MType.MAP_FOREIGN, "rw"),
    ],
)
def test_rights_follow_the_type(type_, access):
    assert npt.access_of(npt.encode_leaf(FRAME, 0, type_)) == access


def test_a_guest_entry_has_the_bits_that_an_operating_system_sets_beforehand():
    assert guest.encode_leaf(0x77, 0) == 0x77067
    assert guest.encode_leaf(0x200, 1) == 0x2000E7
    assert guest.encode_leaf(0x77, 0, writable=False) == 0x77025
    assert guest.encode_table(0x77) == 0x77027


def test_four_levels_translate_36_bits_of_a_frame_number():
    assert FOUR_LEVEL.entries == 512
    assert FOUR_LEVEL.frame_bits == 36
    assert FOUR_LEVEL.frame_limit == 1 << 36
    assert [FOUR_LEVEL.level_of(order) for order in FOUR_LEVEL.leaf_orders] == [0, 1, 2]


def test_a_gfn_is_cut_into_one_slot_a_level():
    gfn = 0o111_222_333_444
    assert [FOUR_LEVEL.slot(gfn, level) for level in (3, 2, 1, 0)] == [0o111, 0o222, 0o333, 0o444]
