"""Mem.EXACT at the memory operation: the order asked, or nothing."""

import pytest

from twofold.domain import DomainOptions, Mem, Reason
from twofold.errors import AddressError
from twofold.formats.npt import P2MType


@pytest.mark.parametrize(
    ("gfn", "order", "page_sizes"),
    [(0x100, 9, None), (0, 12, None), (0, 9, "4K"), (0x200, 18, None)],
    ids=["misaligned", "no leaf order", "switched off", "misaligned 1G"],
)
def test_an_exact_extent_that_no_leaf_can_have_is_refused_and_changes_nothing(make_machine, gfn, order, page_sizes):
    machine = make_machine("4GiB")
    domain = machine.create_domain("1GiB", options=DomainOptions(page_sizes=page_sizes))
    before = machine.heap.blocks()
    answer = domain.memory.populate_physmap([gfn], order, Mem.EXACT)
    assert (answer.done, answer.reason) == (0, Reason.NOT_EXACT)
    assert machine.heap.blocks() == before
    assert domain.p2m.leaves() == {0: 0, 9: 0, 18: 0}


def test_leaves_counts_ram_and_no_other_type(make_machine):
    domain = make_machine("4GiB").create_domain("1GiB")
    domain.p2m.set_entry(0x1000, 0x2000, 0, P2MType.MMIO_DIRECT)
    domain.memory.populate_physmap([0x3000], 0)
    assert domain.p2m.leaves() == {0: 1, 9: 0, 18: 0}
    assert len(domain.p2m.leaf_array()) == 2


def test_an_exact_extent_never_falls_back_whatever_else_is_asked(make_machine):
    machine = make_machine("64MiB")
    domain = machine.create_domain("32MiB")
    machine.heap.alloc_runs(9, 1 << 20)  # no 2M block is left
    answer = domain.memory.populate_physmap([0], 9, Mem.EXACT | Mem.FALLBACK | Mem.COALESCE)
    assert (answer.done, answer.reason) == (0, Reason.NO_MEMORY)
    assert domain.memory.populate_physmap([0], 0, Mem.EXACT).complete


@pytest.mark.parametrize("operation", ["populate_physmap", "decrease_reservation"])
def test_a_negative_order_is_an_error_of_ours(make_machine, operation):
    memory = make_machine("64MiB").create_domain("32MiB").memory
    with pytest.raises(AddressError, match="order -0x1 is negative"):
        getattr(memory, operation)([0], -1)
