"""Replay: the operations of a journal done again, each with the same answer, to the same bytes.

The journal says how the machine was made and what was done to it, so the replay makes one like it and does the same in
the same order. An operation that failed has to fail in the same way. A journal may come from anywhere: only what is
marked as an operation is ever called, `replay_guard` refuses what no sound program does, and `replay_limits` what takes
more work or memory than it may.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twofold import kernels
from twofold.domain.extents import Mem
from twofold.domain.machine import Machine
from twofold.domain.options import DomainOptions
from twofold.domain.replay_guard import ReplayGuard
from twofold.domain.replay_limits import ReplayLimits, default_work
from twofold.errors import (
    DamagedJournalError,
    DivergenceError,
    FormatError,
    FreeMapError,
    TwofoldError,
    shown,
    some,
)
from twofold.formats.engine import Engine
from twofold.formats.p2m_types import P2MType
from twofold.freemaps import FreeMap
from twofold.machine import Origin, Zones
from twofold.machine.journal import digest_of, is_journaled
from twofold.machine.journal_reader import Call, JournalReader
from twofold.machine.journal_values import Callback
from twofold.memory import MemoryLimit, free_bytes
from twofold.units import FRAME_SHIFT, format_bytes, parse_count, parse_frames

Progress = Callable[[str, int, int], None]

CLASSES: Final = {kind.__name__: kind for kind in (DomainOptions, Mem, P2MType, Origin, Zones)}
MAX_MACHINE: Final = "1TiB"
_FRAME_COST: Final = 28  # bytes of frame table, M2P, heap, and tables of 4K leaves, where all of it is used
_TOLD_EVERY: Final = 256  # operations
_MOST_SHOWN: Final = 200  # characters of an answer
# What the journal of a run lacks, the program's stores, shows in the answers of these.
_OF_CONTENTS: Final = {("Machine", "digest"), ("LinearMapping", "read")}
# Whoever refused a store is not there in a replay; nothing was stored.
_REFUSED: Final = "WriteRefusedError"
_SETTINGS: Final = {"paging", "page_sizes", "seed", "behaviour", "nodes"}


@dataclass(frozen=True)
class Replayed:
    """What replaying a journal came to.

    machine : as it is after the last operation; the caller closes it
    operations : how many were done
    digest : `machine.digest()`; None when the journal ends half-way through the destruction of a domain
    damage : what is wrong with the rest of the journal; None when all of it was replayed
    is_closed : whether the journal has its end: its machine was closed, not killed
    runs : how often an engine ran a program; what that stored the journal lacks, so from the first run on no digest
        was compared, and this one is of memory without it
    work : the steps that it took, as `max_work` counts them
    """

    machine: Machine
    operations: int
    digest: str | None
    damage: DamagedJournalError | None
    is_closed: bool
    runs: int
    work: int

    @property
    def is_compared(self) -> bool:
        """Whether every digest in the journal was compared, so that this one is the recorded machine's."""
        return not self.runs

    @property
    def leaves(self) -> dict[int, int]:
        """{order: leaves} of all domains together, but for one that is half-way through its destruction."""
        total: dict[int, int] = {}
        for domain in self.machine.domains.values():
            for order, count in ({} if domain.is_dying else domain.p2m.leaves()).items():
                total[order] = total.get(order, 0) + count
        return dict(sorted(total.items()))

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, the machine as its size and its domains, for JSON."""
        return {
            "operations": self.operations,
            "machine_bytes": self.machine.frames << FRAME_SHIFT,
            "free_frames": self.machine.heap.free_frames,
            "domains": [
                {"domid": each.domid, "name": each.name, "owned_frames": each.memory.owned_frames}
                for each in self.machine.domains.values()
            ],
            "leaves": self.leaves,
            "digest": self.digest,
            "runs": self.runs,
            "work": self.work,
            "closed": self.is_closed,
            "damage": str(self.damage or ""),
        }


def replay(
    path: str | Path,
    *,
    partial: bool = False,
    max_machine: int | str | None = None,
    max_work: int | None = None,
    max_memory: int | str | None = None,
    engine: Engine = kernels,
    progress: Progress | None = None,
) -> Replayed:
    """Do the operations of a journal again and return the machine that they lead to.

    Parameters
    ----------
    partial : of a damaged journal, replay what is whole, and say what is wrong in `damage`
    max_machine : refuse a journal of a larger machine; None: than 1 TiB, or than this host has memory for
    max_work : refuse an operation that may take more steps than are left of these, some 5 ns each; None: 2**30, and 64
        for each byte of the journal
    max_memory : refuse an operation after which the machine may hold more; None: than a quarter of what is free [bytes]
    engine : `kernels`, or its readable twin `spec`: the answers are the same
    progress : called with (what is done, bytes of the journal done, bytes in all)

    Raises
    ------
    FormatError : the file is no journal, or asks for what no program may do, or for more than it may take
    CountError, SizeError : a limit that is none
    DamagedJournalError : part of it is damaged; not when `partial`
    DivergenceError : an operation comes to something else than when it was recorded
    """
    with JournalReader(Path(path), CLASSES) as journal:
        most = default_work(journal.bytes_) if max_work is None else parse_count(str(max_work), 1)
        limits = ReplayLimits(journal.path, MemoryLimit(max_memory), most)
        journal.most = limits.record_bytes
        limits.check_map(journal.free)
        machine = _make_machine(journal, max_machine, engine)
        try:
            replayer = _Replayer(journal.path, machine, limits)
            damage = _replay_all(journal, replayer, progress, partial=partial)
            digest = _digest_of(machine, limits)
            is_closed, runs = journal.is_closed, replayer.runs
            return Replayed(machine, journal.operations, digest, damage, is_closed, runs, limits.work)
        except BaseException:
            machine.close()
            raise


def _digest_of(machine: Machine, limits: ReplayLimits) -> str | None:
    """Return the digest of a machine that has one."""
    if any(domain.is_dying for domain in machine.domains.values()):
        return None
    limits.charge_digest(machine)
    return machine.digest()


def _make_machine(journal: JournalReader, max_machine: int | str | None, engine: Engine) -> Machine:
    """Return a machine like the one that the journal begins with."""
    try:
        free = FreeMap.from_bytes(journal.free)
    except FreeMapError as error:
        raise FormatError(journal.path, f"has no free map of a machine: {error}") from None
    max_frames = parse_frames(MAX_MACHINE if max_machine is None else max_machine)
    if free.machine_frames > max_frames:
        asked, most = (format_bytes(frames << FRAME_SHIFT) for frames in (free.machine_frames, max_frames))
        raise FormatError(journal.path, f"is of a machine of {asked}, more than the {most} that are allowed")
    if max_machine is None:
        _check_room(journal.path, _FRAME_COST * free.machine_frames)
    if journal.settings.keys() != _SETTINGS:
        raise FormatError(journal.path, f"has other settings of a machine: {some(journal.settings)}")
    try:
        return Machine(free=free, engine=engine, **journal.settings)
    except (TwofoldError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(journal.path, f"describes a machine that cannot be: {error}") from None


def _check_room(path: Path, bytes_: int) -> None:
    """Refuse a machine that would take more memory than this one has left, were all of it used."""
    left = free_bytes()
    if bytes_ > left:
        asked, most = format_bytes(bytes_), format_bytes(left)
        raise FormatError(path, f"takes {asked} of memory, and this machine has {most} left; max_machine allows it")


def _replay_all(
    journal: JournalReader, replayer: "_Replayer", progress: Progress | None, *, partial: bool
) -> DamagedJournalError | None:
    """Do every operation; return what is wrong with the journal, None when nothing is."""
    try:
        for number, call in enumerate(journal, 1):
            replayer.replay(number, call)
            if progress and not number % _TOLD_EVERY:
                progress("replaying", journal.offset, journal.bytes_)
    except DamagedJournalError as damage:
        if not partial:
            raise
        return damage
    if progress:
        progress("replaying", journal.offset, journal.bytes_)
    return None


class _Replayer:
    """Does operations on one machine again; `runs` counts the programs that were run meanwhile."""

    def __init__(self, path: Path, machine: Machine, limits: ReplayLimits) -> None:
        self.runs = 0
        self._path, self._machine = path, machine
        self._guard, self._limits = ReplayGuard(machine), limits
        self._signatures: dict[object, inspect.Signature] = {}

    def replay(self, number: int, call: Call) -> None:
        """Do one operation, and hold what comes of it against the journal."""
        target = self._target(call)
        if target is None or not is_journaled(type(target), call.method):
            raise self._refused(call, "there is nothing of that name")
        method = getattr(target, call.method)
        scripts = [_Script(answers) for answers in call.callbacks]
        args, kwargs = _with_scripts(call, scripts)
        arguments = self._bound(method, args, kwargs)
        cost = self._limits.check(self._machine, call, arguments)  # first: the guard itself looks at what is named
        if refusal := self._guard.refusal(call, arguments):
            raise self._refused(call, refusal)
        if call.outcome == _REFUSED:
            return
        outcome: str | int
        try:
            answer = method(*args, **kwargs)
        except _ScriptRaised:
            outcome, said = (call.outcome, "") if isinstance(call.outcome, str) else ("", "raises what a function did")
        except Exception as error:  # noqa: BLE001  whatever it raised, it has to raise again
            outcome, said = type(error).__name__, f"raises {type(error).__name__}: {error}"
        else:
            self._guard.note(call, arguments or {}, answer)
            outcome, said = digest_of(answer), f"answers {answer!r}"
        self._limits.note(cost)
        self.runs += (call.target, call.method) == ("Domain", "begin_run")
        if self.runs and (call.target, call.method) in _OF_CONTENTS:
            return
        if outcome != call.outcome:
            was = (
                f"raised {shown(call.outcome, _MOST_SHOWN)}"
                if isinstance(call.outcome, str)
                else "answered something else"
            )
            difference = f"{call} {shown(said, _MOST_SHOWN)}; when it was recorded, it {was}"
            raise DivergenceError(self._path, number, call.offset, difference)

    def _target(self, call: Call) -> object:
        """Return the object that was called, None when there is none."""
        if not call.domid:
            machine = self._machine
            return {"Machine": machine, "Heap": machine.heap, "Arena": machine.arena}.get(call.target)
        domain = self._machine.domains.get(call.domid)
        if domain is None:
            return None
        if call.target == "LinearMapping":
            return domain.p2m.linear
        parts = {"Domain": domain, "P2M": domain.p2m, "MemoryOperations": domain.memory, "WriteDoor": domain.door}
        return parts.get(call.target)

    def _bound(self, method: Any, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Return arguments by name, defaults too; None when they do not fit, so that the call will fail."""
        key = method.__func__
        if key not in self._signatures:
            self._signatures[key] = inspect.signature(method)
        try:
            bound = self._signatures[key].bind(*args, **kwargs)
        except TypeError:
            return None
        bound.apply_defaults()
        return bound.arguments

    def _refused(self, call: Call, problem: str) -> FormatError:
        return FormatError(self._path, f"calls {call} at offset {call.offset:#x}: {problem}")


def _with_scripts(call: Call, scripts: list["_Script"]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call with a script for each function that was passed."""
    args = [scripts[each.number] if isinstance(each, Callback) else each for each in call.args]
    kwargs = {name: scripts[each.number] if isinstance(each, Callback) else each for name, each in call.kwargs.items()}
    return args, kwargs


class _ScriptRaised(Exception):  # noqa: N818  no failure of ours: a function that was passed raised here
    """Raised where the function that was passed did."""


class _ScriptEndedError(Exception):
    """The function is called more often than when the call was recorded."""


class _Script:
    """Stands for a function that was passed: returns what it returned, call after call."""

    def __init__(self, answers: tuple[tuple[Any, int], ...]) -> None:
        self._answers = iter(answers)
        self._answer: Any = None
        self._left = 0

    def __call__(self, *_: object, **__: object) -> Any:
        if not self._left:
            said = next(self._answers, None)
            if said is None:
                raise _ScriptEndedError
            self._answer, self._left = said
            if not self._left:
                raise _ScriptRaised
        self._left -= 1
        return self._answer
