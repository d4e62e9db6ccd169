"""The answer of miss curves, as figures: what a TLB of a usual size misses, and how large one has to be to miss little.

The report words it (`report.curve_words`) and computes nothing.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twofold.study.curve import Curve

USUAL_ENTRIES: Final = 1536  # 4K and 2M pages in the second level of Skylake: the profile has the source
LITTLE: Final = 0.001  # of the accesses that count


@dataclass(frozen=True)
class PageSizeAnswer:
    """What was found for one page size.

    Parameters
    ----------
    misses : of all accesses that count, in a structure of `CurveAnswer.entries`
    needed : the fewest entries with which at most `LITTLE` of them miss; None: more than were counted
    """

    page_size: str
    misses: float
    needed: int | None


@dataclass(frozen=True)
class CurveAnswer:
    """What curves of structures with equally many sets answer.

    Parameters
    ----------
    sets, entries : of the structure whose misses are told: the largest that was counted of at most `USUAL_ENTRIES`, or
        the smallest where all are larger
    most : entries of the largest structure that was counted
    accesses : that count
    page_sizes : in the order of the curves
    """

    sets: int
    entries: int
    most: int
    accesses: int
    page_sizes: tuple[PageSizeAnswer, ...]


def curve_answers(curves: Sequence[Curve]) -> list[CurveAnswer]:
    """Return what curves answer, those of the same structures and accesses together, in their order."""
    groups: dict[tuple[int, int, int], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.sets, curve.ways, curve.accesses), []).append(curve)
    return [
        CurveAnswer(
            sets=sets,
            entries=sets * _usual_ways(sets, ways),
            most=sets * ways,
            accesses=accesses,
            page_sizes=tuple(_answer(curve) for curve in found),
        )
        for (sets, ways, accesses), found in groups.items()
    ]


def _usual_ways(sets: int, ways: int) -> int:
    return min(max(USUAL_ENTRIES // sets, 1), ways)


def _answer(curve: Curve) -> PageSizeAnswer:
    """Return what one curve answers; more ways never miss more, so the fewest are found by halving."""
    enough = bisect_left(range(1, curve.ways + 1), -1000 * LITTLE, key=lambda ways: -curve.misses_per_1000(ways))
    return PageSizeAnswer(
        page_size=curve.page_size,
        misses=curve.misses_per_1000(_usual_ways(curve.sets, curve.ways)) / 1000,
        needed=curve.sets * (enough + 1) if enough < curve.ways else None,
    )
