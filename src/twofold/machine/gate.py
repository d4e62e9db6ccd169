"""The gate of a machine: every operation on it goes through here, one at a time, and is let in or refused by name.

    closed       nothing goes through any more: the machine is closed, or this process was forked from its own
    destroyed    nothing of a domain whose tables have gone, or are going, back to the heap
    dying        nothing but its own destruction, from the first step of `destroy` on
    calling      somebody else's function is being called in the middle of an operation: it may look, and change nothing
    running      an engine executes a guest: what runs may be changed, and neither destroyed nor closed

Each domain has a gate of its own, inside the machine's: they share its lock. Whoever comes from another thread waits.
What is asked here must be right also after an exception that came between any two lines, so what is going on is never
noted down: it is a lock that is held, by a `with` that nothing can come between. `is_hushed` is only a hint that some
lock may be, for those who are asked a million times.
What may be done from where is in docs/operations.md.
"""

import functools
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeVar

from twofold.errors import ClosedError, DomainError, ListenerError, TwofoldError

_GATED: Final = "_twofold_goes_through_the_gate"
Method = TypeVar("Method", bound=Callable[..., Any])
Answer = TypeVar("Answer")


class Gate:
    """The gate of a machine, or of one of its domains.

    Parameters
    ----------
    name : whose it is, for errors
    domid : of a domain
    machine : the gate of the machine that a domain lives on

    Attributes
    ----------
    lock : held by whoever is inside; of the machine
    working : held while an operation is under way: what it does itself goes through
    calling : held while a function of somebody else's is called in the middle of one
    building : held while a design is; what it is given to populate with holds `populating`
    running : held while an engine executes a guest of the domain
    is_open, is_dying : whether it lets anybody in; whether only its own destruction
    domains : the gates inside
    begun : what the operation that is under way has begun (`machine.begun`), or one that was cut, until it is settled
    is_bare : whether the tables of a dying domain are going already
    """

    def __init__(self, name: str, domid: int = 0, machine: "Gate | None" = None) -> None:
        self.name, self.domid = name, domid
        self.machine = self if machine is None else machine
        self.is_open, self.is_dying, self.is_bare, self.is_hushed = True, False, False, False
        self.under_way = self.told = ""  # for errors only
        self._why = ""
        self.begun: list[Any] = [] if machine is None else machine.begun
        self.settle_all: Callable[[], object] = self.begun.clear
        self._process = os.getpid()
        self._ends: list[Callable[[], object]] = []
        self._forks: list[Callable[[], object]] = []
        self.domains: weakref.WeakSet[Gate] = weakref.WeakSet()
        self.running = threading.Lock()
        if machine is None:
            self._make_locks()
            _HERE.add(self)
        else:
            self.take_locks(machine)
            machine.domains.add(self)

    def _make_locks(self) -> None:
        self.lock = threading.RLock()
        self.working, self.calling, self.building, self.populating = (threading.Lock() for _ in range(4))

    def take_locks(self, machine: "Gate") -> None:
        """Share the locks of the machine."""
        self.lock, self.working, self.calling = machine.lock, machine.working, machine.calling
        self.building, self.populating = machine.building, machine.populating

    # -- who may ----------------------------------------------------------------------------------------------------

    def admit(self, operation: str) -> None:
        """Raise unless an operation that changes something may go through, for the thread that holds the lock.

        Raises
        ------
        ListenerError : it comes from a function that an operation is just calling
        DomainError, ClosedError : as `admit_look`
        """
        self.check_called(operation)
        self.admit_look(operation)

    def admit_look(self, operation: str) -> None:
        """Raise unless something may be looked at.

        Raises
        ------
        DomainError : the domain is being destroyed, or has been
        ClosedError : the machine is closed, or another process's
        """
        if not self.may_look:
            raise self.refusal(operation)

    @property
    def may_look(self) -> bool:
        """Whether the tables are there; those of a dying domain for its own destruction, and for whom that calls."""
        is_whole = self.is_dying and not self.is_bare
        return self.is_open or (is_whole and (self.working.locked() or self.calling.locked()))

    def check_called(self, operation: str) -> None:
        """Raise ListenerError when an operation comes from a function that another one is just calling."""
        if self.calling.locked() or (self.building.locked() and not self.populating.locked()):
            under_way = self.machine.under_way if self.calling.locked() else "build"
            raise ListenerError(operation, self.machine.told, under_way)
        self.machine.is_hushed = self.building.locked()

    def check_here(self) -> None:
        """Raise ClosedError when a function that was called has come back in a child that was forked."""
        if not self.machine.is_open:
            raise self.machine.refusal("to go on")

    def admit_dying(self, operation: str) -> None:
        """Raise unless an operation may go through that has an answer of its own for a domain that is dying."""
        self.check_called(operation)
        if self.is_over:
            raise self.refusal(operation)

    def admit_to_end(self, operation: str) -> None:
        """Raise unless an operation may go through that comes to nothing where a domain is destroyed already."""
        self.check_called(operation)
        self.check_closed(operation)

    def check_closed(self, operation: str) -> None:
        """Raise ClosedError when the machine is closed, or another process's."""
        if self._why:
            raise self.refusal(operation)

    @property
    def is_over(self) -> bool:
        """Whether nobody will ever be let in again."""
        return not self.is_open and not self.is_dying

    def check_idle(self, operation: str) -> None:
        """Raise unless nothing is under way, no guest executed: what ends everything cannot be part of anything.

        Raises
        ------
        ListenerError : it comes out of an operation, or from somebody whom an engine has called
        """
        if self.working.locked():
            raise ListenerError(operation, "", self.machine.under_way)
        if any(each.running.locked() for each in (self, *self.domains)):
            raise ListenerError(operation, "", "the run of a guest")

    def refusal(self, operation: str) -> TwofoldError:
        """Return why nobody is let in."""
        if self._why:
            return ClosedError(self.name, f"{self._why}: {operation} is refused")
        state = "is being destroyed" if self.is_dying else "is destroyed: nothing of it is there any more"
        return DomainError(self.domid, f"{state}; {operation} is refused")

    # -- who is called ----------------------------------------------------------------------------------------------

    def call(self, told: str, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call somebody else's function in the middle of an operation; what it tries to change is refused.

        Parameters
        ----------
        told : what it is, for errors
        """
        if self.calling.locked():
            return function(*arguments)
        self.hush(told)
        answer = hold(self.calling, function, *arguments)
        self.check_here()
        return answer

    def hush(self, told: str) -> None:
        """Note who is going to be called."""
        self.machine.told = told
        self.machine.is_hushed = True

    # -- what was cut -----------------------------------------------------------------------------------------------

    def on_cut(self, settle: Callable[[], object]) -> None:
        """Call `settle` when there is something begun that nobody goes on with."""
        self.settle_all = settle

    def settle(self) -> None:
        """Undo what was begun, or bring it to its end. It may be cut itself: whoever comes next does it again."""
        self.machine.settle_all()
        self.begun.clear()

    def see_through(self, method: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
        """Do an operation, and leave nothing that it has begun as it stands."""
        if self.begun:
            self.settle()
        try:
            answer = method(*args, **kwargs)
        except BaseException:
            if self.begun:
                self.settle()
            raise
        # In one line, too: what was given out is the caller's as soon as it is forgotten here.
        self.begun.clear(); return answer  # fmt: skip  # noqa: E702

    # -- its end ----------------------------------------------------------------------------------------------------

    def on_end(self, end: Callable[[], object]) -> None:
        """Call `end` as soon as not everybody is let in any more, and when nobody is."""
        self._ends.append(end)

    def begin_dying(self) -> None:
        """Let nobody in any more but the destruction of the domain."""
        self.is_dying, self.is_open = True, False
        self._end()

    def strip(self) -> None:
        """Let nobody near the tables any more, its own destruction neither: they are going to be somebody else's."""
        self.is_bare = True

    def end_dying(self) -> None:
        """Let nobody in any more: there is nothing left."""
        self.is_open = self.is_dying = False
        self._end()

    def close(self, why: str) -> None:
        """Let nobody in any more, neither here nor at the domains inside."""
        for gate in self.domains:
            gate.close(why)
        self._why = self._why or why
        self.is_open = self.is_dying = False
        self._end()

    def _end(self) -> None:
        for end in self._ends:
            end()

    def on_fork(self, let_go: Callable[[], object]) -> None:
        """Call `let_go` in a child that is forked from this process."""
        self._forks.append(let_go)

    def leave_behind(self) -> None:
        """Be the gate of a machine that stayed with another process, in the child that was forked from it."""
        self._make_locks()  # whoever held them is not here
        for gate in self.domains:
            gate.take_locks(self)
        self.close(f"belongs to process {self._process}, and this is a child that was forked from it")
        for let_go in self._forks:
            let_go()


# Which machines are open in this process: `os.register_at_fork` takes nothing back, so it is told once.
_HERE: Final[weakref.WeakSet[Gate]] = weakref.WeakSet()


def _after_fork() -> None:
    """Make every handle of the parent's machines a dead one in the child: the memory is shared with the parent."""
    for gate in tuple(_HERE):
        if gate.is_open:
            gate.leave_behind()


os.register_at_fork(after_in_child=_after_fork)


class HasGate(Protocol):
    """What has operations."""

    gate: Gate


def hold(lock: AbstractContextManager[object], function: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    """Call a function while a lock is held."""
    # In one line, as wherever a lock is taken: what traces lines may raise before each, and so before a release.
    with lock: return function(*args, **kwargs)  # fmt: skip  # noqa: E701


def operation(method: Method, admit: str = "admit", *, is_alone: bool = False) -> Method:
    """Let a method that changes something through its object's gate, one at a time.

    Parameters
    ----------
    admit : which of the gate's questions it is asked where not everybody goes through
    is_alone : it is never part of another operation
    """
    name = method.__qualname__

    def enter(self: HasGate, *args: Any, **kwargs: Any) -> Any:
        gate = self.gate
        if gate.machine.is_hushed or not gate.is_open:
            getattr(gate, admit)(name)
        if is_alone:
            gate.check_idle(name)
        if gate.working.locked():  # part of another operation
            return method(self, *args, **kwargs)
        gate.machine.under_way = name
        with gate.working: return gate.see_through(method, self, *args, **kwargs)  # fmt: skip  # noqa: E701

    @functools.wraps(method)
    def go_through(self: HasGate, *args: Any, **kwargs: Any) -> Any:
        with self.gate.lock: return enter(self, *args, **kwargs)  # fmt: skip  # noqa: E701

    return by_hand(go_through)  # type: ignore[return-value]


def look(method: Method) -> Method:
    """Let a method that only looks through its object's gate."""
    name = method.__qualname__

    def enter(self: HasGate, *args: Any, **kwargs: Any) -> Any:
        gate = self.gate
        if not gate.is_open:
            gate.admit_look(name)
        if gate.begun and not gate.working.locked():
            hold(gate.working, gate.settle)
        return method(self, *args, **kwargs)

    @functools.wraps(method)
    def go_through(self: HasGate, *args: Any, **kwargs: Any) -> Any:
        with self.gate.lock: return enter(self, *args, **kwargs)  # fmt: skip  # noqa: E701

    return by_hand(go_through)  # type: ignore[return-value]


def dying_too(method: Method) -> Method:
    """Let a method through as an operation that has an answer of its own for a domain that is dying."""
    return operation(method, "admit_dying")


def alone(method: Method) -> Method:
    """Let a method through as an operation that is never part of another one, and may come once too often."""
    return operation(method, "admit_to_end", is_alone=True)


def by_hand(method: Method) -> Method:
    """Mark a method that goes through the gate; one that is called too often for a wrapper does so itself."""
    setattr(method, _GATED, True)
    return method


def is_gated(method: object) -> bool:
    """Return whether a method goes through the gate."""
    return bool(getattr(method, _GATED, False))
