"""Sessions: a guest on an engine that starts, stops and goes on.

A session keeps the order between a guest and the changes of its domain: it does not run while the domain is paused or
dying, every flush of the P2M reaches the engine before what was flushed is used again, and an access that the P2M
refuses goes to the resolvers of the domain's paging first. What they leave stops the session. Left out: delivering a
guest's own faults to it, since a program has no handler for them.
"""

from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np

from twofold.domain import Domain
from twofold.errors import GuestError
from twofold.guest.engine import Accesses, Start, Stop, get_engine
from twofold.guest.space import Space, UnpagedSpace
from twofold.machine.gate import dying_too, hold
from twofold.p2m import Flush

MAX_SECONDS: Final = 1e9  # engines count microseconds in 64 bits


class Session:
    """One execution of a guest's code, in as many parts as it takes; a context manager, which stops it at its end.

    Parameters
    ----------
    target : a guest; or a domain, which then runs 32-bit code that does not page
    engine : its name, "unicorn" or one that is registered as `twofold.engines`

    Raises
    ------
    UnknownNameError : no such engine
    """

    def __init__(self, target: Space | Domain, engine: str = "unicorn") -> None:
        space = UnpagedSpace(target) if isinstance(target, Domain) else target
        self.domain = space.domain
        self.gate = self.domain.gate
        self.engine_name = engine
        self._engine = get_engine(engine)(space)
        self._is_started = self._is_stopped = False
        self.domain.p2m.on_flush(self._flushed)
        self.domain.door.on_watch(self._flushed)

    @dying_too
    def start(self, where: Start) -> None:
        """Set where execution begins, as `load_program` says it; nothing is executed yet."""
        self._check(started=False)
        name = "rip" if "rip" in self._engine.read_registers() else "eip"
        self._engine.write_registers({name: where.gva, **where.registers})
        self._is_started = True
        self.domain.begin_run(self.engine_name)

    def run(self, steps: int | None = None, seconds: float = 60.0) -> Stop:
        """Execute until the program ends, `steps` instructions are done, an access faults, somebody pauses it.

        Parameters
        ----------
        steps : instructions at most, as the engine counts them; None: no limit, and they are not counted
        seconds : time at most

        Raises
        ------
        DomainError : the domain is paused, or being destroyed
        GuestError : it was not started, or is stopped; or no such number of steps or seconds
        """
        if steps is not None and steps < 1:
            raise GuestError(f"a session cannot make {steps} steps: 1 at least")
        check_seconds(seconds)
        return hold(self.gate.lock, self._run, "Session.run", steps, seconds)

    def run_to_end(self, seconds: float = 60.0) -> Stop:
        """Execute as `run` does, at the engine's full speed: it cannot be paused."""
        check_seconds(seconds)
        return hold(self.gate.lock, self._run, "Session.run_to_end", None, seconds, can_pause=False)

    def _run(self, what: str, *arguments: Any, **how: Any) -> Stop:
        """Hold the machine while the engine executes; who is called meanwhile, a resolver, may operate on it."""
        self.gate.check_called(what)
        self._check(started=True)
        self.gate.check_idle(what)  # an engine cannot be entered twice
        return hold(self.gate.running, self._engine.run, *arguments, **how)

    def pause(self) -> None:
        """Let a run stop soon: from another thread, or from a resolver or listener that it calls.

        When nothing runs, the next run stops before its first instruction.
        """
        self._engine.pause()

    @property
    def registers(self) -> dict[str, int]:
        """The values of the general registers, the instruction pointer and the flags, by name."""
        self._check()
        return self._engine.read_registers()

    def set_registers(self, registers: Mapping[str, int]) -> None:
        """Set some registers; the others stay.

        Raises
        ------
        UnknownNameError : such code has no register of this name
        """
        self._check()
        self._engine.write_registers(registers)

    def flush(self, gfns: range | None = None) -> None:
        """Let the engine forget translations of some gfns, None: of all. The P2M's own flushes come by themselves."""
        self._check()
        if gfns is None:
            self._engine.flush(None, None)
        else:
            self._engine.flush(np.array([gfns.start], np.uint64), np.array([len(gfns)], np.uint64))

    def _flushed(self, flush: Flush | None = None) -> None:
        """Pass a flush of the P2M on; without one all is to go, since a frame is watched that was not."""
        if flush is None:
            self._engine.flush(None, None)
        else:
            self._engine.flush(flush.gfns, flush.frames)

    @property
    def accesses(self) -> Accesses:
        """Every load and store so far, in order: gva, bytes, write."""
        return self._engine.accesses()

    @property
    def fills(self) -> int:
        """Translations that the engine has asked for so far."""
        return self._engine.fills

    def stop(self) -> None:
        """End it: the engine lets go of the guest's memory, and nothing of the session but what it recorded is left."""
        hold(self.gate.lock, self._stop)

    def _stop(self) -> None:
        if self._is_stopped:
            return
        self.gate.check_idle("Session.stop")
        self._is_stopped = True
        self.domain.p2m.off_flush(self._flushed)
        self.domain.door.off_watch(self._flushed)
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _check(self, *, started: bool | None = None) -> None:
        """Raise unless the session is in a state for what is asked of it."""
        if self._is_stopped:
            raise GuestError("the session is stopped")
        if started is None:
            return
        if started != self._is_started:
            raise GuestError("the session is not started" if started else "the session is started already")
        self.domain.check_runnable()


def check_seconds(seconds: float) -> None:
    """Raise GuestError unless a time can be kept."""
    if not 0 < seconds <= MAX_SECONDS:
        raise GuestError(f"a program cannot be given {seconds} seconds: more than 0, at most {MAX_SECONDS:g}")
