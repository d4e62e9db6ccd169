"""memory_op by the ABI: numbers, structures, errno, extents done, continuations; nothing a caller says is trusted."""

import errno
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import assert_every_frame_is_accounted_for, snapshot
from twofold.domain import Buffer, Caller, Continuation, DomainOptions, Machine, Reason, build, memory_op
from twofold.formats.hypercall import MemFlags, command_word
from twofold.p2m import P2MType
from twofold.units import INVALID_GFN, INVALID_MFN

INCREASE, DECREASE, POPULATE, EXCHANGE = 0, 1, 6, 11
MAX_RAM_PAGE, CURRENT, MAXIMUM, MAX_GPFN = 2, 3, 4, 14
ADD, REMOVE, BATCH, CLAIM = 7, 15, 23, 24
SELF = 0x7FF0
ARGUMENT, ARRAY, SECOND, ERRORS = 0x1000, 0x2000, 0x12000, 0x22000
OPTIONS = DomainOptions(layout="flat", table_pool=60)


class Toolstack:
    """A toolstack with memory for a structure and three arrays."""

    def __init__(self, machine: Machine, kind: str = "toolstack", domid: int = 0) -> None:
        self.machine, self.memory = machine, Buffer(0x32000)
        self.caller = Caller(self.memory, kind, domid)

    def call(self, command: int, structure: bytes, start: int = 0, preempt=None):
        self.memory.write(ARGUMENT, structure)
        return memory_op(self.machine, command_word(command, start), ARGUMENT, self.caller, preempt)

    def array(self, numbers, address: int = ARRAY) -> int:
        self.memory.write(address, np.array(numbers, "<u8").tobytes())
        return address

    def reserve(self, command: int, gfns, order: int, domid: int, **options):
        start, preempt = options.pop("start", 0), options.pop("preempt", None)
        return self.call(command, reservation(self.array(gfns), len(gfns), order, domid, **options), start, preempt)

    def errors(self, pages: int) -> list[int]:
        return np.frombuffer(self.memory.read(ERRORS, 4 * pages), "<i4").tolist()


def reservation(handle: int, extents: int, order: int, domid: int, mem_flags: int = 0) -> bytes:
    """Return struct xen_memory_reservation, written out by hand."""
    return struct.pack("<QQIIHHI", handle, extents, order, mem_flags, domid, 0xFFFF, 0xFFFFFFFF)


def add(domid: int, space: int, index: int, gpfn: int, frames: int = 0) -> bytes:
    return struct.pack("<HHIQQ", domid, frames, space, index, gpfn)


def batch(domid: int, space: int, pages: int, foreign: int = 0) -> bytes:
    return struct.pack("<HHHHQQQ", domid, space, pages, foreign, ARRAY, SECOND, ERRORS)


def remove(domid: int, gpfn: int) -> bytes:
    return struct.pack("<HHIQ", domid, 0, 0, gpfn)


@pytest.fixture
def machine():
    with Machine("64MiB") as machine:
        yield machine


@pytest.fixture
def domain(machine):
    return machine.create_domain("8MiB", options=OPTIONS)


@pytest.fixture
def tools(machine):
    return Toolstack(machine)


# -- reservations -------------------------------------------------------------------------------------------------


def test_populate_and_decrease_return_the_extents_that_are_done(tools, domain):
    assert tools.reserve(POPULATE, [0, 512, 1024], 9, domain.domid) == 3
    assert domain.p2m.leaves()[9] == 3
    assert tools.reserve(DECREASE, [512, 1024, 2048], 9, domain.domid) == 2, "the last is a hole"
    assert domain.p2m.leaves()[9] == 1
    assert tools.reserve(INCREASE, [0] * 5, 3, domain.domid) == 5
    assert domain.p2m.audit().orphans == 40
    assert tools.call(CURRENT, struct.pack("<H", domain.domid)) == 512 + 40
    assert_every_frame_is_accounted_for(tools.machine)


