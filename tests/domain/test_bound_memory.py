"""Memory that is bound to a number of address bits: all that is free below, whoever was served before."""

import numpy as np
import pytest
from test_hypercall import POPULATE, Toolstack

from snapshots import assert_heap_is_canonical
from twofold.domain import DomainOptions, Machine, Mem, Reason
from twofold.machine import Origin
from twofold.machine.behaviour import BEHAVIOURS

GIB = 1 << 18  # frames
OPTIONS = DomainOptions(layout="flat", table_pool=3000)


def free_below(machine: Machine, bits: int) -> int:
    """Return how many frames below 2**bits are free."""
    end = (1 << bits) >> 12
    return sum(max(0, min(mfn + (1 << order), end) - mfn) for mfn, order in machine.heap.blocks())


def most_mfn(domain) -> int:
    rows = domain.p2m.leaf_array()
    rows = rows[rows["present"]]
    return int((rows["mfn"] + (np.uint64(1) << rows["order"].astype(np.uint64))).max())


@pytest.mark.medium
@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("low_first", [False, True], ids=["anywhere", "from below"])
def test_a_guest_bound_to_37_bits_gets_all_that_is_free_below_and_nothing_above(behaviour, nodes, low_first):
    with Machine("240GiB", behaviour=behaviour, nodes=nodes) as machine:
        first, bound, last = (machine.create_domain("1GiB", options=OPTIONS) for _ in range(3))
        origin = Origin(address_bits=37) if low_first else Origin()
        assert first.memory.populate_physmap(range(0, 60 * GIB, GIB), 18, origin=origin).complete
        assert first.memory.populate_physmap(range(70 * GIB, 70 * GIB + 700 * 512, 512), 9, origin=origin).complete
        assert first.memory.populate_physmap(range(80 * GIB, 80 * GIB + 77), 0, origin=origin).complete
        assert first.memory.decrease_reservation(range(80 * GIB, 80 * GIB + 77, 2), 0).complete
        below, above = free_below(machine, 37), machine.heap.free_frames
        answer = bound.memory.populate_physmap(range(1 << 25), 0, Mem.COALESCE, origin=Origin(address_bits=37))
        assert (answer.done, answer.reason) == (below, Reason.NO_MEMORY if below < 1 << 25 else Reason.NONE)
        assert most_mfn(bound) <= 1 << 25
        assert bound.p2m.leaves()[18] > 10
        assert machine.heap.free_frames == above - below
        assert free_below(machine, 37) == 0
        assert last.memory.populate_physmap([0], 0, origin=Origin(address_bits=37)).reason is Reason.NO_MEMORY
        assert last.memory.populate_physmap([0], 18).complete, "what is above is there for who may have it"
        assert_heap_is_canonical(machine.heap)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("bits", [0, 11, 12, 13, 17, 22, 25, 26, 37])
def test_any_bound_is_kept_to_the_last_frame_on_a_splintered_machine(behaviour, bits):
    with Machine("64MiB", behaviour=behaviour) as machine:
        other = machine.create_domain("1MiB", options=DomainOptions(layout="flat", table_pool=60))
        bound = machine.create_domain("1MiB", options=DomainOptions(layout="flat", table_pool=60))
        assert other.memory.populate_physmap(range(14000), 0).complete
        random = np.random.default_rng(bits)
        assert other.memory.decrease_reservation(random.permutation(14000)[:6000].tolist(), 0).complete
        below = free_below(machine, bits)
        answer = bound.memory.populate_physmap(range(16000), 0, Mem.COALESCE, origin=Origin(address_bits=bits))
        assert answer.done == below
        assert not below or most_mfn(bound) <= 1 << bits - 12
        assert below or bits < 20


def test_as_a_hypercall_the_bound_stands_in_the_memory_flags():
    with Machine("160GiB") as machine:
        first, bound = (machine.create_domain("1GiB", options=OPTIONS) for _ in range(2))
        assert first.memory.populate_physmap(range(0, 126 * GIB, GIB), 18).complete
        tools = Toolstack(machine)
        gfns = list(range(0, 5 * GIB, GIB))
        assert tools.reserve(POPULATE, gfns, 18, bound.domid, mem_flags=37) == 1, "128 GiB, less 126 and table pools"
        assert most_mfn(bound) <= 1 << 25
