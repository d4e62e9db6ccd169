"""An exception at every line of every operation: nothing is lost, and what was cut is undone or brought to its end."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import twofold
from snapshots import assert_every_frame_is_accounted_for
from twofold.domain import Domain, DomainOptions, Machine, Mem, build
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN

SOURCES = str(Path(twofold.__file__).parent) + "/"
SETUP = DomainOptions(layout="flat", table_pool=40)
FEW = 25  # lines of each operation in the medium set, spread evenly


class CutError(BaseException):
    """What comes between two lines, as Ctrl-C does."""


class Cutter:
    """Counts the lines of Twofold's own code, and raises before the one with a number."""

    def __init__(self, number: int = -1) -> None:
        self.lines, self.number, self.where = 0, number, ""

    def __call__(self, frame, event, _argument):
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.number:
                self.where = f"{frame.f_code.co_filename[len(SOURCES) :]}:{frame.f_lineno} {frame.f_code.co_qualname}"
                raise CutError(self.where)
        return self


def cut(operation: Callable[[], object], number: int) -> Cutter:
    """Do an operation until a line comes; return how many there were, or where it was cut."""
    cutter = Cutter(number)
    before = sys.gettrace()
    sys.settrace(cutter)
    try:
        operation()
    except CutError:
        pass
    finally:
        sys.settrace(before)
    return cutter


class Crowd(NamedTuple):
    """A machine with two domains, and two blocks that were taken from its heap, of orders 0 and 9."""

    machine: Machine
    domain: Domain
    other: Domain
    held: tuple[int, int]
    blocks: list[tuple[int, int]]


def crowded(behaviour: str = "twofold") -> Crowd:
    """Return a machine with two domains that have something of everything."""
    machine = Machine("32MiB", behaviour=behaviour)
    blocks = machine.heap.blocks()
    domain = machine.create_domain("4MiB", options=SETUP)
    other = machine.create_domain("4MiB", options=SETUP)
    for each in (domain, other):
        each.memory.populate_physmap([0, 0x200], 9)
        each.memory.populate_physmap(range(0x400, 0x410), 0)
    domain.memory.increase_reservation(3, 0)
    domain.memory.add_to_physmap("grant_table", 0, 0x500)
    domain.memory.add_to_physmap("gmfn_foreign", 5, 0x501, foreign=other.domid)
    domain.memory.add_to_physmap("gmfn_foreign", 6, 0x502, foreign=other.domid)
    other.memory.add_to_physmap("gmfn_foreign", 0x401, 0x501, foreign=domain.domid)
    other.memory.decrease_reservation([6], 0)
    assert domain.p2m.linear.exists
    assert domain.memory.claim(domain.memory.owned_frames + 40).complete
    held = machine.heap.alloc(0), machine.heap.alloc(9)
    return Crowd(machine, domain, other, held, blocks)


OPERATIONS = {
    "populate": lambda m, d, o, h: d.memory.populate_physmap(range(0x800, 0x804), 0),
    "populate large": lambda m, d, o, h: d.memory.populate_physmap([0x800, 0xA00], 9),
    "populate coalesced": lambda m, d, o, h: d.memory.populate_physmap(range(0x7F0, 0xA10), 0, Mem.COALESCE),
    "populate exact": lambda m, d, o, h: d.memory.populate_physmap([0x800], 9, Mem.EXACT),
    "populate in parts": lambda m, d, o, h: d.memory.populate_physmap([0x800, 0x900], 0, preempt=lambda: False),
    "populate too much": lambda m, d, o, h: d.memory.populate_physmap(range(0x1000, 0x9000, 0x200), 9),
    "decrease": lambda m, d, o, h: d.memory.decrease_reservation([0x400, 0x405, 0x401], 0),
    "decrease large": lambda m, d, o, h: d.memory.decrease_reservation([0x200], 9),
    "decrease out of large": lambda m, d, o, h: d.memory.decrease_reservation([0x203], 0),
    "increase": lambda m, d, o, h: d.memory.increase_reservation(3, 2),
    "exchange in place": lambda m, d, o, h: d.memory.exchange([0x400, 0x401], 0, [0x400, 0x401], 0),
    "exchange elsewhere": lambda m, d, o, h: d.memory.exchange([0x400, 0x402], 0, [0x900, 0x902], 0),
    "exchange large": lambda m, d, o, h: d.memory.exchange([0x200], 9, [0x200], 9),
    "claim": lambda m, d, o, h: o.memory.claim(o.memory.owned_frames + 5),
    "move own": lambda m, d, o, h: d.memory.add_to_physmap("gmfn", 0x402, 0x900),
    "move own over memory": lambda m, d, o, h: d.memory.add_to_physmap("gmfn", 0x402, 0x404),
    "move own over a special page": lambda m, d, o, h: d.memory.add_to_physmap("gmfn", 0x402, 0x500),
    "add a new page": lambda m, d, o, h: d.memory.add_to_physmap("grant_table", 1, 0x901),
    "add a page over memory": lambda m, d, o, h: d.memory.add_to_physmap("grant_table", 1, 0x403),
    "add a page again": lambda m, d, o, h: d.memory.add_to_physmap("grant_table", 0, 0x403),
    "add foreign": lambda m, d, o, h: d.memory.add_to_physmap("gmfn_foreign", 7, 0x900, foreign=o.domid),
    "add foreign over memory": lambda m, d, o, h: d.memory.add_to_physmap("gmfn_foreign", 7, 0x403, foreign=o.domid),
    "add a batch": lambda m, d, o, h: d.memory.add_to_physmap_batch(
        "gmfn_foreign", [7, 8], [0x900, 0x403], foreign=o.domid
    ),
    "move a range": lambda m, d, o, h: d.memory.add_to_physmap_range(0x402, 0x404, 3),
    "remove own": lambda m, d, o, h: d.memory.remove_from_physmap(0x402),
    "remove a special page": lambda m, d, o, h: d.memory.remove_from_physmap(0x500),
    "remove foreign": lambda m, d, o, h: d.memory.remove_from_physmap(0x501),
    "remove the last reference": lambda m, d, o, h: d.memory.remove_from_physmap(0x502),
    "release all": lambda m, d, o, h: d.memory.release_all(),
    "destroy": lambda m, d, o, h: d.destroy(),
    "destroy in steps": lambda m, d, o, h: [None for _ in range(50) if not d.destroy(lambda: True)],
    "create": lambda m, d, o, h: m.create_domain("4MiB", options=SETUP),
    "create and build": lambda m, d, o, h: build(m.create_domain("4MiB", options=SETUP)),
    "build too large": lambda m, d, o, h: refused(lambda: build(m.create_domain("26MiB", options=SETUP))),
    "alloc": lambda m, d, o, h: m.heap.alloc(2),
    "alloc runs": lambda m, d, o, h: m.heap.alloc_runs(2, 5),
    "free": lambda m, d, o, h: m.heap.free(h[1], 9),
    "p2m.move": lambda m, d, o, h: d.p2m.move(0x400, h[0]),
    "p2m.move large": lambda m, d, o, h: d.p2m.move(0x200, h[1], 9),
    "p2m.split": lambda m, d, o, h: d.p2m.split(0, 0),
    "p2m.merge": lambda m, d, o, h: (d.p2m.split(0, 0), d.p2m.merge(0, 9)),
    "p2m.split_all": lambda m, d, o, h: d.p2m.split_all(order=0),
    "p2m.merge_all": lambda m, d, o, h: (d.p2m.split_all(order=0), d.p2m.merge_all()),
    "p2m.set_entry": lambda m, d, o, h: (
        d.p2m.set_entry(0x900, 1 << 30, 0, P2MType.MMIO_DIRECT),
        d.p2m.set_entry(0x900, INVALID_MFN, 0, P2MType.INVALID),
    ),
    "p2m.change_type": lambda m, d, o, h: d.p2m.change_type(0x100, 0x200, P2MType.RAM_LOGDIRTY),
    "p2m.linear": lambda m, d, o, h: o.p2m.linear,
    "p2m.release_linear": lambda m, d, o, h: d.p2m.release_linear(),
    "page sizes": lambda m, d, o, h: m.set_page_sizes("4K"),
    "write": lambda m, d, o, h: d.write(0x1000, b"x" * 9000),
    "wipe": lambda m, d, o, h: d.wipe(),
}
XEN = (
    "populate",
    "populate large",
    "decrease large",
    "exchange elsewhere",
    "move a range",
    "populate too much",
    "destroy",
)
CASES = [*((name, "twofold") for name in OPERATIONS), *((name, "xen-4.17") for name in XEN)]