def test_every_failure_of_a_reservation_is_only_fewer_extents(tools, domain):
    before = snapshot(domain)
    for command in (INCREASE, DECREASE, POPULATE):
        assert tools.reserve(command, [0, 512], 9, 77) == 0, "no such domain"
        assert tools.reserve(command, [0, 512], 9, SELF) == 0, "the toolstack is no domain of the machine"
        assert tools.reserve(command, [0, 512], 9, 0x7FF2) == 0, "no domain has a number out of the reserved ones"
        assert tools.reserve(command, [0, 512], 19, domain.domid) == 0, "an order above every limit"
        assert tools.reserve(command, [0, 512], 2**32 - 1, domain.domid) == 0
        assert tools.reserve(command, [0, 512], 9, domain.domid, mem_flags=12) == 0, "no frame has 12 address bits"
        assert tools.reserve(command, [0, 512], 9, domain.domid, start=2) == 2
        assert tools.reserve(command, [0, 512], 9, domain.domid, start=9) == 9
        assert tools.call(command, reservation(ARRAY, 2**26, 0, domain.domid)) == 0, "too many to be continued"
        assert tools.call(command, reservation(ARRAY, 2**64 - 1, 0, domain.domid)) == 0
        assert memory_op(tools.machine, command_word(command, 7), 0, tools.caller) == 7, "a null pointer"
    for command in (DECREASE, POPULATE):
        assert tools.call(command, reservation(0, 4, 0, domain.domid)) == 0
        assert tools.reserve(command, [2**64 - 1, 2**63, 1 << 36], 0, domain.domid) == 0
    assert tools.reserve(POPULATE, [0], 9, domain.domid, mem_flags=1 << 16) == 0
    assert domain.memory.last_reason is Reason.NO_POD
    assert snapshot(domain) == before


def test_an_array_that_ends_early_stops_the_call_there(tools, domain):
    gfns = np.arange(512 * 3, dtype="<u8")
    tools.memory.write(0x32000 + 0x1000 - 8 * len(gfns), gfns.tobytes())
    handle = 0x33000 - 8 * len(gfns)
    assert tools.call(POPULATE, reservation(handle, 2**26 - 1, 0, domain.domid)) == len(gfns)
    assert domain.memory.owned_frames == len(gfns)
    assert tools.call(DECREASE, reservation(handle + 4, 100, 0, domain.domid)) == 0, (
        "a misaligned array reads otherwise"
    )


def test_a_class_of_caller_has_its_order_limit(machine, domain):
    for kind, order, done in (("guest", 10, 0), ("guest", 9, 1), ("passthrough", 12, 1), ("hardware", 13, 0)):
        caller = Toolstack(machine, kind, domain.domid)
        assert caller.reserve(POPULATE, [0], order, SELF) == done
        assert caller.reserve(DECREASE, [0], order, SELF) == done


def test_a_guest_acts_on_itself_alone(machine, domain):
    other = machine.create_domain("8MiB", options=OPTIONS)
    guest = Toolstack(machine, "guest", domain.domid)
    assert guest.reserve(POPULATE, [0], 0, other.domid) == 0
    assert guest.reserve(POPULATE, [0], 0, SELF) == 1
    assert guest.reserve(POPULATE, [1], 0, domain.domid) == 1
    for command, structure in (
        (ADD, add(other.domid, 0, 0, 5)),
        (REMOVE, remove(other.domid, 0)),
        (CURRENT, struct.pack("<H", other.domid)),
        (BATCH, batch(other.domid, 2, 0)),
        (CLAIM, reservation(0, 5, 0, domain.domid)),
    ):
        assert guest.call(command, structure) == -errno.EPERM
    assert other.memory.owned_frames == 0


