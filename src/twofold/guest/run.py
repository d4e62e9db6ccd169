"""Running a program in a guest: load it, hand it to an engine, read its answer back."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import GuestError, SizeError, UnknownNameError
from twofold.guest.guest import Guest
from twofold.guest.program import Program, Segment
from twofold.trace import AREA_BASE, PARAMETERS_BYTES, PHASE_DONE, PHASE_OFFSET
from twofold.units import FRAME_BYTES, FRAME_SHIFT, format_bytes

PARAMETERS_GVA: Final = 0x200000  # one page, below where programs are linked
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
    """
    known = engines()
    if engine not in known:
        raise UnknownNameError("engine", engine, tuple(known))
    area = program.area_bytes(guest.footprint)
    if area > guest.footprint:
        raise SizeError(format_bytes(area), f"is larger than the guest's area of {format_bytes(guest.footprint)}")
    entry, segments = program.image()
    guest.wipe_area()
    for segment in segments:
        _load(guest, segment)
    seed = guest.domain.machine.seed if program.seed is None else program.seed
    block = struct.pack("<6Q", AREA_BASE, area, program.steps, seed & (2**64 - 1), 0, 0)
    parameters = _load(guest, Segment(PARAMETERS_GVA, block, PARAMETERS_BYTES))
    execution = known[engine](guest, entry, PARAMETERS_GVA, seconds)
    phase, output = struct.unpack("<2Q", guest.domain.read(parameters + PHASE_OFFSET, 16))
    if phase != PHASE_DONE and not execution.fault:
        execution = Execution(execution.accesses, execution.fills, "it halted before it had finished")
    return RunResult(
        exit_code=1 if execution.fault else 0,
        output=output,
        accesses=len(execution.accesses),
        trace=_measured(execution.accesses, area),
        faults=(execution.fault,) if execution.fault else (),
        fills=execution.fills,
    )


def _load(guest: Guest, segment: Segment) -> int:
    """Put a segment into guest memory and return the gpa of its first byte."""
    first = segment.gva >> FRAME_SHIFT << FRAME_SHIFT
    inside = segment.gva - first
    pages = -(-(inside + segment.length) // FRAME_BYTES)
    gfns = guest.program_pages(first, pages)
    padded = (b"\0" * inside + segment.data).ljust(pages * FRAME_BYTES, b"\0")
    for page, gfn in enumerate(gfns.tolist()):
        guest.domain.write(gfn << FRAME_SHIFT, padded[page * FRAME_BYTES : (page + 1) * FRAME_BYTES])
    return (int(gfns[0]) << FRAME_SHIFT) + inside


def _measured(accesses: Accesses, area: int) -> Accesses:
    """Return the accesses in the area that follow the store which starts the measured part."""
    marks = np.flatnonzero((accesses["gva"] == PARAMETERS_GVA + PHASE_OFFSET) & accesses["write"])
    start = int(marks[0]) + 1 if len(marks) else 0
    part = accesses[start:]
    return part[(part["gva"] >= AREA_BASE) & (part["gva"] < AREA_BASE + area)]


def check_answer(result: RunResult, expected: int, program: Program) -> None:
    """Raise GuestError unless a run ended well with the expected answer."""
    if result.faults:
        raise GuestError(f"program {program.name}: {result.faults[0]}")
    if result.output != expected:
        raise GuestError(f"program {program.name} answered {result.output:#x} instead of {expected:#x}")
