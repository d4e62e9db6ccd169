"""Many domains on one machine: until it is full and beyond, in any order, and nobody sees another's bytes."""

import numpy as np
import pytest

from kinds import FORMATS
from twofold.domain import DomainOptions, Machine, build
from twofold.errors import BuildError
from twofold.freemaps import FreeMap
from twofold.machine import Use

MIB = 256  # frames


def owners_apart(machine) -> None:
    """Check that no two domains map one frame, and that what each maps is its own."""
    seen = np.zeros(machine.frames, np.uint16)
    for domain in machine.domains.values():
        _, mfns, frames = domain.p2m.runs(0, domain.p2m.max_gfn)
        for mfn, length in zip(mfns.tolist(), frames.tolist(), strict=True):
            assert not seen[mfn : mfn + length].any()
            seen[mfn : mfn + length] = domain.domid
    ram = machine.frame_table.use == int(Use.RAM)
    assert np.array_equal(seen, np.where(ram, machine.frame_table.owner, 0))


def fill(machine, sizes, table_format="npt") -> list:
    """Create and build domains of these sizes in turn until one no longer fits; return them."""
    domains = []
    while True:
        size = sizes[len(domains) % len(sizes)]
        design = ("toolstack", "opportunistic", "small")[len(domains) % 3]
        options = DomainOptions(layout="flat", table_format=table_format)
        try:
            domain = machine.create_domain(size, options=options)
        except BuildError:
            return domains
        try:
            build(domain, design)
        except BuildError:
            domain.destroy()
            return domains
        domains.append(domain)


@pytest.mark.medium
@pytest.mark.parametrize("name", FORMATS)
def test_a_machine_is_filled_and_emptied_in_any_order(name):
    paging, table_format = FORMATS[name]
    free = FreeMap.synthetic("256MiB", free_share=0.9, fragmentation=0.4, seed=2)
    with Machine(free=free, paging=paging) as machine:
        before = machine.heap.blocks()
        domains = fill(machine, ("7MiB", "13MiB", "4MiB"), table_format)
        assert len(domains) > 10
        owners_apart(machine)
        for domain in domains:
            assert domain.p2m.audit().clean
        for domain in domains[::2]:
            domain.destroy()
        again = fill(machine, ("5MiB",), table_format)
        assert again
        owners_apart(machine)
        assert all(domain.p2m.audit().clean for domain in machine.domains.values())
        for domain in list(machine.domains.values()):
            domain.destroy()
        assert machine.heap.blocks() == before
        assert not machine.frame_table.owner.any()
        assert not machine.m2p.complement.any()


@pytest.mark.medium
def test_a_domain_never_sees_what_another_had_in_its_memory():
    with Machine("64MiB") as machine:
        secret = b"a secret of the first" * 100
        for _ in range(3):
            domain = machine.create_domain("48MiB", options=DomainOptions(layout="flat"))
            build(domain, "opportunistic")
            ram = domain.read(0, 48 << 20)
            assert not ram.strip(b"\0"), "all of it reads as zero"
            for gpa in range(0, 48 << 20, 1 << 20):
                domain.write(gpa, secret)
            domain.memory.decrease_reservation([0x200, 0x400], 9)
            domain.memory.populate_physmap([0x400, 0x200], 9)
            assert domain.read(0x200_000, 2 << 20) == bytes(2 << 20), "nor what it had itself before it gave it back"
            domain.destroy()


@pytest.mark.parametrize("preempt", [None, lambda: True], ids=["at once", "in steps"])
def test_nothing_of_a_dead_domain_is_left_in_memory(preempt):
    with Machine("64MiB") as machine:
        owner = machine.create_domain("4MiB", options=DomainOptions(layout="flat"))
        build(owner, "small")
        domain = machine.create_domain("16MiB", options=DomainOptions(layout="flat"))
        build(domain, "small")
        assert domain.memory.add_to_physmap("shared_info", 0, 0x10).complete
        assert domain.memory.add_to_physmap("gmfn_foreign", 5, 0x20, foreign=owner.domid).complete
        assert domain.memory.exchange([0x200], 0, [0x200], 0).complete
        assert owner.memory.decrease_reservation([5], 0).complete
        for gfn in (0, 0x10, 0x20, 0x200, 0xFFF):
            domain.write(gfn << 12, b"secret")
        assert domain.p2m.linear.exists
        kept = set(owner.p2m.leaf_array()["mfn"].tolist())
        kept |= {step.table for gfn in (7, 700) for step in owner.p2m.walk(gfn)}
        while not domain.destroy(preempt):
            pass
        touched = [mfn for first, frames in machine.arena.data_runs() for mfn in range(first, first + frames)]
        assert set(touched) <= kept, "bytes, tables, special pages and monitor are gone from the memory file itself"


@pytest.mark.slow
def test_ten_thousand_lives_leave_the_heap_as_it_was():
    free = FreeMap.synthetic("64MiB", free_share=0.8, fragmentation=0.5, seed=4)
    with Machine(free=free) as machine:
        before = machine.heap.blocks()
        for life in range(10_000):
            domain = machine.create_domain("1MiB", options=DomainOptions(layout="flat"))
            build(domain, ("small", "toolstack", "opportunistic")[life % 3])
            domain.destroy()
        assert machine.heap.blocks() == before
        assert not machine.frame_table.owner.any()
