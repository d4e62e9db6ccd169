"""PAE and 2-level entries bit by bit: three bits of type, PSE-36, roots that hold a frame and P alone."""

import pytest

from twofold.errors import FormatError
from twofold.formats import legacy, shape
from twofold.formats.p2m_types import PLACE_TYPES, PRESENT_TYPES, P2MType

PAE, TWO = legacy.PAE_SHAPE, legacy.TWO_LEVEL_SHAPE
FITS = sorted(type_ for type_ in PRESENT_TYPES if type_ <= 7)


@pytest.mark.parametrize("type_", FITS)
def test_a_present_type_stands_in_bits_11_to_9(type_):
    for flags, type_of in ((legacy.pae_flags, legacy.pae_type_of), (legacy.two_level_flags, legacy.two_level_type_of)):
        assert flags(type_) >> 9 & 7 == type_
        assert flags(type_) & 1
        assert type_of(flags(type_)) is type_
    assert not legacy.pae_flags(type_) & 0x7FF << 52, "bits 62..52 are reserved"
    assert legacy.two_level_flags(type_) < 1 << 12, "there is no NX"


@pytest.mark.parametrize("type_", sorted(PRESENT_TYPES - set(FITS)))
def test_a_type_that_needs_four_bits_is_refused(type_):
    for flags in (legacy.pae_flags, legacy.two_level_flags):
        with pytest.raises(FormatError, match="three bits"):
            flags(type_)


@pytest.mark.parametrize("type_", sorted(PLACE_TYPES))
@pytest.mark.parametrize("level", [0, 1])
def test_what_is_not_present_holds_any_type(type_, level):
    for words, flags, type_of in (
        (PAE, legacy.pae_flags, legacy.pae_type_of),
        (TWO, legacy.two_level_flags, legacy.two_level_type_of),
    ):
        entry = flags(type_) | shape.invalid_frame(words, level)
        assert not shape.is_present(words, entry)
        assert not shape.is_empty(words, entry)
        assert type_of(entry) is type_


@pytest.mark.parametrize("access", ["rw", "r", "x", "n"])
def test_two_levels_have_no_execute_right(access):
    with pytest.raises(FormatError, match="cannot hold access"):
        legacy.two_level_flags(P2MType.RAM_RW, access)
    if access in {"x", "n"}:
        with pytest.raises(FormatError, match="cannot hold access"):
            legacy.pae_flags(P2MType.RAM_RW, access)


@pytest.mark.parametrize(
    ("mfn", "entry"),
    [(0x400, 0x00400080), (0x100400, 0x00402080), (0x8000000, 0x100080), (0xFFFFC00, 0xFFDFE080)],
)
def test_a_4m_leaf_keeps_address_bits_39_to_32_in_bits_20_to_13(mfn, entry):
    assert shape.put_frame(TWO, mfn, 1) == entry
    assert shape.leaf_frame(TWO, entry, 1) == mfn
    assert not entry & 1 << 21


def test_bit_21_of_a_4m_leaf_is_reserved():
    assert shape.malformed(TWO, 0xE7 | 1 << 21, 1) == 1 << 21
    assert not shape.malformed(TWO, 0xE7 | 0xFF << 13, 1)


def test_a_pae_root_entry_is_a_frame_and_p_alone():
    assert shape.table_entry(PAE, 0x12345, 2) == 0x12345001
    assert shape.table_entry(PAE, 0x12345, 1) == 0x12345067
    for bit in (1, 2, 5, 6, 7, 8, 52, 62, 63):
        assert shape.malformed(PAE, 0x12345001 | 1 << bit, 2), f"bit {bit}"


def test_only_us_marks_an_entry_to_be_recalculated():
    for words in (PAE, TWO):
        assert shape.needs_recalc(words, 0x63, 0)
        assert not shape.needs_recalc(words, 0x47, 0), "a window read may set A; its absence says nothing"
    assert not shape.needs_recalc(PAE, 0x12345001, 2), "the root has no US"


def test_the_limits_of_frames_are_those_of_the_entries():
    assert (int(TWO[shape.SMALL_LIMIT]), int(TWO[shape.LARGE_LIMIT])) == (1 << 20, 1 << 28)
    assert int(PAE[shape.SMALL_LIMIT]) == int(PAE[shape.LARGE_LIMIT])