def refused(operation: Callable[[], object]) -> None:
    """Do what comes to nothing."""
    try:
        operation()
    except twofold.BuildError:
        return
    raise AssertionError


def check(crowd: Crowd, where: str) -> None:
    """Check that nothing is lost, and that everything can be destroyed to the last frame."""
    machine, domain = crowd.machine, crowd.domain
    for mfn, order in zip(crowd.held, (0, 9), strict=True):
        if not machine.frame_table.owner[mfn] and not machine.heap.is_free(mfn):
            machine.heap.free(mfn, order)  # it is the caller's still
    assert_every_frame_is_accounted_for(machine)
    ledger = machine.ledger
    referenced = sorted(mfn for account in ledger.accounts.values() for mfn in account.foreign.values())
    assert sorted(ledger.references.elements()) == referenced, where
    assert sum(ledger.claims.values()) <= machine.heap.free_frames, where
    assert ledger.accounts.keys() <= machine.domains.keys(), where
    for each in machine.domains.values():
        if not each.is_dying:
            report = each.p2m.audit()
            assert report.clean, (where, report.findings[:3])
    for each in list(machine.domains.values()):
        while not each.destroy():
            pass
    assert domain.destroy() or not domain.is_dying
    assert not machine.domains, where
    assert machine.heap.blocks() == crowd.blocks, where
    assert not machine.frame_table.owner.any(), where
    assert not machine.m2p.complement.any(), where
    assert not ledger.claims, where
    assert not ledger.accounts, where


def check_cut(name: str, behaviour: str, number: int) -> str:
    """Cut an operation at a line and look what is left."""
    crowd = crowded(behaviour)
    with crowd.machine:
        where = cut(lambda: OPERATIONS[name](*crowd[:4]), number).where
        check(crowd, f"{name}, line {number}: {where}")
        return where


def lines_of(name: str, behaviour: str) -> int:
    """Return how many lines of ours an operation goes through, once its kernels are there: loading takes lines too."""
    _lines(name, behaviour)
    return _lines(name, behaviour)


def _lines(name: str, behaviour: str) -> int:
    crowd = crowded(behaviour)
    with crowd.machine:
        return cut(lambda: OPERATIONS[name](*crowd[:4]), -1).lines


@pytest.mark.medium
@pytest.mark.parametrize(("name", "behaviour"), CASES)
def test_an_exception_at_some_lines_of_an_operation_loses_nothing(name, behaviour):
    lines = lines_of(name, behaviour)
    assert lines > 5
    for number in np.unique(np.linspace(1, lines, FEW).astype(int)).tolist():
        check_cut(name, behaviour, number)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "behaviour"), CASES)
def test_an_exception_at_every_line_of_an_operation_loses_nothing(name, behaviour):
    for number in range(1, lines_of(name, behaviour) + 1):
        assert check_cut(name, behaviour, number)
