"""The whole state of a machine and a domain as values that compare: what a failed operation must leave alone."""

from typing import Any

import numpy as np

from twofold.domain import Domain, Machine
from twofold.formats.heap_state import TOP
from twofold.machine import Heap, Use


def snapshot(domain: Domain) -> dict[str, Any]:
    """Return heap (as a set of blocks), frame table, M2P, P2M and the counts of one domain."""
    machine = domain.machine
    return {
        "heap": machine.heap.blocks(),
        "owner": machine.frame_table.owner.tobytes(),
        "use": machine.frame_table.use.tobytes(),
        "m2p": machine.m2p.complement.tobytes(),
        "leaf_array": domain.p2m.leaf_array().tolist(),
        "leaves": domain.p2m.leaves(),
        "tables": domain.p2m.tables,
        "free tables": domain.pool.free,
        "owned": domain.memory.owned_frames,
    }


def use_up_memory(domain: Domain) -> None:
    """Let a domain take every free frame of its machine, one by one as far as the heap can tell."""
    assert domain.memory.increase_reservation(domain.machine.heap.free_frames, 0).complete
    assert not domain.memory.increase_reservation(1, 0).complete


def leave_free(heap: Heap, extents: int, order: int) -> None:
    """Use up the heap but for `extents` single blocks of one order that are no buddies of each other."""
    mfns, counts = heap.alloc_runs(order, len(heap) >> order)
    blocks = [
        mfn + (index << order)
        for mfn, count in zip(mfns.tolist(), counts.tolist(), strict=True)
        for index in range(count)
    ]
    heap.alloc_runs(0, heap.free_frames)
    assert not heap.free_frames
    even = [mfn for mfn in blocks if not mfn >> order & 1]
    assert len(even) >= extents, "the machine is large enough for the test"
    for mfn in even[:extents]:
        heap.free(mfn, order)


def assert_every_frame_is_accounted_for(machine: Machine) -> None:
    """Check that each frame is free or held for one use, and that domains and pools know of the same frames."""
    table, held = machine.frame_table, machine.frames_by_use()
    free = np.zeros(machine.frames, np.bool_)
    for mfn, order in machine.heap.blocks():
        free[mfn : mfn + (1 << order)] = True
    assert not (free & (table.use != Use.NONE)).any()
    assert np.array_equal(table.use == Use.NONE, table.owner == 0)
    assert machine.heap.free_frames + sum(held.values()) == machine.frames, "no frame is lost"
    assert held[Use.RAM] == sum(domain.memory.owned_frames for domain in machine.domains.values())
    referenced = np.flatnonzero(table.use == Use.REFERENCED)
    assert all(machine.ledger.references[mfn] > 0 for mfn in referenced.tolist())


def assert_heap_is_canonical(heap: Heap) -> None:
    """Check that free blocks are aligned, do not overlap, and that no two free buddies stand in one zone."""
    blocks, end = heap.blocks(), 0
    for mfn, order in blocks:
        assert mfn % (1 << order) == 0
        assert mfn >= end
        end = mfn + (1 << order)
    assert end <= len(heap)
    every = set(blocks)
    zones, top = heap.zones, int(heap.zones.rules[TOP])
    buddies = [(block, (block[0] ^ 1 << block[1], block[1])) for block in blocks if block[1] < top]
    assert not [
        block for block, buddy in buddies if buddy in every and zones.zone_of(block[0]) == zones.zone_of(buddy[0])
    ]
    counted: dict[int, int] = {}
    for _, order in blocks:
        counted[order] = counted.get(order, 0) + 1
    assert heap.free_blocks() == dict(sorted(counted.items()))