def test_nodes_and_address_widths_are_honoured_for_those_who_may_choose():
    with Machine("64MiB", nodes=2) as machine:
        domain, half = machine.create_domain("8MiB", options=OPTIONS), machine.frames // 2
        tools, guest = Toolstack(machine), Toolstack(machine, "guest", domain.domid)

        def frame_of(caller, gfn: int, **flags) -> int:
            given = {"address_bits": None, "node": None, "on_demand": False, "exact_node": False} | flags
            mem_flags = MemFlags(is_virtual_node=False, **given).encode()
            if not caller.reserve(POPULATE, [gfn], 9, domain.domid, mem_flags=mem_flags):
                return -1
            return domain.p2m.get_entry(gfn).mfn

        assert frame_of(tools, 0, node=1) >= half
        assert 0 <= frame_of(tools, 512, node=0, exact_node=True) < half
        assert frame_of(tools, 1024, address_bits=24) < 1 << 12
        assert frame_of(tools, 1536, node=1, exact_node=True, address_bits=24) == -1, "no such memory on that node"
        assert frame_of(tools, 1536, node=5, exact_node=True) == -1, "there is no such node"
        assert frame_of(tools, 1536, node=63) >= 0, "without insisting it does not matter"
        assert frame_of(tools, 2048, node=64) == -1
        assert frame_of(guest, 2048, node=1, exact_node=True) == -1, "not a guest's to insist on"
        assert 0 <= frame_of(guest, 2048, node=1) < half, "nor to choose"
        assert frame_of(tools, 4096, address_bits=60) >= 0, "every frame is within reach"


def test_mem_flags_stand_where_the_abi_has_them():
    flags = MemFlags(32, 3, on_demand=True, exact_node=True, is_virtual_node=True)
    assert flags.encode() == 32 | 4 << 8 | 1 << 16 | 1 << 17 | 1 << 18
    assert MemFlags.decode(flags.encode()) == flags
    assert MemFlags.decode(0) == MemFlags(None, None, on_demand=False, exact_node=False, is_virtual_node=False)


# -- preemption ---------------------------------------------------------------------------------------------------


def until_done(tools, command: int, structure: bytes, every: int) -> tuple[int, int]:
    """Call until a call is not preempted; return its result and the number of calls."""
    tools.memory.write(ARGUMENT, structure)
    cmd, calls, asked = command, 0, 0

    def preempt() -> bool:
        nonlocal asked
        asked += 1
        return asked % every == 0

    while True:
        calls += 1
        result = memory_op(tools.machine, cmd, ARGUMENT, tools.caller, preempt)
        if not isinstance(result, Continuation):
            return result, calls
        cmd = result.cmd


@pytest.mark.medium
@pytest.mark.parametrize("every", [1, 3, 600])
def test_a_preempted_reservation_goes_on_at_the_extent_in_its_command_word(tools, domain, every):
    handle = tools.array(range(1500))
    result, calls = until_done(tools, POPULATE, reservation(handle, 1500, 0, domain.domid), every)
    assert (result, calls > 1) == (1500, True)
    assert domain.memory.owned_frames == 1500
    result, calls = until_done(tools, DECREASE, reservation(handle, 1500, 0, domain.domid), every)
    assert (result, calls > 1) == (1500, True)
    assert until_done(tools, INCREASE, reservation(0, 50, 2, domain.domid), 1) == (50, 50)
    assert domain.memory.owned_frames == 200
    assert tools.reserve(POPULATE, [0, 1], 0, domain.domid, preempt=lambda: True) == Continuation(POPULATE | 1 << 6)


def test_ranges_batches_and_exchanges_go_on_too(tools, domain):
    build(domain, "opportunistic")
    mfns = domain.p2m.translate(range(0x100, 0x140)).tolist()
    assert until_done(tools, ADD, add(domain.domid, 3, 0x100, 0x110, 0x40), 3)[0] == 0
    assert domain.p2m.translate(range(0x110, 0x150)).tolist() == mfns
    tools.array(range(20))
    tools.array(range(0x900, 0x914), SECOND)
    assert until_done(tools, BATCH, batch(domain.domid, 1, 20), 4) == (0, 5)
    assert tools.errors(20) == [0] * 20
    ins, outs = tools.array([0x200, 0x400]), tools.array(range(0x4000, 0x4400), SECOND)
    structure = reservation(ins, 2, 9, domain.domid) + reservation(outs, 1024, 0, domain.domid) + bytes(8)
    assert until_done(tools, EXCHANGE, structure, 1) == (0, 2)
    assert tools.memory.read(ARGUMENT + 64, 8) == struct.pack("<Q", 2)
    assert domain.p2m.get_entry(0x43FF).mfn != INVALID_MFN
    assert domain.p2m.audit().clean


# -- what is mapped where -----------------------------------------------------------------------------------------


