"""Miss curves: how often a TLB of each size would miss on a trace, all sizes in one pass.

A structure here holds pages of one size in sets of ways with true LRU: a TLB without the rest of an MMU. One pass
counts the misses of every number of ways at once; fully associative, of every number of entries. Left out: what makes
the page size in a real TLB vary by address, which `simulate` has.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from twofold import kernels
from twofold.errors import SizeError
from twofold.formats.arrays import as_word
from twofold.formats.engine import Engine
from twofold.formats.operands import Uses
from twofold.formats.sweep_state import LANES
from twofold.guest.addresses import Gvas, TraceLike, blocks_of
from twofold.units import FRAME_SHIFT, Order, order_name, parse_order

if TYPE_CHECKING:
    import polars as pl

VERSION: Final = 1
FULL_ENTRIES: Final = 1 << 16  # counted of a fully associative structure unless asked otherwise
MAX_ENTRIES: Final = 1 << 22  # sets * ways: some 320 MiB for one set of them
_LINE_BYTES: Final = 64


@dataclass(frozen=True)
class Curve:
    """The misses of one kind of structure on a trace, by its size.

    Parameters
    ----------
    page_size : of the pages that it holds, "4K", "2M" or "1G"
    sets : 1 for a fully associative structure, whose ways are its entries
    misses : misses[w] are those of w ways; misses[0] are all accesses
    """

    page_size: str
    sets: int
    misses: tuple[int, ...]

    @property
    def accesses(self) -> int:
        """Accesses counted."""
        return self.misses[0]

    @property
    def ways(self) -> int:
        """The most ways counted."""
        return len(self.misses) - 1

    def misses_per_1000(self, ways: int) -> float:
        """Return the misses of a structure of so many ways, in a thousand accesses."""
        if not 0 <= ways <= self.ways:
            raise SizeError(str(ways), f"is no number of ways of this curve: it has 0 to {self.ways}")
        return 1000 * self.misses[ways] / self.accesses if self.accesses else 0.0

    def points(self) -> tuple["CurvePoint", ...]:
        """Return the curve as people read it: every number of ways up to 16, then powers of two, and the last."""
        powers = [1 << bit for bit in range(5, self.ways.bit_length())]
        chosen = sorted({*range(1, min(self.ways, LANES) + 1), *powers, self.ways})
        return tuple(
            CurvePoint(self.page_size, self.sets, ways, self.sets * ways, self.misses[ways], self.misses_per_1000(ways))
            for ways in chosen
        )


@dataclass(frozen=True)
class CurvePoint:
    """One size of a structure, and its misses."""

    page_size: str
    sets: int
    ways: int
    entries: int
    misses: int
    misses_per_1000: float


def curve(trace: TraceLike, page_size: str = "4K", sets: int = 1, ways: int | None = None, *, warmup: int = 0) -> Curve:
    """Return the misses of a structure for every number of ways, in one pass over a trace.

    Parameters
    ----------
    trace : gvas in order, one array or an iterable of arrays that follow each other; what `run` recorded; a `Trace`; or
        the path of a trace file of any format, which is read as a stream. Of the last two, loads and stores count
    page_size : of the pages that the structure holds, "4K", "2M" or "1G"
    sets : the set of a page is its number modulo this; 1: fully associative
    ways : the most to count; None: 16, or 65536 entries of a fully associative structure
    warmup : so many first accesses fill the structure without being counted [accesses]

    Raises
    ------
    SizeError : no such page size, or a number of sets or ways that cannot be
    FormatError : the file is no trace, not whole, or does not match its checksums
    """
    (found,) = curves(trace, (page_size,), (sets,), ways, warmup=warmup)
    return found


def curves(
    trace: TraceLike,
    page_sizes: Sequence[str] = ("4K",),
    sets: Sequence[int] = (1,),
    ways: int | None = None,
    *,
    warmup: int = 0,
    engine: Engine = kernels,
) -> tuple[Curve, ...]:
    """Return a curve for each page size and number of sets, all in one pass over a trace; see `curve`.

    engine : the package that counts, `kernels` or its readable twin
    """
    if warmup < 0:
        raise SizeError(str(warmup), "is no number of accesses to warm up with")
    chosen = [(parse_order(size), number) for size in page_sizes for number in sets]
    if len(set(chosen)) < len(chosen):
        raise SizeError(",".join(page_sizes), f"with sets {','.join(map(str, sets))} lists a structure twice")
    structures = [_structure(order, number, ways, engine) for order, number in chosen]
    for block in blocks_of(trace):
        cold = min(warmup, len(block))
        warmup -= cold
        for structure in structures:
            structure.count(block[:cold])
            if cold:
                structure.forget_counts()
            structure.count(block[cold:])
    return tuple(structure.curve() for structure in structures)


def curves_json(found: Iterable[Curve]) -> str:
    """Return curves as JSON, every number of ways; `version` changes when a field does."""
    rows = [{"page_size": each.page_size, "sets": each.sets, "misses": each.misses} for each in found]
    return json.dumps({"version": VERSION, "curves": rows}) + "\n"


def curves_frame(found: Iterable[Curve]) -> "pl.DataFrame":
    """Return the points of curves as a Polars frame."""
    import polars as pl  # noqa: PLC0415  takes a while to load, and a table on the terminal needs none of it

    return pl.DataFrame([vars(point) for each in found for point in each.points()])


class _Structure(Protocol):
    """What counts one curve."""

    def count(self, gvas: Gvas) -> None:
        """Take accesses, in order."""

    def forget_counts(self) -> None:
        """Count from zero again, with what the structure holds."""

    def curve(self) -> Curve:
        """Return what was counted."""


def _structure(order: Order, sets: int, ways: int | None, engine: Engine) -> _Structure:
    """Return what counts the curve of one page size and number of sets."""
    if ways is None:
        ways = FULL_ENTRIES if sets == 1 else LANES
    if sets < 1 or ways < 1 or sets * max(ways, LANES) > MAX_ENTRIES:
        raise SizeError(f"{sets} x {ways}", f"is no structure: sets times ways, 1 to {MAX_ENTRIES} entries")
    if sets == 1 and ways > LANES:
        return _Full(order, ways, engine)
    return _Sets(order, sets, ways, engine)


class _Sets:
    """Stacks of a few ways: 16 with tags of 32 bits, until an address needs more, or any number with 64."""

    def __init__(self, order: Order, sets: int, ways: int, engine: Engine) -> None:
        self._order, self._sets, self._ways = order, sets, ways
        self._engine = engine.sweep
        self._shift = as_word(FRAME_SHIFT + order)
        self._narrow: npt.NDArray[np.uint32] | None = _aligned_rows(sets) if ways <= LANES else None
        self._wide = np.zeros((0 if ways <= LANES else sets, ways), np.uint64)
        self._misses = np.zeros(max(ways, LANES) + 1, np.uint64)

    def count(self, gvas: Gvas) -> None:
        """Take accesses, in order."""
        if self._narrow is not None:
            counted = self._engine.count_sixteen_ways(gvas, self._shift, self._narrow, self._misses)
            if counted == len(gvas):
                return
            gvas = gvas[counted:]
            self._wide, self._narrow = self._narrow.astype(np.uint64), None
        self._engine.count_ways(gvas, self._shift, self._wide, self._misses)

    def forget_counts(self) -> None:
        """Count from zero again, with what the sets hold."""
        self._misses[:] = 0

    def curve(self) -> Curve:
        """Return what was counted."""
        return Curve(order_name(self._order), self._sets, tuple(self._misses[: self._ways + 1].tolist()))


class _Full:
    """One set of many entries, by the distances between uses of a page."""

    def __init__(self, order: Order, entries: int, engine: Engine) -> None:
        self._order = order
        self._engine = engine.sweep
        self._shift = as_word(FRAME_SHIFT + order)
        times = 1 << (2 * entries - 1).bit_length()  # renumbering comes once in `entries` accesses at most
        self._uses = Uses.none(times)
        self._histogram = np.zeros(entries + 1, np.uint64)

    def count(self, gvas: Gvas) -> None:
        """Take accesses, in order."""
        self._engine.count_distances(gvas, self._shift, self._uses, self._histogram)

    def forget_counts(self) -> None:
        """Count from zero again, with what the set holds."""
        self._histogram[:] = 0

    def curve(self) -> Curve:
        """Return what was counted: n entries miss what was n or more pages back."""
        misses = np.cumsum(self._histogram[::-1])[::-1]
        return Curve(order_name(self._order), 1, tuple(misses.tolist()))


def _aligned_rows(rows: int) -> npt.NDArray[np.uint32]:
    """Return zeroed rows of 16 words, each one cache line: one that crosses lines costs a third more."""
    words = np.zeros((rows + 1) * LANES, np.uint32)
    first = -words.ctypes.data % _LINE_BYTES // words.itemsize
    return words[first : first + rows * LANES].reshape(rows, LANES)
