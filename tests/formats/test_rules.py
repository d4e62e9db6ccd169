"""What a malformed entry breaks: each rule has a code and a sentence with its bits, and no other rule speaks for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.formats import findings as at
from twofold.formats import shape
from twofold.formats.dialects import Reading, in_dialect
from twofold.formats.rules import broken_rules
from twofold.formats.table_formats import EPT, EPT_5, NPT, NPT_2, NPT_5, NPT_PAE, P2M_FORMATS

WIDE = Reading()
EPT_LEAF = 0x1000 | 6 << 3


def broken(table_format, entry, level, reading=WIDE, dialect="bare"):
    return list(broken_rules(in_dialect(table_format, dialect, reading).table_format.shape, entry, level))


@pytest.mark.parametrize(
    ("table_format", "entry", "level", "code", "says"),
    [
        (EPT, EPT_LEAF | 6, 0, at.BAD_RIGHTS, "rights 110b: write without read"),
        (EPT, EPT_LEAF | 2, 0, at.BAD_RIGHTS, "rights 010b: write without read"),
        (EPT_5, 0x1000 | 6, 4, at.BAD_RIGHTS, "rights 110b: write without read"),
        (EPT, 0x1000 | 2 << 3 | 7, 0, at.BAD_MEMORY_TYPE, "memory type 2 is reserved"),
        (EPT, 0x200000 | 3 << 3 | 7 | 1 << 7, 1, at.BAD_MEMORY_TYPE, "memory type 3 is reserved"),
        (EPT, 0x1000 | 7 << 3 | 7, 0, at.BAD_MEMORY_TYPE, "memory type 7 is reserved"),
        (EPT, 0x1007 | 1 << 6, 1, at.RESERVED_BITS, "reserved bit 6 (0x40) set"),
        (EPT, 0x1007 | 0xF << 3, 3, at.RESERVED_BITS, "reserved bits 6:3 (0x78) set"),
        (EPT, 0x1007 | 1 << 7, 3, at.RESERVED_BITS, "reserved bit 7 (0x80) set"),
        (NPT, 0x1007 | 1 << 7, 3, at.RESERVED_BITS, "reserved bit 7 (0x80) set"),
        (NPT_5, 0x1007 | 1 << 7, 4, at.RESERVED_BITS, "reserved bit 7 (0x80) set"),
        (NPT_PAE, 0x1007 | 1 << 52, 0, at.RESERVED_BITS, "reserved bit 52 (0x10000000000000) set"),
        (NPT_PAE, 0x1003, 2, at.RESERVED_BITS, "reserved bit 1 (0x2) set"),
        (
            NPT,
            1 << 20 | 1 << 13 | 0x87,
            1,
            at.MISALIGNED,
            "maps frames that do not start at a multiple of its size: bits 20, 13 (0x102000) set",
        ),
        (
            NPT_2,
            0x400000 | 1 << 21 | 0x87,
            1,
            at.MISALIGNED,
            "maps frames that do not start at a multiple of its size: bit 21 (0x200000) set",
        ),
    ],
)
def test_an_entry_that_breaks_one_rule_says_which(table_format, entry, level, code, says):
    assert broken(table_format, entry, level) == [(code, says)]


@pytest.mark.parametrize("width", [39, 43, 46, 48, 51])
@pytest.mark.parametrize("table_format", [NPT, NPT_5, NPT_PAE, EPT, EPT_5], ids=lambda each: each.name)
def test_bits_above_the_address_width_are_named_in_leaves_and_in_table_entries(table_format, width):
    plain = 0x40000000 | (0x37 if table_format.name.startswith("ept") else 7)
    reading, every = Reading(None, width), (1 << 52) - (1 << width)
    high = f"bits 51:{width} ({every:#x})" if width < 51 else f"bit 51 ({every:#x})"
    for level, flags in ((0, 0), (1, 1 << 7)):
        assert broken(table_format, plain | flags | every, level, reading) == [
            (at.ADDRESS_WIDTH, f"{high} set above {width} address bits")
        ]
        one = 1 << width
        assert broken(table_format, plain | flags | one, level, reading) == [
            (at.ADDRESS_WIDTH, f"bit {width} ({one:#x}) set above {width} address bits")
        ]
        assert broken(table_format, plain | flags | one, level) == [], "an entry can hold it"
        assert broken(table_format, plain | flags | one >> 1, level, reading) == []
    for level in range(1, table_format.geometry.levels):
        table = 0x40000001 if table_format is NPT_PAE and level == 2 else 0x40000007
        assert broken(table_format, table | 1 << width, level, reading)[0][0] == at.ADDRESS_WIDTH


def test_a_large_leaf_of_two_levels_keeps_its_high_address_bits_further_down():
    leaf = 0x400000 | 0x87
    assert broken(NPT_2, leaf | 0xF << 13, 1, Reading(None, 36)) == [], "address bits 35:32"
    assert broken(NPT_2, leaf | 0x1F << 13, 1, Reading(None, 36)) == [
        (at.ADDRESS_WIDTH, "bit 17 (0x20000) set above 36 address bits")
    ]
    assert broken(NPT_2, leaf | 0xFF << 13, 1) == []
    assert broken(NPT_2, 0xFFFFF007, 0, Reading(None, 32)) == []


def test_an_entry_that_breaks_several_rules_says_them_all_and_the_code_is_the_first():
    found = broken(EPT, 1 << 45 | 2 << 3 | 6, 0, Reading(None, 43))
    assert [code for code, _ in found] == [at.BAD_RIGHTS, at.ADDRESS_WIDTH, at.BAD_MEMORY_TYPE]


def test_a_mark_of_xen_breaks_no_rule_in_tables_of_xen():
    marked = 0x1000 | 7 << 3 | 7
    assert broken(EPT, marked, 0, dialect="xen") == []
    assert broken(EPT, marked | 1 << 48, 0, Reading(None, 46), "xen") == [
        (at.ADDRESS_WIDTH, "bit 48 (0x1000000000000) set above 46 address bits")
    ]
    assert broken(EPT, marked, 0, dialect="kvm") == [(at.BAD_MEMORY_TYPE, "memory type 7 is reserved")]


@given(
    st.sampled_from(list(P2M_FORMATS)),
    st.sampled_from(["xen", "kvm", "bare"]),
    st.sampled_from([None, 32, 36, 40]),
    st.one_of(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=8).map(lambda s: sum(1 << b for b in s))),
    st.integers(0, 4),
)
def test_rules_are_broken_by_just_those_entries_that_are_malformed(name, dialect, width, entry, level):
    table_format = P2M_FORMATS[name]
    level %= table_format.geometry.levels
    words = in_dialect(table_format, dialect, Reading(None, width)).table_format.shape
    bad = shape.malformed(words, entry, level)
    if shape.needs_recalc(words, entry, level):
        bad &= ~int(words[shape.RECALC_MASK])
    found = broken_rules(words, entry, level)
    assert bool(found) is bool(bad)
    assert len({each.code for each in found}) == len(found), "each rule is said once"