def test_add_to_physmap_has_an_errno_for_each_refusal(tools, domain):
    build(domain, "opportunistic")
    domid = domain.domid
    domain.p2m.change_type(0x40, 1, P2MType.RAM_RO)
    domain.p2m.set_entry(0x9000, 5, 0, P2MType.MMIO_DIRECT)
    domain.p2m.set_entry(0x9001, domain.p2m.get_entry(0x50).mfn, 0)
    before = snapshot(domain)
    for expected, structure in (
        (errno.ESRCH, add(77, 0, 0, 5)),
        (errno.EINVAL, add(domid, 0, 0, INVALID_GFN)),
        (errno.EINVAL, add(domid, 0, 1, 5)),
        (errno.EINVAL, add(domid, 1, 64, 5)),
        (errno.EINVAL, add(domid, 9, 0, 5)),
        (errno.EINVAL, add(domid, 2, 0x7000, 5)),
        (errno.EINVAL, add(domid, 2, 2**63, 5)),
        (errno.ENOSYS, add(domid, 4, 0, 5)),
        (errno.EACCES, add(domid, 5, 0, 5)),
        (errno.EACCES, add(domid, 2, 0x40, 5)),
        (errno.EXDEV, add(domid, 2, 0x9001, 5)),
        (errno.EPERM, add(domid, 2, 0x10, 0x9000)),
        (errno.EOVERFLOW, add(domid, 3, 0x10, 2**64 - 2, 5)),
        (errno.EOVERFLOW, add(domid, 3, 2**64 - 2, 0x10, 5)),
        (errno.EINVAL, add(domid, 3, 0x7000, 0x10, 5)),
    ):
        assert tools.call(ADD, structure) == -expected
    assert tools.call(ADD, add(domid, 3, 0, 0, 4), start=5) == -errno.EILSEQ
    assert tools.call(ADD, add(domid, 3, 0, 0, 4), start=1 << 16) == -errno.EDOM
    assert memory_op(tools.machine, ADD, 0, tools.caller) == -errno.EFAULT
    assert snapshot(domain) == before
    assert tools.call(ADD, add(domid, 0, 0, 0x10)) == 0
    assert tools.call(ADD, add(domid, 1, 0, 0x7FF)) == 0
    assert tools.call(ADD, add(domid, 2, 0x11, 0x12)) == 0
    assert tools.call(ADD, add(domid, 3, 0x100, 0x180, 0x40)) == 0
    domain.p2m.unmap(0x9001, 1)
    domain.p2m.unmap(0x9000, 1)
    assert domain.p2m.audit().clean
    assert_every_frame_is_accounted_for(tools.machine)


def test_a_batch_writes_an_errno_for_each_page_and_maps_foreign_memory(tools, domain):
    build(domain, "opportunistic")
    other = tools.machine.create_domain("8MiB", options=OPTIONS)
    tools.array([1, 2, 0x7000, 3])
    tools.array([0x10, 0x11, 0x12, 1 << 50], SECOND)
    assert tools.call(BATCH, batch(other.domid, 4, 4, domain.domid)) == 0
    assert tools.errors(4) == [0, 0, -errno.EINVAL, -errno.EINVAL]
    assert other.p2m.get_entry(0x10).type is P2MType.MAP_FOREIGN
    assert other.p2m.get_entry(0x11).mfn == domain.p2m.get_entry(2).mfn
    assert tools.call(BATCH, batch(other.domid, 4, 1, 77)) == 0
    assert tools.errors(1) == [-errno.ESRCH]
    guest = Toolstack(tools.machine, "guest", other.domid)
    guest.array([1])
    guest.array([0x20], SECOND)
    assert guest.call(BATCH, batch(SELF, 4, 1, domain.domid)) == 0
    assert guest.errors(1) == [-errno.EPERM]
    assert tools.call(BATCH, batch(other.domid, 3, 4)) == -errno.EOPNOTSUPP
    assert tools.call(BATCH, batch(other.domid, 2, 4), start=5) == -errno.EILSEQ
    assert tools.call(BATCH, batch(other.domid, 2, 4), start=1 << 16) == -errno.EDOM
    tools.array([0x20, INVALID_GFN], SECOND)
    assert tools.call(BATCH, batch(domain.domid, 1, 2)) == -errno.EINVAL, "an invalid gpfn ends it"
    assert domain.p2m.get_entry(0x20).order == 0, "what came before is done"
    structure = struct.pack("<HHHHQQQ", domain.domid, 1, 2, 0, ARRAY, SECOND, 0)
    assert tools.call(BATCH, structure) == -errno.EFAULT
    assert tools.call(REMOVE, remove(other.domid, 0x10)) == 0
    assert tools.machine.ledger.references.total() == 1


