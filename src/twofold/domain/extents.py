"""The words of memory operations: flags, callers, what an operation answers, and runs of extents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, UnknownNameError
from twofold.units import ORDER_1G, ORDER_2M, Order

Array = npt.NDArray[np.uint64]

# The largest extent that each class of caller may ask for, as Xen's memop-max-order has it: the control domain, the
# hardware domain, a guest with a device of its own, any other guest.
# Source: Xen 4.17 xen/common/memory.c (defaults of CONFIG_CTLDOM_MAX_ORDER and its kin).
_ORDER_16M: Final = Order(12)
ORDER_LIMITS: Final = {"toolstack": ORDER_1G, "hardware": _ORDER_16M, "passthrough": _ORDER_16M, "guest": ORDER_2M}


class Mem(IntFlag):
    """How populate_physmap treats the order that it is given."""

    NONE = 0
    FALLBACK = 1  # an extent that cannot be had at its order is made of smaller ones, 4K last (Huang)
    EXACT = 2  # this order and no other: never enlarged, never falling back
    COALESCE = 4  # aligned runs among the gfns are allocated as large as they go (Byrne)
    NEAR = 8  # smaller extents on the node asked for, before larger ones of another node


class Reason(StrEnum):
    """Why a memory operation stopped before its last extent; empty when it did not."""

    NONE = ""
    NO_MEMORY = "no free block of that order"
    NO_TABLES = "the table pool is empty"
    OCCUPIED = "a gfn is populated already"
    UNPOPULATED = "a gfn is not populated"
    QUOTA = "the domain's max_pages is reached"
    ORDER_LIMIT = "the caller may not ask for that order"
    BEYOND = "a gfn is beyond the P2M"
    UNENCODABLE = "a frame lies beyond what an entry of the table format can hold"
    NOT_OWN = "a gfn maps what is not the domain's own plain memory"
    BAD_SPACE = "nothing of that space can be added to a guest's memory"
    BAD_INDEX = "the space has no page of that index"
    NO_TYPE = "the table format has no entry of that type"
    UNEQUAL = "what is given and what is taken differ in size"
    BAD_CLAIM = "a claim is made once, for more than the domain owns and no more than max_pages"
    ALIASED = "a frame backs another gfn than the one that names it"
    NOT_FOREIGN = "what is to be mapped is no plain memory of another domain"
    NO_POD = "memory that is populated on demand is not built"
    PREEMPTED = "something more urgent is to be done; go on where it stopped"
    DYING = "the domain is being destroyed"
    NOT_EXACT = "no leaf can have the exact order: misaligned, switched off, or no order of the format"


@dataclass(frozen=True)
class Extents:
    """How far a memory operation came: `done` of `asked` extents are complete, and why it stopped."""

    done: int
    asked: int
    reason: Reason

    @classmethod
    def of_one(cls, reason: Reason) -> "Extents":
        """Return the answer of an operation on a single frame: done, or why not."""
        return cls(int(not reason), 1, reason)

    @property
    def complete(self) -> bool:
        """Whether every extent is done."""
        return self.done == self.asked


class Run(NamedTuple):
    """`extents` extents of one order, each starting where the one before ends."""

    gfn: int
    extents: int


def order_limit(caller: str) -> int:
    """Return the largest order that a class of caller may ask for."""
    if caller not in ORDER_LIMITS:
        raise UnknownNameError("caller", caller, tuple(ORDER_LIMITS))
    return ORDER_LIMITS[caller]


def check_order(order: int) -> None:
    """Raise AddressError for an order that no extent can have."""
    if order < 0:
        raise AddressError("order", order, "is negative")


def check_start(start: int, asked: int) -> None:
    """Raise AddressError for a place to go on at that no operation can have stopped at."""
    if not 0 <= start <= asked:
        raise AddressError("start", start, f"is not one of 0 to {asked}")


def runs_of(gfns: Sequence[int] | Array, order: int) -> list[Run]:
    """Return first gfns of extents as runs, in the order given. A `range` costs nothing, whatever its length."""
    step = 1 << order
    if isinstance(gfns, range) and (gfns.step == step or len(gfns) < 2):
        runs = [Run(gfns.start, len(gfns))] if gfns else []
    else:
        runs = _runs_of_array(np.asarray(gfns), step)
    for run in runs:
        if run.gfn < 0:
            raise AddressError("gfn", run.gfn, "is negative")
    return runs


def _runs_of_array(gfns: npt.NDArray[np.integer], step: int) -> list[Run]:
    if not gfns.size:
        return []
    breaks = np.flatnonzero(np.diff(gfns.astype(np.int64)) != step) + 1
    starts = np.concatenate(([0], breaks))
    lengths = np.diff(np.append(starts, gfns.size))
    return [Run(gfn, length) for gfn, length in zip(gfns[starts].tolist(), lengths.tolist(), strict=True)]


def all_frames(gfns: Sequence[int], order: int) -> Array:
    """Return the gfns of all frames of extents, ascending."""
    firsts: Array = np.array(sorted(gfns), np.uint64)
    inside: Array = np.arange(1 << order, dtype=np.uint64)
    return np.add.outer(firsts, inside).reshape(-1)


def all_extents(mfns: Array, counts: Array, order: int) -> Array:
    """Return the first frame of each extent of runs of `counts` extents each."""
    repeats = counts.astype(np.int64)
    inside = np.arange(int(repeats.sum())) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return np.repeat(mfns, repeats) + (inside.astype(np.uint64) << np.uint64(order))


def aligned_run(gfn: int, frames: int, orders: Sequence[Order]) -> tuple[Order, int]:
    """Return (order, extents) of the first run of equal, naturally aligned extents of a range.

    It ends where a larger extent can start.

    Parameters
    ----------
    orders : what may be used, ascending, 0 first
    """
    order = max(each for each in orders if not gfn & ((1 << each) - 1) and frames >> each)
    for larger in orders[orders.index(order) + 1 :]:
        boundary = -gfn & ((1 << larger) - 1)
        if (frames - boundary) >> larger > 0:
            return order, boundary >> order
    return order, frames >> order


@dataclass(frozen=True)
class Pieces:
    """Allocated memory, ready to be mapped: parallel arrays, one row a contiguous run of equal extents.

    gfns, mfns, frames : uint64[n];  orders : int64[n], the order at which each run was allocated
    """

    gfns: Array
    mfns: Array
    frames: Array
    orders: npt.NDArray[np.int64]

    @classmethod
    def of_one(cls, gfn: int, mfn: int, frames: int, order: int) -> "Pieces":
        """Return one contiguous piece."""
        gfns, mfns, lengths = (np.array([number], np.uint64) for number in (gfn, mfn, frames))
        return cls(gfns, mfns, lengths, np.array([order], np.int64))

    @classmethod
    def joined(cls, parts: list["Pieces"]) -> "Pieces":
        """Return several lists of pieces as one."""
        return cls(
            np.concatenate([part.gfns for part in parts]),
            np.concatenate([part.mfns for part in parts]),
            np.concatenate([part.frames for part in parts]),
            np.concatenate([part.orders for part in parts]),
        )

    @property
    def total_frames(self) -> int:
        """Frames of all pieces together."""
        return int(self.frames.sum())

    def cut(self, frames: int) -> tuple["Pieces", "Pieces"]:
        """Return the first `frames` frames, and the rest."""
        if frames == self.total_frames:  # as it mostly is: nothing has to be computed
            return self, Pieces(self.gfns[:0], self.mfns[:0], self.frames[:0], self.orders[:0])
        ends = np.cumsum(self.frames).astype(np.int64)
        starts = ends - self.frames.astype(np.int64)
        kept = np.clip(frames - starts, 0, self.frames.astype(np.int64)).astype(np.uint64)
        rest = self.frames - kept
        head, tail = kept > 0, rest > 0
        return (
            Pieces(self.gfns[head], self.mfns[head], kept[head], self.orders[head]),
            Pieces((self.gfns + kept)[tail], (self.mfns + kept)[tail], rest[tail], self.orders[tail]),
        )

    def parts(self, orders: Sequence[Order], table_order: int) -> Iterator["Pieces"]:
        """Yield the leaves of these orders that the pieces make, 4K ones a table of them (2**table_order) at a time."""
        columns = self.gfns, self.mfns, self.frames, self.orders
        for gfn, mfn, frames, order in zip(*(column.tolist() for column in columns), strict=True):
            large = [leaf for leaf in orders if leaf <= order and not (gfn | mfn | frames) & ((1 << leaf) - 1)]
            step = 1 << max(*large, table_order)
            here = gfn
            while here < gfn + frames:
                end = min(gfn + frames, (here // step + 1) * step)
                yield Pieces.of_one(here, mfn + here - gfn, end - here, order)
                here = end
