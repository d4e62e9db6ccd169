"""The answer of a comparison, as figures: which designs built the same tables, what they gave, what that gained.

The report words it (`report.headline`) and computes nothing. Figures are medians over the host states, with ranges.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from twofold.domain import SmallDesign
from twofold.study.outcome import Outcome, Spread
from twofold.study.row import LEAF_ORDERS, Key, columns, leaf_column, variant_name


@dataclass(frozen=True)
class Best:
    """A speed-up, and where it was found."""

    factor: float
    workload: str
    cpu: str


@dataclass(frozen=True)
class Gain:
    """The least and the greatest speed-up with one guest page size, over programs and CPUs."""

    guest_pages: str
    least: Best
    greatest: Best


@dataclass(frozen=True)
class Alike:
    """Variants that built the same tables on every host state, and what came of it.

    Parameters
    ----------
    names : the variants, without the mode
    share : of the guest in large leaves
    leaves : {order: leaves}, of the large ones that there are, the largest first
    gains : by guest page size; empty where there is nothing to compare with
    is_small : whether they are all `small`
    asks_alike : whether Huang's and Byrne's designs are among them, under one behaviour
    """

    names: tuple[str, ...]
    share: Spread
    leaves: dict[int, Spread]
    gains: tuple[Gain, ...]
    is_small: bool
    asks_alike: bool


@dataclass(frozen=True)
class ModeAnswer:
    """What was found in one mode.

    Parameters
    ----------
    mode, page_sizes : its name, and what P2M leaves may be
    groups : those that give the most large pages first; `small` only where it is all there is
    is_against_4k : whether what all is measured against has 4K leaves alone
    """

    mode: str
    page_sizes: str
    groups: tuple[Alike, ...]
    is_against_4k: bool


@dataclass(frozen=True)
class Answer:
    """What a comparison answers.

    Parameters
    ----------
    guest_bytes : memory of the guest
    states : host states tried
    cpus, workloads : how many
    modes : what was found in each
    is_of_trace : whether a trace was priced, whose gain is of translation alone
    """

    guest_bytes: int
    states: int
    cpus: int
    workloads: int
    modes: tuple[ModeAnswer, ...]
    is_of_trace: bool = False


def answer_of(outcome: Outcome) -> Answer:
    """Return what a comparison answers."""
    scenario = outcome.scenario
    return Answer(
        guest_bytes=outcome.guest_bytes,
        states=len(scenario.seeds),
        cpus=len(scenario.cpus),
        workloads=len(scenario.programs),
        modes=tuple(
            ModeAnswer(mode.name, mode.sizes(), tuple(_groups(outcome, mode.name)), _is_against_4k(outcome, mode.name))
            for mode in scenario.full_modes
        ),
        is_of_trace=scenario.trace is not None,
    )


def _is_against_4k(outcome: Outcome, mode: str) -> bool:
    """Return whether no leaf of `small` is large: an exact range may be."""
    base = variant_name(SmallDesign.name, outcome.scenario.behaviours[0], mode)
    spreads = (outcome.spread(cell, "large_share") for cell in outcome.cells() if cell.variant == base)
    return not any(spread and spread[2] for spread in spreads)


def _groups(outcome: Outcome, mode: str) -> Iterator[Alike]:
    """Yield what was built in a mode, the same tables together; the 4K that all is measured against goes unsaid."""
    groups: dict[tuple[str, ...], list[Key]] = {}
    for cell in outcome.cells():
        if outcome.texts(cell, "mode")[0] == mode:
            groups.setdefault(outcome.texts(cell, "tables_digest"), []).append(cell)
    found = [_alike(outcome, cells) for cells in groups.values()]
    others = [each for each in found if not each.is_small]
    yield from sorted(others or found, key=lambda each: -each.share[0])


def _alike(outcome: Outcome, cells: list[Key]) -> Alike:
    built = dict.fromkeys((outcome.texts(cell, "design")[0], outcome.texts(cell, "behaviour")[0]) for cell in cells)
    asking = [behaviour for design, behaviour in built if design in {"toolstack", "opportunistic"}]
    spreads = {order: outcome.spread(cells[0], leaf_column(order)) for order in reversed(LEAF_ORDERS) if order}
    return Alike(
        names=tuple(variant_name(design, behaviour) for design, behaviour in built),
        share=outcome.spread(cells[0], "large_share") or (0.0, 0.0, 0.0),
        leaves={order: spread for order, spread in spreads.items() if spread and spread[2]},
        gains=tuple(_gains(outcome, cells)),
        is_small=all(design == SmallDesign.name for design, _ in built),
        asks_alike=any(asking.count(behaviour) == 2 for behaviour in asking),
    )


def _gains(outcome: Outcome, cells: list[Key]) -> Iterator[Gain]:
    """Yield the gains of variants that built the same, by guest page size as the scenario lists them."""
    for pages in outcome.scenario.guest_pages:
        spreads = {cell: outcome.spread(cell, "speedup") for cell in cells if cell.guest_pages == pages}
        known = [Best(spread[0], cell.workload, cell.cpu) for cell, spread in spreads.items() if spread]
        if known:
            yield Gain(pages, min(known, key=lambda each: each.factor), max(known, key=lambda each: each.factor))


def shared_rows(outcome: Outcome) -> list[tuple[Key, ...]]:
    """Return the cells of a comparison, those together that differ in the design's name alone.

    Their tables are the same on every host state, and so is every figure of what those cost.
    """
    priced = [name for name, column in columns().items() if column.group == "priced"]

    def place(cell: Key) -> tuple[object, ...]:
        return (*cell[:3], outcome.texts(cell, "mode")[0])

    def same(cell: Key) -> tuple[object, ...]:
        return (outcome.texts(cell, "tables_digest"), *(outcome.texts(cell, name) for name in priced))

    shared: list[tuple[Key, ...]] = []
    for _, cells in groupby(outcome.cells(), key=place):
        groups: dict[tuple[object, ...], list[Key]] = {}
        for cell in cells:
            groups.setdefault(same(cell), []).append(cell)
        shared += map(tuple, groups.values())
    return shared


@dataclass(frozen=True)
class Impossible:
    """What a guest cannot have, and why.

    guest_pages : the size
    variants : where; empty for everywhere
    """

    guest_pages: str
    variants: tuple[str, ...]
    reason: str


def impossible(outcome: Outcome) -> list[Impossible]:
    """Return what cells are not available, those of one reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    everywhere: dict[str, set[str]] = {}
    for cell in outcome.cells():
        everywhere.setdefault(cell.guest_pages, set()).add(cell.variant)
        for reason in filter(None, outcome.texts(cell, "not_available")):
            reasons.setdefault((cell.guest_pages, reason), []).append(cell.variant)
    return [
        Impossible(pages, () if set(found) == everywhere[pages] else tuple(dict.fromkeys(found)), reason)
        for (pages, reason), found in reasons.items()
    ]