def test_remove_from_physmap_says_what_it_cannot_do(tools, domain):
    build(domain, "opportunistic")
    domain.p2m.set_entry(0x9000, 5, 0, P2MType.MMIO_DIRECT)
    assert tools.call(REMOVE, remove(domain.domid, 5)) == 0
    assert tools.call(REMOVE, remove(domain.domid, 5)) == -errno.ENOENT
    assert tools.call(REMOVE, remove(domain.domid, INVALID_GFN)) == -errno.ENOENT
    assert tools.call(REMOVE, remove(domain.domid, 0x9000)) == -errno.EPERM
    assert tools.call(REMOVE, remove(99, 5)) == -errno.ESRCH
    assert tools.call(REMOVE, remove(domain.domid, 6), start=1) == -errno.EINVAL
    assert domain.p2m.audit().orphans == 1


def test_exchange_checks_both_lists_and_writes_back_how_far_it_came(tools, domain):
    build(domain, "opportunistic")
    domid = domain.domid

    def exchange(ins, in_order, outs, out_order, **change):
        given = reservation(tools.array(ins), change.get("extents", len(ins)), in_order, domid)
        taken = reservation(tools.array(outs, SECOND), len(outs), out_order, change.get("domid", domid))
        answer = tools.call(EXCHANGE, given + taken + struct.pack("<Q", change.get("done", 0)), change.get("start", 0))
        return answer, struct.unpack("<Q", tools.memory.read(ARGUMENT + 64, 8))[0]

    assert exchange([0x200], 9, [0x4000], 9) == (0, 1)
    assert exchange(range(0x4000, 0x4200), 0, [0x200], 9) == (0, 512)
    assert exchange([0x200, 0x7000], 9, [0x4000, 0x4200], 9) == (-errno.EINVAL, 1)
    assert exchange([0x4000], 9, [0x400], 9) == (-errno.EBUSY, 0)
    assert exchange([0x4000], 9, range(0x8000, 0x8200, 2), 1) == (0, 1)
    assert exchange([0x8000], 9, [0x4000], 9, done=1)[0] == 0, "all of it is done already"
    assert domain.p2m.get_entry(0x4000).mfn == INVALID_MFN
    for change in ({"extents": 2}, {"domid": 77}, {"done": 2}, {"extents": 2**64 - 1}, {"start": 1}):
        assert exchange([0x8000], 9, [0x4000], 9, **change)[0] == -errno.EINVAL
    assert exchange([0], 19, [0], 19)[0] == -errno.EPERM
    assert domain.p2m.audit().clean
    assert_every_frame_is_accounted_for(tools.machine)


# -- claims and numbers -------------------------------------------------------------------------------------------


def test_claims_and_numbers(tools, domain):
    number = struct.pack("<H", domain.domid)
    assert tools.call(MAX_RAM_PAGE, b"") == tools.machine.frames
    assert (tools.call(CURRENT, number), tools.call(MAXIMUM, number), tools.call(MAX_GPFN, number)) == (0, 2**32 - 1, 0)
    assert tools.reserve(POPULATE, [0x77], 0, domain.domid) == 1
    assert (tools.call(CURRENT, number), tools.call(MAX_GPFN, number)) == (1, 0x77)
    limited = tools.machine.create_domain("1MiB", options=DomainOptions(max_pages=99))
    assert tools.call(MAXIMUM, struct.pack("<H", limited.domid)) == 99
    assert tools.call(CURRENT, struct.pack("<H", 77)) == -errno.ESRCH
    for command in (MAX_RAM_PAGE, CURRENT, CLAIM, EXCHANGE):
        assert tools.call(command, number, start=1) == -errno.EINVAL
    assert tools.call(CLAIM, reservation(0, 50, 0, domain.domid)) == 0
    assert tools.machine.ledger.claims == {domain.domid: 49}
    assert tools.call(CLAIM, reservation(0, 60, 0, domain.domid)) == -errno.EINVAL, "there is one"
    assert tools.call(CLAIM, reservation(0, 0, 0, domain.domid)) == 0
    assert tools.call(CLAIM, reservation(0, 2**40, 0, domain.domid)) == -errno.ENOMEM
    for structure in (
        reservation(ARRAY, 5, 0, domain.domid),
        reservation(0, 5, 1, domain.domid),
        reservation(0, 5, 0, domain.domid, 7),
        reservation(0, 5, 0, 77),
    ):
        assert tools.call(CLAIM, structure) == -errno.EINVAL
    assert tools.call(5, b"") == -errno.ENOSYS
    assert tools.call(63, b"") == -errno.ENOSYS


