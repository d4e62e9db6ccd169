"""The memory_op hypercall: the memory operations behind the ABI's numbers, structures and errno.

Thin: a call is decoded, checked as Xen checks it, and handed to `MemoryOperations`. All that comes from the caller is
untrusted. Arrays are read page by page, however many extents a call names; what cannot be read ends the call there.
Inside, failures are `HypercallError`s; they become negative numbers here and nowhere else. increase_reservation,
decrease_reservation and populate_physmap never return one: they return the extents that are done, whatever went wrong.
Source: Xen 4.17 xen/common/memory.c, do_memory_op and what it calls.
"""

import errno
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.domain.caller import Caller
from twofold.domain.domain import Domain
from twofold.domain.extents import Extents, Reason, order_limit
from twofold.domain.machine import Machine
from twofold.errors import HypercallError, TwofoldError
from twofold.formats import hypercall as abi
from twofold.formats.hypercall import Command, MemFlags, Reservation, Space
from twofold.formats.p2m_types import P2MType
from twofold.machine import Origin
from twofold.units import FRAME_BYTES, FRAME_SHIFT, INVALID_GFN

Array = npt.NDArray[np.uint64]
_WORD_MASK: Final = (1 << 64) - 1
_NO_LIMIT: Final = 0xFFFFFFFF  # max_pages of a domain that has none
_SPACES: Final = {
    Space.SHARED_INFO: "shared_info",
    Space.GRANT_TABLE: "grant_table",
    Space.GMFN: "gmfn",
    Space.GMFN_FOREIGN: "gmfn_foreign",
}
_ERRNO: Final = {
    Reason.NO_MEMORY: errno.ENOMEM,
    Reason.NO_TABLES: errno.ENOMEM,
    Reason.OCCUPIED: errno.EBUSY,
    Reason.QUOTA: errno.E2BIG,
    Reason.ORDER_LIMIT: errno.EPERM,
    Reason.NOT_OWN: errno.EPERM,
    Reason.ALIASED: errno.EXDEV,
    Reason.NO_TYPE: errno.EOPNOTSUPP,
    Reason.DYING: errno.ESRCH,
}  # every other reason: EINVAL


@dataclass(frozen=True)
class Continuation:
    """A call that was preempted: to be made again with this command word and the same argument."""

    cmd: int


def memory_op(
    machine: Machine, cmd: int, argument: int, caller: Caller, preempt: Callable[[], bool] | None = None
) -> int | Continuation:
    """Make one memory_op call.

    Parameters
    ----------
    cmd : command, and the extent to go on at (`formats.hypercall`)
    argument : address of the command's structure in the caller's memory
    preempt : asked before every extent but the first whether something more urgent is to be done

    Returns
    -------
    result : as the ABI has it, a negative errno for failure; or a `Continuation` when the call was preempted
    """
    command, start = abi.split_command_word(cmd & _WORD_MASK)
    call = _Call(machine, caller, argument & _WORD_MASK, start, preempt)
    try:
        return _HANDLERS.get(command, _unknown)(call, command)
    except HypercallError as error:
        return error.errno


