"""Engines: what executes a guest's code. One is chosen by name; others register as `twofold.engines`.

An engine is called with a guest's space and answers with a session, which executes, stops and goes on. What an access
comes to it asks of the space (`Space.access`), or, if its hardware walks by itself, of the domain's `paging` when that
faults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from twofold import registry
from twofold.guest.space import Space
from twofold.paging import AccessFault

GROUP: Final = "twofold.engines"
BUILT_IN: Final = {"unicorn": "twofold.guest.unicorn_engine:UnicornSession"}  # loading Unicorn takes a while

ACCESS_DTYPE: Final = np.dtype([("gva", np.uint64), ("bytes", np.uint8), ("write", np.bool_)])
Accesses = npt.NDArray[np.void]

HALTED, STEPS, PAUSED, FAULT, TIME, ERROR = "halted", "steps", "paused", "fault", "time", "error"


@dataclass(frozen=True)
class Start:
    """Where execution begins.

    gva : of the first instruction
    registers : {name: value}, those that are not zero
    """

    gva: int
    registers: Mapping[str, int]


@dataclass(frozen=True)
class Stop:
    """Why and where an engine stopped; it can go on from there, after "error" too, if the cause was mended.

    Parameters
    ----------
    reason : "halted" (the program's end), "steps" (as many as were asked for), "paused", "fault" (an access that was
        not resolved), "time" (it took too long), "error" (an exception of the guest that the engine does not deliver)
    gva : of the next instruction; after a fault, of the one that met it
    steps : instructions executed since it went on; None where nobody counted, as in a run without a limit
    fault : of "fault"
    problem : what happened, in one sentence; empty for "halted", "steps" and "paused"
    """

    reason: str
    gva: int
    steps: int | None = None
    fault: AccessFault | None = None
    problem: str = ""


class EngineSession(Protocol):
    """One guest on one engine. Its methods are called by one thread, `pause` by any."""

    @property
    def fills(self) -> int:
        """Translations that it asked the space for."""

    def run(self, steps: int | None, seconds: float, *, can_pause: bool = True) -> Stop:
        """Execute from where it stands.

        Parameters
        ----------
        steps : instructions at most; None: until something else stops it
        seconds : time at most
        can_pause : False: nobody is going to pause it, if that makes it faster
        """

    def pause(self) -> None:
        """Let it stop soon; when nothing runs, the next run stops before its first instruction."""

    def read_registers(self) -> dict[str, int]:
        """Return {name: value}: rax to r15, rip and rflags; of 32-bit code eax to edi, eip and eflags."""

    def write_registers(self, registers: Mapping[str, int]) -> None:
        """Set registers; the others stay."""

    def flush(self, gfns: npt.NDArray[np.uint64] | None, frames: npt.NDArray[np.uint64] | None) -> None:
        """Drop the translations that depend on runs of gfns, `frames` long; without runs, all of them."""

    def accesses(self) -> Accesses:
        """Return every load and store so far, in order."""

    def close(self) -> None:
        """Let go of the guest's memory."""


class Engine(Protocol):
    """What makes sessions: a class, such as `unicorn_engine.UnicornSession`, or any function."""

    def __call__(self, space: Space) -> EngineSession:
        """Return a session of this guest."""


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines that are installed, the built-in ones first."""
    return registry.names_of(GROUP, BUILT_IN)


def get_engine(name: str) -> Engine:
    """Return an engine by name.

    Raises
    ------
    UnknownNameError : no installed engine has that name
    """
    engine: Engine = registry.load("engine", GROUP, BUILT_IN, name)
    return engine