# -- a guest's own memory -----------------------------------------------------------------------------------------


def test_a_guest_calls_with_handles_into_its_own_memory(machine, domain):
    build(domain, "opportunistic")
    caller = Caller.of_guest(domain)
    domain.write(0x1FF8, np.arange(0x4000, 0x4004, dtype="<u8").tobytes())  # over the end of a page
    domain.write(0x3000, reservation(0x1FF8, 4, 0, SELF))
    assert memory_op(machine, POPULATE, 0x3000, caller) == 4
    assert domain.memory.decrease_reservation([2], 0).complete
    assert memory_op(machine, DECREASE, 0x3000, caller) == 1, "the rest of the array is a hole now"
    assert memory_op(machine, CURRENT, 0x2000, caller) == -errno.EFAULT
    domain.write(0x3000, struct.pack("<HHHHQQQ", SELF, 1, 1, 0, 0x5000, 0x5008, 0x6000))
    domain.write(0x5000, struct.pack("<QQ", 0, 0x700))
    domain.p2m.change_type(6, 1, P2MType.RAM_RO)
    assert memory_op(machine, BATCH, 0x3000, caller) == -errno.EFAULT, "read-only memory is not written for it"
    assert domain.read(0x6000, 4) == bytes(4)
    assert domain.p2m.audit().clean


LIKELY = st.sampled_from([0, 1, 9, 18, 0x1000, 0x2000, SELF])
WORDS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 0x2100), LIKELY)
SMALL = st.integers(0, 6)
PAIRS = st.builds(lambda order, flags: order | flags << 32, SMALL, st.sampled_from([0, 1 << 16, 1 << 8, 1 << 17]))
HEADS = st.one_of(  # of the structures of add_to_physmap, its batch, and all others
    st.builds(lambda frames, space: SELF | frames << 16 | space << 32, st.integers(0, 600), SMALL),
    st.builds(lambda space, pages, other: SELF | space << 16 | pages << 32 | other << 48, SMALL, SMALL, SMALL),
    WORDS,
)
FIELDS = st.tuples(HEADS, WORDS, st.one_of(PAIRS, WORDS), st.just(SELF), WORDS, WORDS, PAIRS, st.just(SELF), SMALL)


@given(
    st.sampled_from([INCREASE, DECREASE, POPULATE, EXCHANGE, CURRENT, MAX_GPFN, ADD, REMOVE, BATCH, CLAIM, 5]),
    FIELDS,
    st.sampled_from([0, 0, 0, 1, 5, 2**58 - 1]),
    st.booleans(),
)
def test_whatever_a_guest_says_the_machine_stays_whole(command, fields, start, preempts):
    with Machine("32MiB") as machine:
        domain = machine.create_domain("4MiB", options=OPTIONS)
        build(domain, "opportunistic")
        other = machine.create_domain("4MiB", options=OPTIONS)
        build(other, "small")
        theirs = other.p2m.leaf_array().tolist()
        domain.write(0x1000, np.array(fields, "<u8").tobytes())
        domain.write(0x2000, np.arange(0, 512 * 8, 8, dtype="<u8").tobytes())
        result = memory_op(machine, command_word(command, start), 0x1000, Caller.of_guest(domain), lambda: preempts)
        assert isinstance(result, Continuation) or result >= -200
        for each in (domain, other):
            assert each.p2m.audit().clean
        assert other.p2m.leaf_array().tolist() == theirs
        assert_every_frame_is_accounted_for(machine)
