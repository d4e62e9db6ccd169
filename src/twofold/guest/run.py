"""Running a program in a guest: load it, hand it to an engine, read its answer back."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from twofold.errors import FormatError, GuestError, SizeError
from twofold.guest.engine import Accesses, Start
from twofold.guest.guest import Guest
from twofold.guest.program import LONG_BITS, Program, Segment
from twofold.guest.session import Session, check_seconds
from twofold.trace import MIN_FOOTPRINT, PHASE_DONE, PHASE_OFFSET, STACK_BYTES
from twofold.units import FRAME_BYTES, FRAME_SHIFT, format_bytes

PARAMETERS_GVA: Final = 0x200000  # one page, below where programs are linked
_BY: Final = "loader"  # who stores, for those who watch


@dataclass(frozen=True)
class RunResult:
    """What came of a program.

    Parameters
    ----------
    exit_code : 0 when it ran to its end, 1 when a fault stopped it
    output : its answer, an integer of 64 bits
    accesses : loads and stores of the whole run, setup included
    trace : the accesses of the measured part in the area, in order: gva, bytes, write
    faults : what stopped it, one sentence each
    fills : two-dimensional walks that the engine asked for
    """

    exit_code: int
    output: int
    accesses: int
    trace: Accesses = field(repr=False)
    faults: tuple[str, ...]
    fills: int


def load_program(guest: Guest, program: Program | str | Path) -> Start:
    """Put a program and its parameters into a guest's memory, and return where a session starts it.

    The area is wiped first, so that the same program gives the same answer each time.

    Raises
    ------
    FormatError : the program cannot be loaded
    GuestError : it does not fit the guest
    DomainError : the domain is paused, or being destroyed
    """
    guest.domain.check_runnable()
    program = Program.of(program, guest.bits)
    area = program.area_bytes(guest.footprint)
    if area > guest.footprint:
        raise SizeError(format_bytes(area), f"is larger than the guest's area of {format_bytes(guest.footprint)}")
    if area < MIN_FOOTPRINT or area & (area - 1):
        least = format_bytes(MIN_FOOTPRINT)
        raise SizeError(format_bytes(area), f"is no footprint of a program: a power of two of at least {least}")
    if not 0 <= program.steps < 1 << 64:
        raise GuestError(f"a program cannot take {program.steps} steps: they are counted in 64 bits")
    if program.bits != guest.bits:
        raise GuestError(f"program {program.name} is of {program.bits} bits and cannot run in a {guest.mode} guest")
    entry, segments = program.image()
    for segment in segments:
        if segment.gva < PARAMETERS_GVA + FRAME_BYTES and segment.gva + segment.length > PARAMETERS_GVA:
            raise FormatError(program.name, f"has a segment where its parameters go, at gva {PARAMETERS_GVA:#x}")
    guest.wipe_area()
    seed = guest.domain.machine.seed if program.seed is None else program.seed
    block = struct.pack("<6Q", guest.area_base, area, program.steps, seed & (2**64 - 1), 0, 0)
    _load(guest, (*segments, Segment(PARAMETERS_GVA, block, STACK_BYTES)))
    top = PARAMETERS_GVA + STACK_BYTES
    if guest.bits == LONG_BITS:  # as a function is entered that was called: 8 bytes below a multiple of 16
        return Start(entry, {"rdi": PARAMETERS_GVA, "rsp": top - 8})
    return Start(entry, {"eax": PARAMETERS_GVA, "esp": top})


def run(guest: Guest, program: Program | str | Path, engine: str = "unicorn", *, seconds: float = 60.0) -> RunResult:
    """Execute a program in a guest, on the domain's own tables: a `Session` from its start to its end.

    The area is wiped first, so that the same program gives the same answer each time.

    Parameters
    ----------
    program : one made by `Program`, the name of a workload, or an ELF file of one's own
    engine : "unicorn", or one that is registered as `twofold.engines`
    seconds : a program that takes longer is stopped, and that is a fault

    Raises
    ------
    UnknownNameError : no such engine
    FormatError : the program cannot be loaded
    GuestError : it does not fit the guest
    DomainError : the domain is paused, or being destroyed
    """
    check_seconds(seconds)
    program = Program.of(program, guest.bits)
    with Session(guest, engine) as session:
        session.start(load_program(guest, program))
        stop = session.run_to_end(seconds)
    parameters = int(guest.program_pages(PARAMETERS_GVA, 1)[0]) << FRAME_SHIFT
    phase, output = struct.unpack("<2Q", guest.domain.read(parameters + PHASE_OFFSET, 16))
    is_done = phase == PHASE_DONE
    problem = stop.problem or ("" if is_done else "it halted before it had finished")
    return RunResult(
        exit_code=1 if problem else 0,
        output=output,
        accesses=len(session.accesses),
        trace=_measured(guest, session.accesses, program.area_bytes(guest.footprint), is_done=is_done),
        faults=(problem,) if problem else (),
        fills=session.fills,
    )


def _load(guest: Guest, segments: tuple[Segment, ...]) -> None:
    """Put segments into guest memory, zeros around them."""
    door, places = guest.domain.door, []
    for segment in segments:  # all are zeroed before any is stored: two may share a page
        inside = segment.gva % FRAME_BYTES
        places.append(guest.program_pages(segment.gva - inside, -(-(inside + segment.length) // FRAME_BYTES)))
        door.zero_frames(places[-1], _BY)
    for segment, gfns in zip(segments, places, strict=True):
        door.write_frames(gfns, segment.gva % FRAME_BYTES, segment.data, _BY)


def _measured(guest: Guest, accesses: Accesses, area: int, *, is_done: bool) -> Accesses:
    """Return the accesses in the area that follow the store which starts the measured part; without one, all."""
    marks = np.flatnonzero((accesses["gva"] == PARAMETERS_GVA + PHASE_OFFSET) & accesses["write"])
    start = int(marks[0]) + 1 if len(marks) > is_done else 0  # the last store of a program that is done says so
    part = accesses[start:]
    return part[(part["gva"] >= guest.area_base) & (part["gva"] < guest.area_base + area)]


def check_answer(result: RunResult, expected: int, program: Program) -> None:
    """Raise GuestError unless a run ended well with the expected answer."""
    if result.faults:
        raise GuestError(f"program {program.name}: {result.faults[0]}")
    if result.output != expected:
        raise GuestError(f"program {program.name} answered {result.output:#x} instead of {expected:#x}")
