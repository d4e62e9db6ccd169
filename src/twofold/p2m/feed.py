"""The change feed of a P2M: what changed, told in order, and the flush after it with the ranges that it covers.

    kernel call    ->  Change   what is there now, and on demand what was there before
    kernel call    ->  Change
    flush          ->  Flush    the ranges of every present entry that was replaced
    tables are used again; then whoever called frees frames

A listener sees the tables as they are after the change, and nothing of them or of the frames has been used again. It
may change nothing of the machine. What it raises stops nothing: the others are told, the flush is done, tables are
released, the operation that made the change comes to its end; then it is raised, out of that operation.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from twofold.machine.gate import Gate
from twofold.machine.journal import cannot_repeat
from twofold.p2m.ranges import Ranges, apart, common, joined
from twofold.units import INVALID_MFN

Array = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.uint8]
Truths = npt.NDArray[np.bool_]


class ChangeKind(StrEnum):
    """What a change of a P2M is."""

    SET = "set"
    UNMAP = "unmap"
    SPLIT = "split"
    MERGE = "merge"
    MOVE = "move"
    TYPE = "type"


class LeafRuns(NamedTuple):
    """Runs of leaves: those of a run have one order, type and access, and follow each other in gfns and mfns.

    gfns, mfns, frames : where each begins, and all its frames together; an entry that holds a place has INVALID_MFN
    orders, types, accesses : of its leaves, as numbers (those of `P2M.leaf_array`)
    """

    gfns: Array
    mfns: Array
    frames: Array
    orders: Marks
    types: Marks
    accesses: Marks

    @property
    def ranges(self) -> Ranges:
        """Where they are."""
        return Ranges(self.gfns, self.frames)

    @property
    def present(self) -> Truths:
        """Which of them map something."""
        present: Truths = self.mfns != np.uint64(INVALID_MFN)
        return present

    def within(self, ranges: Ranges) -> Self:
        """Return the parts that lie in ranges which are apart."""
        mine, _, part = common(self.ranges, ranges)
        moved = np.where(self.present[mine], part.gfns - self.gfns[mine], np.uint64(0))
        rest = (column[mine] for column in (self.orders, self.types, self.accesses))
        return type(self)(part.gfns, self.mfns[mine] + moved, part.frames, *rest)

    def and_(self, other: "LeafRuns") -> Self:
        """Return these and others."""
        words = (np.concatenate([self[column], other[column]]) for column in range(3))
        marks = (np.concatenate([self[column], other[column]]) for column in range(3, 6))
        return type(self)(*words, *marks)


class Change(NamedTuple):
    """What one call of a kernel did to the tables.

    gfns, frames : the runs that changed, whole leaves where one was cut; none twice
    same : which of them translate as they did, in leaves of another size: what is split or merged, and what is left of
        a leaf out of which something was cut
    after : what stands in the runs now; where it says nothing there is a hole
    before : what stood there; None unless somebody asked for it
    """

    kind: ChangeKind
    gfns: Array
    frames: Array
    same: Truths
    after: LeafRuns
    before: LeafRuns | None

    @property
    def changes_translation(self) -> bool:
        """Whether a translation, or what it allows, is another one now."""
        return not self.same.all()


class Flush(NamedTuple):
    """What a flush covers: translations of these ranges are dropped, and cached entries of tables on their paths.

    gfns, frames : the ranges, ascending and apart
    """

    gfns: Array
    frames: Array


News = TypeVar("News", Change, Flush)
ChangeListener = Callable[[Change], object]
FlushListener = Callable[[Flush], object]


class ChangeFeed:
    """Who listens to one P2M, and what is still to be told.

    is_watched : whether anybody listens
    wants_changes, wants_before, wants_ranges : what those who listen want to hear
    failures : what listeners have raised since the P2M was last settled
    """

    def __init__(self, gate: Gate) -> None:
        self._gate, self._machine = gate, gate.machine
        self._told = f"a listener of the P2M of {gate.name}"
        # Tuples: who is told stays the same while all are told, whoever takes himself off.
        self._changes: tuple[ChangeListener, ...] = ()
        self._wants_before: tuple[bool, ...] = ()  # of each of them
        self._flushes: tuple[FlushListener, ...] = ()
        self._ranges: list[Ranges] = []
        self.failures: list[BaseException] = []
        self._held = threading.Lock()  # a lock, so that nothing can come between it and its release
        self._sum_up()

    def _sum_up(self) -> None:
        self.wants_changes = bool(self._changes)
        self.wants_before = any(self._wants_before)
        self.wants_ranges = bool(self._flushes)
        self.is_watched = self.wants_changes or self.wants_ranges

    def on_change(self, listener: ChangeListener, *, before: bool) -> None:
        """Tell `listener` each change."""
        self._changes += (listener,)
        self._wants_before += (before,)
        self._sum_up()

    def off_change(self, listener: ChangeListener) -> None:
        """Stop telling it."""
        place = self._changes.index(listener)
        self._changes = self._changes[:place] + self._changes[place + 1 :]
        self._wants_before = self._wants_before[:place] + self._wants_before[place + 1 :]
        self._sum_up()

    def on_flush(self, listener: FlushListener) -> None:
        """Tell `listener` each flush."""
        self._flushes += (listener,)
        self._sum_up()

    def off_flush(self, listener: FlushListener) -> None:
        """Stop telling it."""
        place = self._flushes.index(listener)
        self._flushes = self._flushes[:place] + self._flushes[place + 1 :]
        self._sum_up()

    def tell(self, change: Change) -> None:
        """Tell a change to all who listen."""
        self._tell_all(self._changes, change)

    def owe(self, ranges: Ranges) -> None:
        """Let the next flush cover ranges."""
        self._ranges.append(ranges)

    def flush(self) -> None:
        """Tell the flush of all that is owed."""
        if self._flushes:
            flush = Flush(*apart(joined(self._ranges)))
            self._ranges.clear()
            self._tell_all(self._flushes, flush)

    def _tell_all(self, listeners: tuple[Callable[[News], object], ...], news: News) -> None:
        """Tell something to listeners: as `Gate.call`, in place, since it is done at each change."""
        gate, machine = self._gate, self._machine
        machine.told, machine.is_hushed = self._told, True
        with gate.calling: self._tell_each(listeners, news)  # fmt: skip  # noqa: E701
        machine.is_hushed = gate.building.locked()
        if not machine.is_open:
            gate.check_here()

    def _tell_each(self, listeners: tuple[Callable[[News], object], ...], news: News) -> None:
        for listener in listeners:
            try:
                listener(news)
            except BaseException as failure:  # noqa: BLE001  raised when the P2M is settled
                cannot_repeat(failure)
                self.failures.append(failure)

    def settled(self) -> None:
        """Raise what listeners have raised, now that the P2M is settled."""
        if not self.failures or self._held.locked():
            return
        failures, self.failures = self.failures, []
        for other in failures[1:]:
            failures[0].add_note(f"and another listener raised {type(other).__name__}: {other}")
        raise failures[0]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raise what listeners raise only at the end: what is done in between belongs together."""
        if self._held.locked():
            yield
            return
        try:
            with self._held: yield  # fmt: skip  # noqa: E701  see `gate.hold`
        except BaseException as error:
            for other in self.failures:
                error.add_note(f"and a listener raised {type(other).__name__}: {other}")
            self.failures.clear()
            raise
        self.settled()