@dataclass(frozen=True)
class _Call:
    """One call, and what all commands ask of it."""

    machine: Machine
    caller: Caller
    argument: int
    start: int
    preempt: Callable[[], bool] | None

    def read(self, address: int, bytes_: int) -> bytes:
        """Return bytes of the caller's memory; EFAULT for what it has not."""
        try:
            return self.caller.memory.read(address & _WORD_MASK, bytes_)
        except TwofoldError as error:
            raise HypercallError(-errno.EFAULT, str(error)) from error

    def write(self, address: int, data: bytes) -> None:
        """Store bytes into the caller's memory; EFAULT where it has none."""
        try:
            self.caller.memory.write(address & _WORD_MASK, data)
        except TwofoldError as error:
            raise HypercallError(-errno.EFAULT, str(error)) from error

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        """Return the fields of the structure that the argument points to."""
        return layout.unpack(self.read(self.argument, layout.size))

    def words(self, handle: int, first: int, end: int) -> Iterator[Array]:
        """Yield elements of an array of 64-bit words, no more at a time than stand in one page."""
        while first < end:
            address = handle + 8 * first & _WORD_MASK
            room = max(1, (FRAME_BYTES - address % FRAME_BYTES) // 8)
            count = min(room, end - first)
            yield np.frombuffer(self.read(address, 8 * count), "<u8").astype(np.uint64)
            first += count

    def word(self, handle: int, index: int) -> int:
        """Return one element of an array of 64-bit words."""
        return int(abi.WORD.unpack(self.read(handle + 8 * index, 8))[0])

    def domain(self, domid: int) -> Domain:
        """Return the domain that a call is about; ESRCH when there is none, EPERM when the caller may not touch it."""
        number = self.caller.domid if domid == abi.DOMID_SELF else domid
        domain = self.machine.domains.get(number)
        if domain is None or (domid >= abi.DOMID_FIRST_RESERVED and domid != abi.DOMID_SELF):
            raise HypercallError(-errno.ESRCH, f"there is no domain {domid:#x}")
        if not self.caller.is_control and number != self.caller.domid:
            raise HypercallError(-errno.EPERM, f"domain {number} is not the caller's")
        return domain

    def origin(self, flags: MemFlags) -> Origin:
        """Return where memory is wanted; EINVAL for what cannot be."""
        bits, node, is_exact = flags.address_bits, flags.node, flags.exact_node
        if bits is not None and bits >= (self.machine.frames - 1).bit_length() + FRAME_SHIFT:
            bits = None  # every frame is within reach
        if bits is not None and bits <= FRAME_SHIFT:
            raise HypercallError(-errno.EINVAL, f"no frame has an address of {bits} bits")
        if node is None or flags.is_virtual_node:  # virtual nodes count where a domain has some
            return Origin(address_bits=bits)
        if not self.caller.may_choose_node:
            if is_exact:
                raise HypercallError(-errno.EPERM, "the caller may not insist on a node")
            return Origin(address_bits=bits)
        if node >= abi.MAX_NODES or (is_exact and node >= self.machine.nodes):
            raise HypercallError(-errno.EINVAL, f"there is no node {node}")
        return Origin(node=node if node < self.machine.nodes else None, exact_node=is_exact, address_bits=bits)

    def is_preempted(self) -> bool:
        """Return whether something more urgent is to be done."""
        return self.preempt is not None and self.preempt()

    def forbid_start(self) -> None:
        """Raise EINVAL for a command that never goes on."""
        if self.start:
            raise HypercallError(-errno.EINVAL, "the command has no extent to start at")


def _raise_for(reason: Reason, **special: int) -> None:
    """Raise for a reason, with the errno that it has in general, or in a command: `special`, by its name."""
    if reason:
        raise HypercallError(-special.get(reason.name, _ERRNO.get(reason, errno.EINVAL)), reason)


def _unknown(call: _Call, command: int) -> int:  # noqa: ARG001
    raise HypercallError(-errno.ENOSYS, f"there is no command {command}")


# -- reservations -------------------------------------------------------------------------------------------------


def _reservation(call: _Call, command: int) -> int | Continuation:
    """Do increase_reservation, decrease_reservation or populate_physmap: the extents that are done, come what may."""
    done = call.start
    try:
        for answer in _answers(call, command):
            done = answer.done
            if answer.reason is Reason.PREEMPTED:
                return Continuation(abi.command_word(command, done))
    except HypercallError:
        pass
    return done


def _answers(call: _Call, command: int) -> Iterator[Extents]:
    """Yield how far a reservation has come, after each part of it."""
    asked = Reservation(*call.fields(abi.RESERVATION))
    if asked.nr_extents > abi.MAX_EXTENTS or call.start >= asked.nr_extents:
        return
    domain, flags = call.domain(asked.domid), MemFlags.decode(asked.mem_flags)
    origin = call.origin(flags)
    if command == Command.INCREASE_RESERVATION:
        yield domain.memory.increase_reservation(
            asked.nr_extents,
            asked.extent_order,
            call.caller.kind,
            origin=origin,
            start=call.start,
            preempt=call.preempt,
        )
        return
    if command == Command.POPULATE_PHYSMAP and flags.on_demand:
        domain.memory.last_reason = Reason.NO_POD
        return
    done = call.start
    for gfns in call.words(asked.extent_start, call.start, asked.nr_extents):
        if done > call.start and call.is_preempted():
            yield Extents(done, asked.nr_extents, Reason.PREEMPTED)
            return
        answer = _one_part(call, domain, asked, gfns, origin if command == Command.POPULATE_PHYSMAP else None)
        done += answer.done
        yield Extents(done, asked.nr_extents, answer.reason)
        if answer.reason:
            return


def _one_part(call: _Call, domain: Domain, asked: Reservation, gfns: Array, origin: Origin | None) -> Extents:
    """Populate extents, or with no origin for them give them back."""
    order, kind = asked.extent_order, call.caller.kind
    if origin is None:
        return domain.memory.decrease_reservation(gfns, order, kind, preempt=call.preempt)
    return domain.memory.populate_physmap(gfns, order, caller=kind, origin=origin, preempt=call.preempt)


def _exchange(call: _Call, command: int) -> int | Continuation:
    """Exchange chunk by chunk; how many old extents are exchanged is written into the structure, come what may."""
    call.forbid_start()
    asked = abi.exchange_of(call.fields(abi.EXCHANGE))
    given, taken = asked.given, asked.taken
    chunk = max(given.extent_order, taken.extent_order)
    if chunk > order_limit(call.caller.kind):
        raise HypercallError(-errno.EPERM, Reason.ORDER_LIMIT)
    frames = given.nr_extents << given.extent_order
    if (
        asked.nr_exchanged > given.nr_extents
        or given.domid != taken.domid
        or frames > _WORD_MASK
        or frames != taken.nr_extents << taken.extent_order
    ):
        raise HypercallError(-errno.EINVAL, Reason.UNEQUAL)
    domain, origin = call.domain(given.domid), call.origin(MemFlags.decode(taken.mem_flags))
    ins, outs = 1 << chunk - given.extent_order, 1 << chunk - taken.extent_order
    first = asked.nr_exchanged // ins
    done, again = first, False
    try:
        for done in range(first, given.nr_extents // ins):
            again = done > first and call.is_preempted()
            if again:
                break
            olds = _array(call, given.extent_start, done * ins, ins)
            news = _array(call, taken.extent_start, done * outs, outs)
            orders = given.extent_order, taken.extent_order
            answer = domain.memory.exchange(olds, orders[0], news, orders[1], call.caller.kind, origin=origin)
            _raise_for(answer.reason)
        else:
            done = given.nr_extents // ins
    finally:
        call.write(call.argument + abi.NR_EXCHANGED_OFFSET, abi.WORD.pack(done * ins))
    return Continuation(abi.command_word(command)) if again else 0


def _array(call: _Call, handle: int, first: int, count: int) -> list[int]:
    """Return elements of an array of 64-bit words."""
    return [int(word) for part in call.words(handle, first, first + count) for word in part.tolist()]


def _claim_pages(call: _Call, command: int) -> int:  # noqa: ARG001
    call.forbid_start()
    asked = Reservation(*call.fields(abi.RESERVATION))
    domain = call.machine.domains.get(asked.domid)
    if asked.extent_start or asked.extent_order or asked.mem_flags or domain is None:
        raise HypercallError(-errno.EINVAL, "a claim names a domain and a number of frames, nothing else")
    if not call.caller.is_control:
        raise HypercallError(-errno.EPERM, "only the toolstack claims memory")
    _raise_for(domain.memory.claim(asked.nr_extents).reason)
    return 0


# -- what is mapped where -----------------------------------------------------------------------------------------


def _add_to_physmap(call: _Call, command: int) -> int | Continuation:
    if call.start >> 16:
        raise HypercallError(-errno.EDOM, "no range has so many frames")
    asked = abi.AddToPhysmap(*call.fields(abi.ADD_TO_PHYSMAP))
    if asked.space == Space.GMFN_FOREIGN:
        raise HypercallError(-errno.ENOSYS, "foreign memory is mapped in batches only")
    domain = call.domain(asked.domid)
    _check_space(asked.space)
    if asked.space != Space.GMFN_RANGE:
        _raise_for(_add_one(domain, asked.space, asked.page_index, asked.gpfn), **_source_errno(domain, asked))
        return 0
    if asked.frames < call.start:
        raise HypercallError(-errno.EILSEQ, "the range ends before the extent to start at")
    if max(asked.page_index, asked.gpfn) + asked.frames > _WORD_MASK:
        raise HypercallError(-errno.EOVERFLOW, "the range wraps around")
    answer = domain.memory.add_to_physmap_range(
        asked.page_index, asked.gpfn, asked.frames, start=call.start, preempt=call.preempt
    )
    if answer.reason is Reason.PREEMPTED:
        return Continuation(abi.command_word(command, answer.done))
    _raise_for(answer.reason)
    return 0


def _check_space(space: int) -> None:
    if space == Space.DEV_MMIO:
        raise HypercallError(-errno.EACCES, "only an Arm hardware domain maps device memory so")


def _source_errno(domain: Domain, asked: abi.AddToPhysmap) -> dict[str, int]:
    """Return the errno of NOT_OWN where it is about the frame that is to move, not about what is in its way."""
    if asked.space != Space.GMFN or asked.page_index >= domain.p2m.geometry.frame_limit:
        return {}
    is_movable = domain.p2m.get_entry(asked.page_index).type in {P2MType.RAM_RW, P2MType.RAM_LOGDIRTY}
    return {} if is_movable else {Reason.NOT_OWN.name: errno.EACCES}


def _add_one(domain: Domain, space: int, index: int, gpfn: int, foreign: int | None = None) -> Reason:
    """Add one page; return what prevents it."""
    if gpfn == INVALID_GFN or space not in _SPACES:
        return Reason.BAD_SPACE
    return domain.memory.add_to_physmap(_SPACES[Space(space)], index, gpfn, foreign=foreign).reason


def _add_to_physmap_batch(call: _Call, command: int) -> int | Continuation:
    """Add pages one after the other; the errno of each is written into an array."""
    if call.start >> 16:
        raise HypercallError(-errno.EDOM, "no batch has so many pages")
    asked = abi.AddToPhysmapBatch(*call.fields(abi.ADD_TO_PHYSMAP_BATCH))
    if asked.space == Space.GMFN_RANGE:
        raise HypercallError(-errno.EOPNOTSUPP, "a batch has no ranges in it")
    domain = call.domain(asked.domid)
    _check_space(asked.space)
    if asked.pages < call.start:
        raise HypercallError(-errno.EILSEQ, "the batch ends before the page to start at")
    for done in range(call.start, asked.pages):
        if done > call.start and call.is_preempted():
            return Continuation(abi.command_word(command, done))
        index, gpfn = call.word(asked.indexes, done), call.word(asked.gpfns, done)
        if gpfn == INVALID_GFN:
            raise HypercallError(-errno.EINVAL, "a gpfn is invalid")
        result = _batch_result(call, domain, asked, index, gpfn)
        call.write(asked.errors + abi.ERROR.size * done, abi.ERROR.pack(result))
    return 0


def _foreign(call: _Call, domid: int) -> int:
    """Return the domain whose memory is mapped; EPERM unless the toolstack asks."""
    if not call.caller.is_control:
        raise HypercallError(-errno.EPERM, "only the toolstack maps foreign memory")
    return call.domain(domid).domid


def _batch_result(call: _Call, domain: Domain, asked: abi.AddToPhysmapBatch, index: int, gpfn: int) -> int:
    """Add one page of a batch; return 0 or the negative errno."""
    one = abi.AddToPhysmap(asked.domid, 1, asked.space, index, gpfn)
    try:
        foreign = _foreign(call, asked.foreign_domid) if asked.space == Space.GMFN_FOREIGN else None
        _raise_for(_add_one(domain, asked.space, index, gpfn, foreign), **_source_errno(domain, one))
    except HypercallError as error:
        return error.errno
    return 0


def _remove_from_physmap(call: _Call, command: int) -> int:  # noqa: ARG001
    call.forbid_start()
    asked = abi.RemoveFromPhysmap(*call.fields(abi.REMOVE_FROM_PHYSMAP))
    answer = call.domain(asked.domid).memory.remove_from_physmap(asked.gpfn)
    _raise_for(answer.reason, UNPOPULATED=errno.ENOENT, BEYOND=errno.ENOENT)
    return 0


# -- numbers ------------------------------------------------------------------------------------------------------


def _maximum_ram_page(call: _Call, command: int) -> int:  # noqa: ARG001
    call.forbid_start()
    return call.machine.frames


def _reservation_number(call: _Call, command: int) -> int:
    call.forbid_start()
    domain = call.domain(*call.fields(abi.DOMID))
    if command == Command.CURRENT_RESERVATION:
        return domain.memory.owned_frames
    if command == Command.MAXIMUM_RESERVATION:
        limit = domain.memory.max_pages
        return _NO_LIMIT if limit is None else limit
    return max(0, domain.p2m.max_gfn - 1)


_HANDLERS: Final[dict[int, Callable[[_Call, int], int | Continuation]]] = {
    Command.INCREASE_RESERVATION: _reservation,
    Command.DECREASE_RESERVATION: _reservation,
    Command.POPULATE_PHYSMAP: _reservation,
    Command.EXCHANGE: _exchange,
    Command.CLAIM_PAGES: _claim_pages,
    Command.ADD_TO_PHYSMAP: _add_to_physmap,
    Command.ADD_TO_PHYSMAP_BATCH: _add_to_physmap_batch,
    Command.REMOVE_FROM_PHYSMAP: _remove_from_physmap,
    Command.MAXIMUM_RAM_PAGE: _maximum_ram_page,
    Command.CURRENT_RESERVATION: _reservation_number,
    Command.MAXIMUM_RESERVATION: _reservation_number,
    Command.MAXIMUM_GPFN: _reservation_number,
}
