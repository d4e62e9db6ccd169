"""Every public method of what stands on a machine goes through the machine's gate, or stands here with its reason."""

import inspect

import pytest

from twofold.domain import Domain, Machine
from twofold.domain.door import WriteDoor
from twofold.domain.memory import MemoryOperations
from twofold.dumps import OpenTables
from twofold.guest import AddressSpace, Guest, Session, TraceGuest
from twofold.guest.space import UnpagedSpace
from twofold.guest.tables import GuestTables
from twofold.machine import Arena, Heap
from twofold.machine.gate import is_gated
from twofold.p2m import P2M
from twofold.p2m.linear import LinearMapping

ENDS = "ends what others go through; asks the gate itself, and may come once too often"
WITHIN = "called by those that are through: an operation, a digest"
ASKS = "asks the gate itself, with words of its own"
NUMBERS = "says what follows from a format or from settings; looks at no memory of the machine"
GOES = "whoever listens may always stop listening"
NOT_GATED = {
    "Machine.close": ENDS,
    "Arena.close": ENDS,
    "OpenTables.close": ENDS,
    "Session.stop": ENDS,
    "Heap.let_go": ENDS,
    "Machine.digest_fields": WITHIN,
    "Machine.forget": WITHIN,
    "Machine.watch": WITHIN,
    "Heap.digest_fields": WITHIN,
    "Domain.digest_fields": WITHIN,
    "P2M.digest_fields": WITHIN,
    "P2M.held": WITHIN,
    "LinearMapping.sync": WITHIN + ", and a listener of the P2M that is told of a change",
    "Arena.data_runs": WITHIN,
    "Domain.check_runnable": ASKS,
    "Session.run": ASKS,
    "Session.run_to_end": ASKS,
    "Arena.tables_of": NUMBERS + ": an array that is empty when the machine is closed",
    "Arena.words_of": NUMBERS + ": as tables_of",
    "P2M.can_map_exactly": NUMBERS,
    "P2M.level_masks": NUMBERS,
    "Guest.address_fault": NUMBERS,
    "AddressSpace.address_fault": NUMBERS,
    "TraceGuest.address_fault": NUMBERS,
    "UnpagedSpace.address_fault": NUMBERS,
    "P2M.off_change": GOES,
    "P2M.off_flush": GOES,
    "Domain.off_write": GOES,
    "WriteDoor.off_write": GOES,
    "WriteDoor.off_watch": GOES,
    "Session.pause": "comes from another thread while the run holds the machine",
    "Session.flush": "an engine's own: it forgets, and looks at nothing",
    "Session.set_registers": "an engine's own: no memory",
}
HAVE_A_GATE = (
    *(Machine, Heap, Arena, Domain, P2M, OpenTables, MemoryOperations, LinearMapping, WriteDoor),
    *(Guest, AddressSpace, TraceGuest, UnpagedSpace, GuestTables, Session),
)


@pytest.mark.parametrize("kind", HAVE_A_GATE, ids=lambda kind: kind.__name__)
def test_every_public_method_goes_through_the_gate(kind):
    public = {name: thing for name, thing in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
    around = {f"{kind.__name__}.{name}" for name, thing in public.items() if not is_gated(thing)}
    assert around == {name for name in NOT_GATED if name.split(".")[0] == kind.__name__}
