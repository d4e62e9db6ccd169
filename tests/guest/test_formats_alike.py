"""The four workloads answer alike on every table format that can hold the guest, with every page size and design."""

import numpy as np
import pytest

from kinds import FORMATS
from twofold.domain import DomainOptions, Machine, build
from twofold.freemaps import FreeMap
from twofold.guest import Guest, Program, check_answer, run
from twofold.trace import DEFAULT_WORKLOADS, WORKLOADS

DESIGNS = ("small", "toolstack", "opportunistic")
P2M_SIZES = {"npt-pae": ("4K", "4K,2M"), "npt-2": ("4K", "4K,4M")}
LONG_SIZES = ("4K", "4K,2M", "4K,1G", "4K,2M,1G")
# What a guest's own tables and pages may be: no wider than the hypervisor's.
GUESTS_2 = [("2-level", "4K"), ("2-level", "4M")]
GUESTS_32 = [("pae", "4K"), ("pae", "2M"), *GUESTS_2]
GUESTS_64 = [("4-level", "4K"), ("4-level", "2M"), ("4-level", "1G"), *GUESTS_32]
FOOTPRINTS = {"4K": 4 << 20, "2M": 16 << 20, "4M": 16 << 20, "1G": 1 << 30}
STEPS, SEED = 120, 3
# A walk in a P2M of 4K leaves reads (g + 1)(h + 1) - 1 entries; those of a PAE root are read in the walk here.
LEVELS = {"npt": 4, "npt-5": 5, "npt-pae": 3, "npt-2": 2, "ept": 4, "ept-5": 5, "4-level": 4, "pae": 3, "2-level": 2}


def guests_of(table_format: str) -> list[tuple[str, str]]:
    return {"npt-2": GUESTS_2, "npt-pae": GUESTS_32}.get(table_format, GUESTS_64)


def cases() -> list[tuple[str, str, str]]:
    """Return every (format, page sizes of the P2M, design)."""
    return [
        (table_format, sizes, design)
        for table_format in FORMATS
        for sizes in P2M_SIZES.get(table_format, LONG_SIZES)
        for design in DESIGNS
    ]


def fast(case: tuple[str, str, str]) -> bool:
    """Return whether a case is in the fast set: all sizes on and the design that uses them, in each format."""
    table_format, sizes, design = case
    return (sizes, design) == (P2M_SIZES.get(table_format, LONG_SIZES)[-1], "toolstack")


CASES = [pytest.param(*case, marks=() if fast(case) else pytest.mark.slow, id="-".join(case)) for case in cases()]


def made(table_format: str, sizes: str, design: str):
    """Return (machine, domain): a 3 GiB guest on a fragmented host."""
    paging, name = FORMATS[table_format]
    is_32_bit = table_format in P2M_SIZES
    free = FreeMap.synthetic("3.5GiB" if is_32_bit else "8GiB", free_share=0.9, fragmentation=0.3, seed=3)
    machine = Machine(free=free, paging=paging)
    options = DomainOptions(table_format=name, page_sizes=sizes)
    domain = machine.create_domain("1GiB" if is_32_bit else "3GiB", options=options)
    build(domain, design)
    return machine, domain


@pytest.mark.medium
@pytest.mark.parametrize(("table_format", "sizes", "design"), CASES)
def test_the_four_workloads_of_a_comparison_answer_alike(table_format, sizes, design):
    answer_alike(DEFAULT_WORKLOADS, table_format, sizes, design)


@pytest.mark.slow
@pytest.mark.parametrize(("table_format", "sizes", "design"), CASES)
def test_all_other_workloads_answer_alike(table_format, sizes, design):
    answer_alike([name for name in WORKLOADS if name not in DEFAULT_WORKLOADS], table_format, sizes, design)


def answer_alike(names, table_format, sizes, design):
    """Run some workloads in every guest that the format holds."""
    machine, domain = made(table_format, sizes, design)
    with machine:
        for mode, pages in guests_of(table_format):
            guest = Guest(domain, mode, pages, FOOTPRINTS[pages])
            for name in names:
                workload = WORKLOADS[name]
                program = Program.workload(name, steps=STEPS, seed=SEED, bits=guest.bits)
                result = run(guest, program)
                check_answer(result, workload.answer(SEED, guest.area_base, guest.footprint, STEPS), program)
                expected = workload.addresses(SEED, guest.area_base, guest.footprint, STEPS)
                np.testing.assert_array_equal(touched(result.trace, guest), expected)
        assert domain.p2m.audit().clean


def touched(trace, guest) -> np.ndarray:
    """Return the addresses of a trace; the two halves of a word that a 32-bit program touches as one."""
    inside = (trace["gva"] >= guest.area_base) & (trace["gva"] < guest.area_base + guest.footprint)
    gvas = trace["gva"][inside]
    return gvas[(gvas & np.uint64(7)) == 0] if guest.bits == 32 else gvas


@pytest.mark.medium
@pytest.mark.parametrize("table_format", FORMATS)
def test_a_walk_reads_as_many_entries_as_both_dimensions_have(table_format):
    machine, domain = made(table_format, "4K", "small")
    with machine:
        for mode, pages in guests_of(table_format):
            guest = Guest(domain, mode, pages, FOOTPRINTS[pages])
            skipped = {"4K": 0, "2M": 1, "4M": 1, "1G": 2}[pages]
            _, steps, _ = guest.walk(guest.area_base + 0x1238)
            assert len(steps) == (LEVELS[mode] - skipped + 1) * (LEVELS[table_format] + 1) - 1


@pytest.mark.medium
@pytest.mark.parametrize("table_format", FORMATS)
def test_a_step_of_a_walk_says_where_its_entry_stands_and_what_it_is(table_format):
    sizes = P2M_SIZES.get(table_format, LONG_SIZES)[0]
    machine, domain = made(table_format, sizes, "toolstack")
    with machine:
        for mode, pages in guests_of(table_format):
            guest = Guest(domain, mode=mode, page_sizes=pages, footprint=FOOTPRINTS[pages])
            _, steps, _ = guest.walk(guest.area_base + FOOTPRINTS[pages] - 1)
            for step in steps:
                narrow = (mode if step.guest else table_format) in {"2-level", "npt-2"}
                word = machine.arena.read(step.maddr, 4 if narrow else 8)
                assert int.from_bytes(word, "little") == step.entry
            own = [step.meaning for step in steps if step.guest]
            assert [meaning.split()[0] for meaning in own] == ["table,"] * (len(own) - 1) + [pages]
            assert steps[-1].meaning.startswith("4K leaf, mfn ")
