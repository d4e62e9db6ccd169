"""Running a program in a guest: load it, hand it to an engine, read its answer back."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import FormatError, GuestError, SizeError, UnknownNameError
from twofold.guest.guest import Guest
from twofold.guest.program import Program, Segment
from twofold.trace import MIN_FOOTPRINT, PHASE_DONE, PHASE_OFFSET, STACK_BYTES
from twofold.units import FRAME_BYTES, FRAME_SHIFT, format_bytes

PARAMETERS_GVA: Final = 0x200000  # one page, below where programs are linked
_BY: Final = "loader"  # who stores, for those who watch
MAX_SECONDS: Final = 1e9  # the engine counts microseconds in 64 bits
ACCESS_DTYPE: Final = np.dtype([("gva", np.uint64), ("bytes", np.uint8), ("write", np.bool_)])
Accesses = npt.NDArray[np.void]


@dataclass(frozen=True)
class Execution:
    """What an engine hands back: every access in order, and where the program ended."""

    accesses: Accesses
    fills: int  # translations that the engine asked of the walker
    fault: str  # why it stopped before its end; empty when it did not


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


Engine = Callable[[Guest, int, int, float], Execution]


def engines() -> dict[str, Engine]:
    """Return the engines that can be used here, by name."""
    from twofold.guest.unicorn_engine import execute  # noqa: PLC0415  Unicorn takes a while to load

    return {"unicorn": execute}


def run(guest: Guest, program: Program, engine: str = "unicorn", *, seconds: float = 60.0) -> RunResult:
    """Execute a program in a guest, on the domain's own tables.

    The area is wiped first, so that the same program gives the same answer each time.

    Parameters
    ----------
    engine : "unicorn"
    seconds : a program that takes longer is stopped, and that is a fault

    Raises
    ------
    UnknownNameError : no such engine
    FormatError : the program cannot be loaded
    GuestError : it does not fit the guest
    DomainError : the domain is paused, or being destroyed
    """
    guest.domain.check_runnable()
    known = engines()
    if engine not in known:
        raise UnknownNameError("engine", engine, tuple(known))
    area = program.area_bytes(guest.footprint)
    if area > guest.footprint:
        raise SizeError(format_bytes(area), f"is larger than the guest's area of {format_bytes(guest.footprint)}")
    if area < MIN_FOOTPRINT or area & (area - 1):
        least = format_bytes(MIN_FOOTPRINT)
        raise SizeError(format_bytes(area), f"is no footprint of a program: a power of two of at least {least}")
    if not 0 <= program.steps < 1 << 64:
        raise GuestError(f"a program cannot take {program.steps} steps: they are counted in 64 bits")
    if not 0 < seconds <= MAX_SECONDS:
        raise GuestError(f"a program cannot be given {seconds} seconds: more than 0, at most {MAX_SECONDS:g}")
    if program.bits != guest.bits:
        raise GuestError(f"program {program.name} is of {program.bits} bits and cannot run in a {guest.mode} guest")
    entry, segments = program.image()
    for segment in segments:
        if segment.gva < PARAMETERS_GVA + FRAME_BYTES and segment.gva + segment.length > PARAMETERS_GVA:
            raise FormatError(program.name, f"has a segment where its parameters go, at gva {PARAMETERS_GVA:#x}")
    guest.wipe_area()
    seed = guest.domain.machine.seed if program.seed is None else program.seed
    block = struct.pack("<6Q", guest.area_base, area, program.steps, seed & (2**64 - 1), 0, 0)
    parameters = _load(guest, (*segments, Segment(PARAMETERS_GVA, block, STACK_BYTES)))
    guest.domain.begin_run(engine)
    execution = known[engine](guest, entry, PARAMETERS_GVA, seconds)
    phase, output = struct.unpack("<2Q", guest.domain.read(parameters + PHASE_OFFSET, 16))
    if phase != PHASE_DONE and not execution.fault:
        execution = Execution(execution.accesses, execution.fills, "it halted before it had finished")
    return RunResult(
        exit_code=1 if execution.fault else 0,
        output=output,
        accesses=len(execution.accesses),
        trace=_measured(guest, execution.accesses, area, is_done=phase == PHASE_DONE),
        faults=(execution.fault,) if execution.fault else (),
        fills=execution.fills,
    )


def _load(guest: Guest, segments: tuple[Segment, ...]) -> int:
    """Put segments into guest memory, zeros around them, and return the gpa of the first byte of the last one."""
    door, places = guest.domain.door, []
    for segment in segments:  # all are zeroed before any is stored: two may share a page
        inside = segment.gva % FRAME_BYTES
        places.append(guest.program_pages(segment.gva - inside, -(-(inside + segment.length) // FRAME_BYTES)))
        door.zero_frames(places[-1], _BY)
    for segment, gfns in zip(segments, places, strict=True):
        door.write_frames(gfns, segment.gva % FRAME_BYTES, segment.data, _BY)
    return (int(places[-1][0]) << FRAME_SHIFT) + segments[-1].gva % FRAME_BYTES


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
